"""What a version becomes by an update, or why it does not: only what Azure lets change (contract.md, section 4)."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from imgstore.domain.errors import Conflict, InvalidInput, PropertyChangeNotAllowed
from imgstore.domain.resources import KEEP, ImageVersion, TargetRegion, VersionUpdate
from imgstore.domain.settings.limits import Limits
from imgstore.policy.allowed_changes import check_end_of_life
from imgstore.policy.target_regions import PublishingRequest, check_shallow, resolve_targets
from imgstore.regions import Regions


def apply_update(
    standing: ImageVersion, update: VersionUpdate, regions: Regions, limits: Limits, *, now: datetime
) -> ImageVersion:
    """The version with the update done; `published_at` and the rest stay.

    Raises:
        InvalidInput: the targets are refused (`resolve_targets`), the end of life has passed already, or deletion is to
            be blocked until an end of life that nobody named.
    """
    count = standing.replica_count if update.replica_count is None else update.replica_count
    end_of_life_at = standing.end_of_life_at if update.end_of_life_at is KEEP else update.end_of_life_at
    changed = replace(
        standing,
        target_regions=_targets(standing, update, count, regions, limits),
        replica_count=count,
        exclude_from_latest=_first_set(update.exclude_from_latest, standing.exclude_from_latest),
        end_of_life_at=end_of_life_at,
        allow_deletion_of_replicated_locations=(
            standing.allow_deletion_of_replicated_locations
            if update.allow_deletion_of_replicated_locations is None
            else update.allow_deletion_of_replicated_locations
        ),
        block_deletion_before_end_of_life=_first_set(
            update.block_deletion_before_end_of_life, standing.block_deletion_before_end_of_life
        ),
        tags=standing.tags if update.tags is None else dict(update.tags),
    )
    if standing.is_shallow:
        check_shallow(changed.target_regions)
        _check_shallow_storage(standing, changed)
    if changed.end_of_life_at != standing.end_of_life_at:
        check_end_of_life(changed.end_of_life_at, now)
    check_deletion_block(changed)
    return changed


def _targets(
    standing: ImageVersion, update: VersionUpdate, count: int, regions: Regions, limits: Limits
) -> tuple[TargetRegion, ...]:
    """The targets that are asked for; else those that stand, where the regions that had the version's count follow it."""
    asked: Sequence[TargetRegion] = standing.target_regions
    if not update.target_regions and update.replica_count is None:
        return standing.target_regions
    if not update.target_regions:
        asked = [
            replace(each, regional_replica_count=count)
            if each.regional_replica_count == standing.replica_count
            else each
            for each in asked
        ]
    return resolve_targets(
        PublishingRequest(
            location=standing.location,
            target_regions=update.target_regions or [each.as_request() for each in asked],
            replica_count=count,
            storage_account_type=update.storage_account_type,
            standing=standing.target_regions,
        ),
        regions,
        limits,
    )[1]


def _check_shallow_storage(standing: ImageVersion, changed: ImageVersion) -> None:
    """A Shallow version lies where its source does, and as that is kept."""
    before, after = standing.target_regions[0].storage_account_type, changed.target_regions[0].storage_account_type
    if before is not after:
        raise PropertyChangeNotAllowed(
            "properties.publishingProfile.targetRegions.storageAccountType",
            found=after,
            expected=f"{before}: the version is Shallow, and kept as its source is",
        )


def _first_set(value: bool | None, default: bool) -> bool:  # noqa: FBT001 - private
    return default if value is None else value


def check_deletion_block(version: ImageVersion) -> None:
    """Refuse to block deletion until an instant that nobody named: it would be blocked for ever.

    Raises:
        InvalidInput: it is.
    """
    if version.block_deletion_before_end_of_life and version.end_of_life_at is None:
        raise InvalidInput(
            "blockDeletionBeforeEndOfLife needs an endOfLifeDate.",
            found="no end of life",
            expected="the date until which the version can't be deleted",
            hint="give --end-of-life-date too, or --block-deletion-before-end-of-life false",
            target="safetyProfile.blockDeletionBeforeEndOfLife",
        )


def check_deletable(version: ImageVersion, now: datetime, scope: str) -> None:
    """Refuse to delete a version that is to be kept until its end of life.

    Raises:
        Conflict: it is not over yet, with Azure's code and message.
    """
    over = version.end_of_life_at is not None and version.end_of_life_at <= now
    if version.block_deletion_before_end_of_life and not over:
        raise Conflict(
            "Deletion of Gallery image version is not allowed because the image is enabled for "
            "blockDeletionBeforeEndOfLife and its endOfLifeDate has not reached yet",
            found=f"an end of life at {version.end_of_life_at.isoformat() if version.end_of_life_at else 'no time'}",
            expected=f"one before {now.isoformat()}",
            hint="wait, or `imgstore sig image-version update ... --block-deletion-before-end-of-life false`",
            target=scope,
            code="DeleteGalleryImageVersionBlockedBeforeEndOfLife",
        )
