"""Change the model of a scale set: image, size, tags, policies and stored fields. Instances change later."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from imgstore.catalog import Transaction
from imgstore.domain import names
from imgstore.domain.disks.image_offers import ImageOffer
from imgstore.domain.disks.version_disks import lun_of
from imgstore.domain.errors import PropertyChangeNotAllowed
from imgstore.domain.identity.access import Principal
from imgstore.domain.machines import DiskAttachment
from imgstore.domain.names import ImageReference
from imgstore.domain.resources import OsProperties, OsState
from imgstore.domain.scale_sets import RollingPolicy, ScaleSet, ScaleSetLease, UpgradeMode
from imgstore.domain.tags import apply_tags
from imgstore.domain.views import ManagedImage
from imgstore.operations import lookup
from imgstore.operations.disks.placement import find_offer
from imgstore.operations.gallery.sharing import admit_reader
from imgstore.operations.installation import Installation
from imgstore.operations.machines.create import gallery_image
from imgstore.operations.machines.images import find_image
from imgstore.policy.image_change import ImageShape, check_disk_settings, check_image_change

_WHAT = "scale set"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChange:
    """New values of a model. None keeps the present value."""

    image: str | None = None
    """A managed image by name or id, or an image version or definition by id or path."""
    size: str | None = None
    tags: Mapping[str, str] | None = None
    upgrade_mode: UpgradeMode | None = None
    rolling: RollingPolicy | None = None
    attachments: Mapping[str, DiskAttachment] = field(default_factory=dict)
    extra_properties: Mapping[str, Any] = field(default_factory=dict)


def change_model(
    installation: Installation, lease: ScaleSetLease, change: ModelChange, principal: Principal
) -> ScaleSet:
    """Change the model of a set in one transaction, after a check of the new image.

    Raises:
        InvalidInput: the image does not fit the instances. The error has a detail for each difference.
        ImageNotAvailable: the version does not exist, or is not complete in the region.
        LeaseLost: another process changes the set.
    """
    reference = _admit_reader(installation, principal, change)
    with installation.catalog.transaction() as transaction:
        present = transaction.scale_sets.guard(lease)
        changed = _apply(installation, principal, transaction, present, change, reference)
        if changed != present:
            transaction.scale_sets.update(changed)
        return changed


def check_model_change(
    installation: Installation, principal: Principal, *, group: str, name: str, change: ModelChange
) -> None:
    """Check a change as `change_model` does, and change nothing. The errors are those of `change_model`.

    A request that also changes the capacity is refused as a whole before the first instance is made or removed.
    """
    reference = _admit_reader(installation, principal, change)
    with installation.catalog.reading() as transaction:
        present = lookup.find_scale_set(transaction, installation.subscription, group, name)
        _apply(installation, principal, transaction, present, change, reference)


def _admit_reader(installation: Installation, principal: Principal, change: ModelChange) -> ImageReference | None:
    named = None if change.image is None else gallery_image(change.image)
    return None if named is None else admit_reader(installation, principal, named)


def _apply(
    installation: Installation,
    principal: Principal,
    transaction: Transaction,
    present: ScaleSet,
    change: ModelChange,
    reference: ImageReference | None,
) -> ScaleSet:
    """Return the changed set, after all checks."""
    changed = replace(
        present,
        size=change.size or present.size,
        tags=apply_tags(change.tags, present.tags),
        upgrade_mode=change.upgrade_mode or present.upgrade_mode,
        rolling=change.rolling or present.rolling,
        attachments={**present.attachments, **change.attachments},
        extra_properties={**present.extra_properties, **change.extra_properties},
    )
    if change.image is not None:
        changed = _with_image(installation, principal, transaction, changed, change.image, reference)
    if (luns := _current_luns(transaction, present)) is not None:
        check_disk_settings(change.attachments, luns)
    return changed


def _with_image(
    installation: Installation,
    principal: Principal,
    transaction: Transaction,
    scale_set: ScaleSet,
    word: str,
    reference: ImageReference | None,
) -> ScaleSet:
    """Return the set with another image, after a check of each property that instances depend on."""
    if reference is not None:
        offer = find_offer(installation, transaction, reference, scale_set.location)
        shape, image_reference = _shape_of_offer(offer), _shown_reference(installation, reference, offer)
    else:
        image = find_image(installation, principal, transaction, scale_set.group, word, what=_WHAT)
        if image.os.location != scale_set.location:
            raise PropertyChangeNotAllowed(
                "location", found=f"an image in {image.os.location}", expected=scale_set.location
            )
        shape = _shape_of_image(image)
        image_reference = shape.reference
    if shape.reference == scale_set.source_reference:
        return replace(scale_set, image_reference=image_reference)
    current = _current_shape(transaction, scale_set)
    check_image_change(current, shape, set_name=scale_set.name)
    return replace(
        scale_set,
        image_reference=image_reference,
        source_reference=shape.reference,
        os_type=shape.os_properties.os_type or scale_set.os_type,
        hyper_v_generation=shape.os_properties.hyper_v_generation or scale_set.hyper_v_generation,
    )


def _shown_reference(installation: Installation, reference: ImageReference, offer: ImageOffer) -> str:
    """Return the id of the image that the request names: a version, or a definition for the latest version."""
    if reference.version is not None:
        return offer.source
    return names.definition_id(
        reference.subscription or installation.subscription, reference.group, reference.gallery, reference.definition
    )


def _shape_of_offer(offer: ImageOffer) -> ImageShape:
    return ImageShape(
        reference=offer.source,
        os_properties=replace(offer.os_properties, os_state=offer.os_state),
        data_disk_bytes={
            each.lun: each.virtual_bytes
            for each in offer.disks
            if each.lun is not None and each.virtual_bytes is not None
        },
    )


def _shape_of_image(image: ManagedImage) -> ImageShape:
    said = image.os.os_properties
    return ImageShape(
        reference=image.os.resource_id,
        os_properties=replace(said, os_state=said.os_state or OsState.GENERALIZED),
        data_disk_bytes={
            lun: each.virtual_bytes for key, each in image.by_key.items() if (lun := lun_of(key)) is not None
        },
    )


def _current_luns(transaction: Transaction, scale_set: ScaleSet) -> list[int] | None:
    """Return the LUNs of the data disks of an instance. None without an instance. A new image has the same LUNs."""
    instance = next(iter(transaction.machines.list_instances(scale_set.uid, limit=1)), None)
    if instance is None:
        return None
    disks = transaction.disks.list_attached(instance.resource_id)
    return [each.machine_lun for each in disks if each.machine_lun is not None]


def _current_shape(transaction: Transaction, scale_set: ScaleSet) -> ImageShape:
    """Return the shape of the present image. The image may be deleted, so the disks of an instance show the layout."""
    state = OsState.SPECIALIZED if scale_set.admin_username is None else OsState.GENERALIZED
    said = OsProperties(os_type=scale_set.os_type, os_state=state, hyper_v_generation=scale_set.hyper_v_generation)
    instance = next(iter(transaction.machines.list_instances(scale_set.uid, limit=1)), None)
    disks = [] if instance is None else transaction.disks.list_attached(instance.resource_id)
    layout = {each.machine_lun: each.virtual_bytes for each in disks if each.machine_lun is not None}
    return ImageShape(reference=scale_set.source_reference, os_properties=said, data_disk_bytes=layout)
