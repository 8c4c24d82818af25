"""Each field of a body is read or refused, for all shapes, spellings and api-versions."""

from collections.abc import Iterator
from typing import Any, Final

import pytest

from imgstore.domain.errors import InvalidInput, PropertyChangeNotAllowed
from imgstore.domain.resources import DiskKind
from imgstore.wire.api_versions import SINCE, Kind
from imgstore.wire.network import NETWORK_TYPES, read_network
from imgstore.wire.provider_types import versions_of
from imgstore.wire.requests.body_fields import FIELDS, FieldUse, Request, Subject, read_known_fields
from imgstore.wire.requests.disk import read_disk_patch

SHAPES: Final[list[Any]] = ["TrustedLaunch", 7, True, 1.5, ["x"], [{"a": 1}], [None], [[]], {"a": 1}]
LISTS: Final = ("features", "targetRegions", "dataDiskImages", "dataDisks", "networkInterfaces", "groups")


def body_at(path: str, value: Any) -> Any:
    """Return a body with a value at a path. Each list has one element."""
    *above, last = path.split(".")
    value = {last: value}
    for name in reversed(above):
        value = {name: [value] if name in LISTS else value}
    return value


def parents() -> Iterator[tuple[Subject, str]]:
    """Return the paths with names below."""
    for subject, table in FIELDS.items():
        above = {path.rpartition(".")[0] for path in table}
        yield from ((subject, path) for path in sorted(above) if path)


@pytest.mark.parametrize(("subject", "path"), list(parents()))
def test_parent_of_fields_must_be_an_object_or_a_list(subject: Subject, path: str) -> None:
    is_list = path.rpartition(".")[2] in LISTS
    for shape in SHAPES:
        if isinstance(shape, list if is_list else dict):
            continue  # The readers check the elements of lists.
        with pytest.raises(InvalidInput) as raised:
            read_known_fields(body_at(path, shape), subject)
        above = [path[: place + 1] for place in range(len(path))]
        assert (raised.value.target or "").replace("[0]", "") in above


@pytest.mark.parametrize(("kind", "path"), [(kind, path) for kind, table in SINCE.items() for path in table])
def test_newer_field_is_refused_by_path(kind: Kind, path: str) -> None:
    if kind not in FIELDS:
        pytest.skip("nobody writes it")
    before = max((each for each in versions_of(kind) if each < SINCE[kind][path]), default="2018-04-01")
    treatment = FIELDS[kind].get(path)
    if treatment is FieldUse.READ_ONLY or path in ("properties.sharingStatus", "properties.validationsProfile"):
        assert read_known_fields(body_at(path, "x"), kind, before) in ({}, {"properties": {}})
        return
    with pytest.raises(InvalidInput) as raised:
        read_known_fields(body_at(path, "x"), kind, before)
    target = (raised.value.target or "").replace("[0]", "")
    assert target == path or path.startswith(f"{target}.")


@pytest.mark.parametrize("subject", list(FIELDS))
def test_unknown_or_repeated_name_is_refused(subject: Subject) -> None:
    with pytest.raises(InvalidInput) as raised:
        read_known_fields({"unheardOf": 1}, subject)
    assert raised.value.target == "unheardOf"
    name = next(path for path, treatment in FIELDS[subject].items() if treatment is FieldUse.APPLIED).partition(".")[0]
    with pytest.raises(InvalidInput) as raised:
        read_known_fields({name: None, name.upper(): None}, subject)
    assert raised.value.target == name


def test_nested_names_are_normalized_and_wildcard_names_are_kept() -> None:
    said: Any = {
        "Properties": {
            "NetworkProfile": {"NetworkInterfaces": [{"ID": "/n", "Properties": {"DeleteOption": "Delete"}}]}
        }
    }
    interfaces = [{"id": "/n", "properties": {"deleteOption": "Delete"}}]
    assert read_known_fields(said, Kind.MACHINE) == {
        "properties": {"networkProfile": {"networkInterfaces": interfaces}}
    }
    said = {"properties": {"osProfile": {"ADMINUSERNAME": "u", "linuxConfiguration": {"x": 1}}}}
    assert read_known_fields(said, Kind.MACHINE) == {
        "properties": {"osProfile": {"adminUsername": "u", "linuxConfiguration": {"x": 1}}}
    }
    with pytest.raises(InvalidInput):
        read_known_fields({"getSecureVMGuestStateSAS": True}, Request.ACCESS)


VNET: Final = NETWORK_TYPES[0]


def test_network_is_stored_in_azures_spelling() -> None:
    said = {
        "Location": "eastus",
        "TAGS": {"a": "b"},
        "Properties": {"Subnets": [{"Name": "s", "Properties": {"ProvisioningState": "Failed"}}]},
    }
    kept = read_network(said, VNET, "/n")
    assert (kept.location, kept.tags, kept.parts) == ("eastus", {"a": "b"}, ("subnets/s",))
    assert kept.body == {"properties": {"subnets": [{"name": "s", "properties": {}}]}}
    repeated: list[Any] = [{"tags": {}, "Tags": {}}, {"properties": {"x": 1, "X": 2}}]
    for twice in repeated:
        with pytest.raises(InvalidInput):
            read_network({"location": "eastus"} | twice, VNET, "/n")


def test_true_differs_from_one() -> None:
    with pytest.raises(PropertyChangeNotAllowed):
        read_disk_patch({"properties": {"diskSizeGB": True}}, DiskKind.DISK, {"properties": {"diskSizeGB": 1}})
    read_disk_patch({"properties": {"diskSizeGB": 1}}, DiskKind.DISK, {"properties": {"diskSizeGB": 1}})
