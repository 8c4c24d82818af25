"""Image definitions."""

import builtins
from dataclasses import asdict
from typing import Any

from sqlalchemy import Row, func, select

from imgstore.catalog import schema
from imgstore.catalog.engine.columns import fold_name
from imgstore.catalog.engine.repository import Repository
from imgstore.catalog.engine.rows import to_columns, to_value
from imgstore.domain.resources import DiskType, Feature, ImageDefinition, PurchasePlan, RecommendedRange

_definitions = schema.definitions


class Definitions(Repository):
    """The image definitions of all galleries."""

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
    return to_columns(
        _definitions,
        definition,
        name_key=fold_name(definition.name),
        identifier_key=_identifier(definition.publisher, definition.offer, definition.sku),
        vcpus_min=definition.recommended_vcpus.min,
        vcpus_max=definition.recommended_vcpus.max,
        memory_min_gib=definition.recommended_memory_gib.min,
        memory_max_gib=definition.recommended_memory_gib.max,
        disallowed_disk_types=[kind.value for kind in definition.disallowed_disk_types],
        plan_name=plan.name,
        plan_publisher=plan.publisher,
        plan_product=plan.product,
        features=[asdict(feature) for feature in definition.features],
        tags=dict(definition.tags),
    )


def definition_from_row(row: Row[Any]) -> ImageDefinition:
    """Return the definition in the columns of a row."""
    plan = PurchasePlan(name=row.plan_name, publisher=row.plan_publisher, product=row.plan_product)
    return to_value(
        ImageDefinition,
        row,
        recommended_vcpus=RecommendedRange(min=row.vcpus_min, max=row.vcpus_max),
        recommended_memory_gib=RecommendedRange(min=row.memory_min_gib, max=row.memory_max_gib),
        disallowed_disk_types=tuple(map(DiskType, row.disallowed_disk_types)),
        purchase_plan=None if plan == PurchasePlan() else plan,
        features=tuple(Feature(**values) for values in row.features),
    )
