"""Apply an update to an image version. Only the properties that Azure lets change may change (docs/azure.md)."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from imgstore.domain.errors import Conflict, InvalidInput, PropertyChangeNotAllowed
from imgstore.domain.resources import KEEP, ImageVersion, TargetRegion, VersionUpdate
from imgstore.domain.settings.limits import Limits
from imgstore.domain.tags import apply_tags
from imgstore.policy.allowed_changes import check_end_of_life
from imgstore.policy.target_regions import check_shallow, resolve_targets
from imgstore.regions import Regions


def apply_update(
    existing: ImageVersion, update: VersionUpdate, regions: Regions, limits: Limits, *, now: datetime
) -> ImageVersion:
    """Return the version with the update. `published_at` and all other fields stay.

    Raises:
        InvalidInput: The target regions are invalid (`resolve_targets`), the end of life has passed, or deletion is
            blocked without an end of life.
    """
    count = existing.replica_count if update.replica_count is None else update.replica_count
    end_of_life_at = existing.end_of_life_at if update.end_of_life_at is KEEP else update.end_of_life_at
    changed = replace(
        existing,
        target_regions=_targets(existing, update, count, regions, limits),
        replica_count=count,
        exclude_from_latest=_first_set(update.exclude_from_latest, existing.exclude_from_latest),
        end_of_life_at=end_of_life_at,
        allow_deletion_of_replicated_locations=(
            existing.allow_deletion_of_replicated_locations
            if update.allow_deletion_of_replicated_locations is None
            else update.allow_deletion_of_replicated_locations
        ),
        block_deletion_before_end_of_life=_first_set(
            update.block_deletion_before_end_of_life, existing.block_deletion_before_end_of_life
        ),
        tags=apply_tags(update.tags, existing.tags),
    )
    if existing.is_shallow:
        check_shallow(changed.target_regions)
        _check_shallow_storage(existing, changed)
    if changed.end_of_life_at != existing.end_of_life_at:
        check_end_of_life(changed.end_of_life_at, now)
    check_deletion_block(changed)
    return changed


def _targets(
    existing: ImageVersion, update: VersionUpdate, count: int, regions: Regions, limits: Limits
) -> tuple[TargetRegion, ...]:
    """Return the requested targets, or else the current targets.

    Without target regions in the request, a new replica count applies to each region that had the old count.
    """
    asked: Sequence[TargetRegion] = existing.target_regions
    if not update.target_regions and update.replica_count is None:
        return existing.target_regions
    if not update.target_regions:
        asked = [
            replace(each, regional_replica_count=count)
            if each.regional_replica_count == existing.replica_count
            else each
            for each in asked
        ]
    target_regions = update.target_regions or [each.as_request() for each in asked]
    wanted = replace(update, target_regions=target_regions, replica_count=count)
    return resolve_targets(existing.location, wanted, existing.target_regions, regions, limits)[1]


def _check_shallow_storage(existing: ImageVersion, changed: ImageVersion) -> None:
    """Refuse another storage account type for a Shallow version. The version stays in the slot of the source."""
    before, after = existing.target_regions[0].storage_account_type, changed.target_regions[0].storage_account_type
    if before is not after:
        raise PropertyChangeNotAllowed(
            "properties.publishingProfile.targetRegions.storageAccountType",
            found=after,
            expected=f"{before}, the type of the source of a Shallow version",
        )


def _first_set(value: bool | None, default: bool) -> bool:  # noqa: FBT001 - private
    return default if value is None else value


def check_deletion_block(version: ImageVersion) -> None:
    """Refuse to block deletion without an end of life, because such a block never ends.

    Raises:
        InvalidInput: The version has no end of life.
    """
    if version.block_deletion_before_end_of_life and version.end_of_life_at is None:
        raise InvalidInput(
            "blockDeletionBeforeEndOfLife needs an endOfLifeDate.",
            found="no end of life",
            expected="the date until which the version can't be deleted",
            hint="add --end-of-life-date, or --block-deletion-before-end-of-life false",
            target="safetyProfile.blockDeletionBeforeEndOfLife",
        )


def check_deletable(version: ImageVersion, now: datetime, scope: str) -> None:
    """Refuse to delete a version that is protected until its end of life.

    Raises:
        Conflict: The end of life has not passed. The code and the message are those of Azure.
    """
    over = version.end_of_life_at is not None and version.end_of_life_at <= now
    if version.block_deletion_before_end_of_life and not over:
        raise Conflict(
            "Deletion of Gallery image version is not allowed because the image is enabled for "
            "blockDeletionBeforeEndOfLife and its endOfLifeDate has not reached yet",
            found=f"an end of life at {version.end_of_life_at.isoformat() if version.end_of_life_at else 'no time'}",
            expected=f"an end of life before {now.isoformat()}",
            hint="wait, or `imgstore sig image-version update ... --block-deletion-before-end-of-life false`",
            target=scope,
            code="DeleteGalleryImageVersionBlockedBeforeEndOfLife",
        )
