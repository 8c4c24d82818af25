"""Image definitions."""

import builtins
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from imgstore.catalog import schema
from imgstore.catalog.engine.columns import fold_name
from imgstore.catalog.engine.repository import Repository
from imgstore.domain.resources import DiskType, Feature, ImageDefinition, PurchasePlan, RecommendedRange

if TYPE_CHECKING:
    from sqlalchemy.engine import Row

_definitions = schema.definitions


class Definitions(Repository):
    """The image definitions of all galleries."""

    __slots__ = ()

    def add(self, definition: ImageDefinition) -> None:
        """Add an image definition.

        Raises:
            Conflict: the gallery has a definition with this name or this identifier, or the gallery was deleted.
        """
        self._session.run(_definitions.insert(), _values(definition))

    def update(self, definition: ImageDefinition) -> None:
        """Replace the definition with the same uid.

        Raises:
            NotFound: no row has this uid.
        """
        self._replace(_definitions, definition.uid, _values(definition), "image definition")

    def get(self, gallery_uid: str, name: str) -> ImageDefinition | None:
        """Return the definition with this name, or None."""
        row = self._session.first(
            select(_definitions).where(
                _definitions.c.gallery_uid == gallery_uid, _definitions.c.name_key == fold_name(name)
            )
        )
        return None if row is None else definition_from_row(row)

    def by_uid(self, uid: str) -> ImageDefinition:
        """Return the definition with this uid.

        Raises:
            NotFound: no row has this uid.
        """
        return definition_from_row(
            self._row(select(_definitions).where(_definitions.c.uid == uid), "image definition", uid)
        )

    def by_identifier(self, gallery_uid: str, publisher: str, offer: str, sku: str) -> ImageDefinition | None:
        """Return the definition with this publisher, offer and SKU, or None. The three are unique in a gallery."""
        row = self._session.first(
            select(_definitions).where(
                _definitions.c.gallery_uid == gallery_uid,
                _definitions.c.identifier_key == _identifier(publisher, offer, sku),
            )
        )
        return None if row is None else definition_from_row(row)

    def list(
        self, gallery_uid: str, *, after: str | None = None, limit: int | None = None
    ) -> builtins.list[ImageDefinition]:
        """Return the definitions of a gallery, by name: at most `limit`, with names after `after`."""
        statement = select(_definitions).where(_definitions.c.gallery_uid == gallery_uid)
        if after is not None:
            statement = statement.where(_definitions.c.name_key > fold_name(after))
        rows = self._session.all(statement.order_by(_definitions.c.name_key).limit(limit))
        return [definition_from_row(row) for row in rows]

    def count(self, subscription: str, location: str) -> int:
        """Count the definitions of a subscription in a region. Lock the number until the end of the transaction."""
        self._session.lock_name(f"definitions/{fold_name(subscription)}/{location}")
        mine = schema.galleries.c.subscription_key == fold_name(subscription)
        statement = select(func.count()).select_from(_definitions.join(schema.galleries)).where(mine)
        return int(self._session.value(statement.where(_definitions.c.location == location)))

    def get_for_update(self, uid: str) -> ImageDefinition:
        """Return the definition with this uid, and lock its row until the end of the transaction.

        Raises:
            NotFound: no row has this uid.
        """
        statement = self._session.add_row_locks(select(_definitions).where(_definitions.c.uid == uid))
        return definition_from_row(self._row(statement, "image definition", uid))

    def delete(self, uid: str) -> None:
        """Remove a definition.

        Raises:
            NotFound: no row has this uid.
            Conflict: the definition still has versions.
        """
        self._remove(_definitions, uid, "image definition")


def _identifier(publisher: str, offer: str, sku: str) -> str:
    return fold_name(f"{publisher}/{offer}/{sku}")


def _values(definition: ImageDefinition) -> dict[str, Any]:
    plan = definition.purchase_plan or PurchasePlan()
    return {
        "uid": definition.uid,
        "gallery_uid": definition.gallery_uid,
        "name": definition.name,
        "name_key": fold_name(definition.name),
        "location": definition.location,
        "publisher": definition.publisher,
        "offer": definition.offer,
        "sku": definition.sku,
        "identifier_key": _identifier(definition.publisher, definition.offer, definition.sku),
        "os_type": definition.os_type,
        "os_state": definition.os_state,
        "hyper_v_generation": definition.hyper_v_generation,
        "architecture": definition.architecture,
        "description": definition.description,
        "eula": definition.eula,
        "privacy_statement_uri": definition.privacy_statement_uri,
        "release_note_uri": definition.release_note_uri,
        "end_of_life_at": definition.end_of_life_at,
        "vcpus_min": definition.recommended_vcpus.min,
        "vcpus_max": definition.recommended_vcpus.max,
        "memory_min_gib": definition.recommended_memory_gib.min,
        "memory_max_gib": definition.recommended_memory_gib.max,
        "disallowed_disk_types": [kind.value for kind in definition.disallowed_disk_types],
        "plan_name": plan.name,
        "plan_publisher": plan.publisher,
        "plan_product": plan.product,
        "features": [asdict(feature) for feature in definition.features],
        "allow_update_image": definition.allow_update_image,
        "tags": dict(definition.tags),
        "created_at": definition.created_at,
    }


def definition_from_row(row: "Row[Any]") -> ImageDefinition:
    """Return the definition in the columns of a row."""
    plan = PurchasePlan(name=row.plan_name, publisher=row.plan_publisher, product=row.plan_product)
    return ImageDefinition(
        uid=row.uid,
        gallery_uid=row.gallery_uid,
        name=row.name,
        location=row.location,
        publisher=row.publisher,
        offer=row.offer,
        sku=row.sku,
        os_type=row.os_type,
        os_state=row.os_state,
        hyper_v_generation=row.hyper_v_generation,
        architecture=row.architecture,
        description=row.description,
        eula=row.eula,
        privacy_statement_uri=row.privacy_statement_uri,
        release_note_uri=row.release_note_uri,
        end_of_life_at=row.end_of_life_at,
        recommended_vcpus=RecommendedRange(min=row.vcpus_min, max=row.vcpus_max),
        recommended_memory_gib=RecommendedRange(min=row.memory_min_gib, max=row.memory_max_gib),
        disallowed_disk_types=tuple(map(DiskType, row.disallowed_disk_types)),
        purchase_plan=None if plan == PurchasePlan() else plan,
        features=tuple(Feature(**values) for values in row.features),
        allow_update_image=row.allow_update_image,
        tags=row.tags,
        created_at=row.created_at,
    )
