"""FORMAT: the object that identifies a zone.

A bucket of the right name may still be wrong. The bucket may belong to another installation, to another zone behind a
mistyped endpoint, or to a layout that this code cannot read. Each zone therefore has an identification in JSON under
the key FORMAT.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

from imgstore.domain.errors import StoreMismatch
from imgstore.domain.storage.object_keys import LAYOUT_VERSION
from imgstore.domain.text.strict_json import read_json
from imgstore.stores.interface import StoreProperties


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatMark:
    """The content of a FORMAT object."""

    installation: str
    """The uid of the installation."""
    region: str
    zone: str
    layout: int = LAYOUT_VERSION
    properties: StoreProperties | None = None
    """The promises of the store, as `prepare` found them."""

    def encode(self) -> bytes:
        """Encode the body of the object."""
        return json.dumps(asdict(self), indent=2).encode() + b"\n"

    @classmethod
    def decode(cls, body: bytes, *, where: str, zone: str) -> "FormatMark":
        """Decode the body of a FORMAT object.

        Args:
            body: the body.
            where: the name of the store, for errors.
            zone: the zone that the store should be, "westus2/1", for errors.

        Raises:
            StoreMismatch: the body is not a mark.
        """
        try:
            fields: dict[str, Any] = read_json(body.decode())
            properties = fields.get("properties")
            return cls(
                installation=str(fields["installation"]),
                region=str(fields["region"]),
                zone=str(fields["zone"]),
                layout=int(fields["layout"]),
                properties=StoreProperties(**properties) if properties else None,
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StoreMismatch(
                f"The FORMAT object of {where} can't be read.",
                found=repr(bytes(body[:80])),
                expected="JSON with installation, region, zone and layout",
                hint="check whether this bucket or folder belongs to imgstore, or set another one in regions.yaml"
                + _or_repair(zone),
                target=where,
            ) from error

    def check(self, found: "FormatMark", *, where: str) -> None:
        """Refuse a zone with another mark.

        Raises:
            StoreMismatch: `found` differs in installation, region, zone or layout.
        """
        names = [name for name in ("installation", "region", "zone", "layout") if self._differs(found, name)]
        if names:
            raise StoreMismatch(
                f"{where} belongs to something else: its FORMAT object differs in {', '.join(names)}.",
                found=", ".join(f"{name} {getattr(found, name)}" for name in names),
                expected=", ".join(f"{name} {getattr(self, name)}" for name in names),
                hint="use the version of imgstore that wrote the object"
                if names == ["layout"]
                else "correct the endpoint or bucket in regions.yaml, or use the home and the database that own this bucket"
                + _or_repair(f"{self.region}/{self.zone}"),
                target=where,
            )

    def _differs(self, found: "FormatMark", name: str) -> bool:
        return bool(getattr(self, name) != getattr(found, name))


def _or_repair(zone: str) -> str:
    return (
        f"; if the store is the right one and the object is damaged, `imgstore regions init --zone {zone}` repairs it"
    )
