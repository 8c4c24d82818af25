"""Each field of Azure's models is read or refused by path, for each api-version.

A test of test_api_fields.py sends the newest api-version to a server. This module covers the older api-versions, with
the last azure-mgmt-compute that contains several models.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any, Final

import pytest

from imgstore.domain.errors import InvalidInput
from imgstore.testing.azure_clients import LOCKS
from imgstore.testing.pytest_plugin import require
from imgstore.wire.api_versions import Kind
from imgstore.wire.provider_types import versions_of
from imgstore.wire.requests.body_fields import FIELDS, AllowedValues, FieldUse, read_known_fields

AZURES: Final = {
    "properties.completionPercent": "only Azure reports the progress of a copy; imgstore copies immediately",
    "properties.copyCompletionError": "only Azure reports errors of a copy",
    "properties.creationData.sourceUniqueId": "only Azure reports the id of the source",
}
"""Read-only fields that a client could write according to the models."""


@pytest.fixture(scope="module")
def models() -> dict[str, dict[str, dict[str, list[str]]]]:
    """Return the fields that a client writes, by type, api-version and verb."""
    python = require("azure-models").command
    done = subprocess.run(
        [python, str(LOCKS / "model_fields_by_version.py")], capture_output=True, text=True, check=True
    )
    found: dict[str, dict[str, dict[str, list[str]]]] = json.loads(done.stdout)
    return found


def fields(kind: Kind, versions: dict[str, dict[str, list[str]]]) -> Iterator[tuple[str, str]]:
    """Yield each api-version of a type with each field, without duplicates."""
    for version, verbs in versions.items():
        if version >= versions_of(kind)[-1][:10]:
            yield from ((version, leaf) for leaf in sorted({leaf for leaves in verbs.values() for leaf in leaves}))


def body_at(leaf: str, value: Any) -> Any:
    for step in reversed(re.findall(r"[^.\[\]]+|\[\]", leaf)):
        value = [value] if step == "[]" else {"n" if step == "*" else step: value}
    return value


def treatment_of(kind: Kind, leaf: str) -> Any:
    """Return the treatment of a field, or of its parent, in the table."""
    path = leaf.replace("[]", "")
    for name, treatment in FIELDS[kind].items():
        if path == name or path.startswith(f"{name}."):
            return treatment
    return None


@pytest.mark.engine("azure-models")
@pytest.mark.parametrize(
    "kind", [kind for kind in Kind if kind in FIELDS and kind not in (Kind.GROUP, Kind.DEPLOYMENT)]
)
def test_no_field_of_an_older_model_is_dropped(kind: Kind, models: dict[str, dict[str, dict[str, list[str]]]]) -> None:
    dropped, refused, elsewhere = [], [], []
    for version, leaf in fields(kind, models[kind]):
        body, treatment = body_at(leaf, "value1"), treatment_of(kind, leaf)
        try:
            kept = read_known_fields(body, kind, version) == body
        except InvalidInput as error:
            target = re.sub(r"\[\d+\]", "", error.target or "no path")
            if not leaf.replace("[]", "").startswith(target):
                elsewhere.append((version, leaf, target))
            if treatment is not None and not isinstance(treatment, AllowedValues):
                refused.append((version, leaf))
            continue
        excused = treatment is FieldUse.HIDDEN or any(leaf == each or leaf.startswith(f"{each}.") for each in AZURES)
        if not kept and not excused:
            dropped.append((version, leaf))
    assert (dropped, elsewhere) == ([], [])
    assert refused == [], "each api-version with the field accepts the field"
