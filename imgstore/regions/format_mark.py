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
    adopted_from: str | None = None
    """The uid of the former installation, while the adoption of the zone is unfinished (invariant K10)."""

    @property
    def signer(self) -> str:
        """The uid of the installation whose key signs the objects of the zone."""
        return self.adopted_from or self.installation

    def encode(self) -> bytes:
        """Encode the body of the object."""
        fields = asdict(self)
        if self.adopted_from is None:
            del fields["adopted_from"]
        return json.dumps(fields, indent=2).encode() + b"\n"

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
                adopted_from=fields.get("adopted_from"),
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
            StoreMismatch: `found` differs in installation, region, zone or layout, or names an unfinished adoption.
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
                + (_or_adopt(self.region) if names == ["installation"] else "")
                + _or_repair(f"{self.region}/{self.zone}"),
                target=where,
            )
        if found.adopted_from not in {None, self.adopted_from}:
            raise StoreMismatch(
                f"The adoption of {where} is not finished.",
                found=f"an unfinished adoption from installation {found.adopted_from}",
                expected="a zone of this installation alone",
                hint="run the same `imgstore catalog adopt --recovery-file FILE --region REGION --yes` again",
                target=where,
            )

    def _differs(self, found: "FormatMark", name: str) -> bool:
        return bool(getattr(self, name) != getattr(found, name))


def _or_adopt(region: str) -> str:
    return (
        "; to take over the bucket with its content, run `imgstore catalog adopt --recovery-file FILE --region "
        f"{region}` with the recovery file of the other installation"
    )


def _or_repair(zone: str) -> str:
    return (
        f"; if the store is the right one and the object is damaged, `imgstore regions init --zone {zone}` repairs it"
    )
