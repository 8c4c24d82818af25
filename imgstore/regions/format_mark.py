"""FORMAT: the mark that each zone bears.

A bucket of the right name may still be the wrong one: another installation's, another zone's behind a mistyped
endpoint, or of a layout that this code cannot read. So each zone says what it is, in JSON, under the key FORMAT.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

from imgstore.domain.errors import StoreMismatch
from imgstore.domain.storage.object_keys import LAYOUT_VERSION
from imgstore.domain.strict_json import read_json
from imgstore.stores.interface import StoreProperties


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatMark:
    """What a FORMAT object says."""

    installation: str
    """The installation's uid."""
    region: str
    zone: str
    layout: int = LAYOUT_VERSION
    properties: StoreProperties | None = None
    """What the store was found to promise when it was made ready."""

    def encode(self) -> bytes:
        """The object's body."""
        return json.dumps(asdict(self), indent=2).encode() + b"\n"

    @classmethod
    def decode(cls, body: bytes, *, where: str) -> "FormatMark":
        """The mark that `body` is; `where` names its store for people.

        Raises:
            StoreMismatch: it is none.
        """
        try:
            fields: dict[str, Any] = read_json(body.decode())
            told = fields.get("properties")
            return cls(
                installation=str(fields["installation"]),
                region=str(fields["region"]),
                zone=str(fields["zone"]),
                layout=int(fields["layout"]),
                properties=StoreProperties(**told) if told else None,
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StoreMismatch(
                f"The FORMAT object of {where} can't be read.",
                found=repr(bytes(body[:80])),
                expected="JSON with installation, region, zone and layout",
                hint="look whether this bucket or folder belongs to imgstore at all; name another in regions.yaml",
                target=where,
            ) from error

    def check(self, found: "FormatMark", *, where: str) -> None:
        """Refuse a zone whose mark is not this one.

        Raises:
            StoreMismatch: `found` differs in installation, region, zone or layout.
        """
        names = [name for name in ("installation", "region", "zone", "layout") if self._differs(found, name)]
        if names:
            raise StoreMismatch(
                f"{where} belongs to something else: its FORMAT object differs in {', '.join(names)}.",
                found=", ".join(f"{name} {getattr(found, name)}" for name in names),
                expected=", ".join(f"{name} {getattr(self, name)}" for name in names),
                hint="use the imgstore that wrote it"
                if names == ["layout"]
                else "mend the endpoint or bucket in regions.yaml, or use the data home that this bucket belongs to",
                target=where,
            )

    def _differs(self, found: "FormatMark", name: str) -> bool:
        return bool(getattr(self, name) != getattr(found, name))
