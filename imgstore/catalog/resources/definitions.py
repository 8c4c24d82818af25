"""Image definitions."""

import builtins
from dataclasses import asdict
from typing import Any

from sqlalchemy import func, select

from imgstore.catalog import schema
from imgstore.catalog.engine.columns import fold_name
from imgstore.catalog.engine.repository import MutableRows
from imgstore.catalog.engine.rows import to_columns, to_value
from imgstore.domain.resources import DiskType, Feature, ImageDefinition, PurchasePlan, RecommendedRange

_definitions = schema.definitions


class Definitions(MutableRows[ImageDefinition], table=_definitions, noun="image definition", value=ImageDefinition):
    """The image definitions of all galleries."""

    def get(self, gallery_uid: str, name: str) -> ImageDefinition | None:
        """Return the definition with this name, or None."""
        return self._find(_definitions.c.gallery_uid == gallery_uid, _definitions.c.name_key == fold_name(name))

    def by_identifier(self, gallery_uid: str, publisher: str, offer: str, sku: str) -> ImageDefinition | None:
        """Return the definition with this publisher, offer and SKU, or None. The three are unique in a gallery."""
        same = _definitions.c.identifier_key == _identifier(publisher, offer, sku)
        return self._find(_definitions.c.gallery_uid == gallery_uid, same)

    def list(
        self, gallery_uid: str, *, after: str | None = None, limit: int | None = None
    ) -> builtins.list[ImageDefinition]:
        """Return the definitions of a gallery, by name: at most `limit`, with names after `after`."""
        statement = select(_definitions).where(_definitions.c.gallery_uid == gallery_uid)
        if after is not None:
            statement = statement.where(_definitions.c.name_key > fold_name(after))
        return self._list(statement.order_by(_definitions.c.name_key).limit(limit))

    def count(self, subscription: str, location: str) -> int:
        """Count the definitions of a subscription in a region. Lock the number until the end of the transaction."""
        self._session.lock_name(f"definitions/{fold_name(subscription)}/{location}")
        mine = schema.galleries.c.subscription_key == fold_name(subscription)
        statement = select(func.count()).select_from(_definitions.join(schema.galleries)).where(mine)
        return int(self._session.value(statement.where(_definitions.c.location == location)))

    def _columns(self, definition: ImageDefinition) -> dict[str, Any]:
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

    @classmethod
    def from_row(cls, row: Any) -> ImageDefinition:
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


def _identifier(publisher: str, offer: str, sku: str) -> str:
    return fold_name(f"{publisher}/{offer}/{sku}")
