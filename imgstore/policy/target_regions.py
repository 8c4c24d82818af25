"""Resolve the target regions of a request with `regions.yaml` and the limits."""

from collections.abc import Sequence

from imgstore.domain.errors import InvalidInput
from imgstore.domain.resources import StorageAccountType, TargetRegion, TargetRegionRequest, VersionUpdate
from imgstore.domain.settings.limits import Limits
from imgstore.regions import Region, Regions


def resolve_targets(
    location: str, update: VersionUpdate, existing: Sequence[TargetRegion], regions: Regions, limits: Limits
) -> tuple[str, tuple[TargetRegion, ...]]:
    """Return the key of the source region, and the target regions with all defaults, in the order of the request.

    Args:
        location: The source region, as typed.
        update: The requested target regions, count and type. Without target regions, the source region is the only one.
        existing: The current target regions of the version. A region keeps the values that the request leaves out.
        regions: The regions of regions.yaml.
        limits: The limits of the installation.

    Raises:
        InvalidInput: A region is unknown or occurs twice, the source region is missing, a count exceeds a limit, or a
            region does not offer the storage account type.
    """
    source = regions.get(location, target="location")
    asked = update.target_regions or (TargetRegionRequest(name=location),)
    targets = tuple(_resolve(each, update, existing, regions, limits) for each in asked)
    names = [target.name for target in targets]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InvalidInput(
            "Duplicate regions are not allowed in target publishing regions.",
            found=", ".join(repeated),
            expected="each region once",
            hint="name each region once, with its replica count: westus2=3",
            target="targetRegions",
        )
    if source.name not in names:
        raise InvalidInput(
            f"Gallery image version publishing profile regions '{', '.join(names)}' must contain the location of image "
            f"version '{source.display_name}'.",
            found=f"target regions {', '.join(names)}",
            expected=f"{source.name} among them",
            hint=f"add {source.name} to --target-regions, or choose another --location",
            target="targetRegions",
        )
    _check_sum(targets, limits)
    return source.name, targets


def check_shallow(targets: Sequence[TargetRegion]) -> None:
    """Check the target regions of a Shallow version: one replica in the region of the source (invariant R13).

    Raises:
        InvalidInput: The request names several regions or replicas.
    """
    count = sum(target.regional_replica_count for target in targets)
    if len(targets) != 1 or count != 1:
        raise InvalidInput(
            "A gallery image version with replicationMode Shallow is not replicated: the only replica is in the region "
            "of the source.",
            found=f"{count} replicas in {', '.join(target.name for target in targets)}",
            expected="the region of the source as the only target region, with one replica",
            hint="name the source region alone, or publish the version with --replication-mode Full",
            target="publishingProfile.targetRegions",
        )


def _resolve(
    asked: TargetRegionRequest,
    update: VersionUpdate,
    existing: Sequence[TargetRegion],
    regions: Regions,
    limits: Limits,
) -> TargetRegion:
    region = regions.get(asked.name, target="targetRegions")
    counts = (asked.regional_replica_count, update.replica_count, 1)
    count = next(each for each in counts if each is not None)
    before = next((each for each in existing if each.name == region.name), None)
    kinds = (
        asked.storage_account_type,
        update.storage_account_type,
        before.storage_account_type if before else StorageAccountType.STANDARD_LRS,
    )
    kind = next(each for each in kinds if each is not None)
    excluded = before is not None and before.exclude_from_latest
    _check_count(count, region, limits)
    check_storage_account_type(kind, region)
    return TargetRegion(
        name=region.name,
        regional_replica_count=count,
        storage_account_type=kind,
        exclude_from_latest=excluded if asked.exclude_from_latest is None else asked.exclude_from_latest,
    )


def _check_count(count: int, region: Region, limits: Limits) -> None:
    """Check the replica count of a region against the lowest limit."""
    by_name = {
        "replicas_per_region_max": limits.replicas_per_region_max,
        "replicas_per_version_max": limits.replicas_per_version_max,
    }
    most, name = min((each, name) for name, each in by_name.items() if each is not None)
    if not 1 <= count <= most:
        raise InvalidInput(
            f"The value {count} of parameter regionalReplicaCount is out of range. The value must be between 1 and "
            f"{most}, inclusive.",
            found=f"{count} replicas in {region.name}",
            expected=f"1 to {most} ({name})",
            hint=f"one replica serves about {limits.machines_per_replica} machines at the same time; for more, "
            f"{limits.raise_hint(name)}",
            target="regionalReplicaCount",
        )


def _check_sum(targets: Sequence[TargetRegion], limits: Limits) -> None:
    count, most = sum(target.regional_replica_count for target in targets), limits.replicas_per_version_max
    if most is not None and count > most:
        raise InvalidInput(
            f"The limit of {most} replicas of an image version over all regions is exceeded.",
            found=f"{count} replicas in {len(targets)} regions",
            expected=f"at most {most} (replicas_per_version_max)",
            hint=f"request fewer replicas, or {limits.raise_hint('replicas_per_version_max')}",
            target="targetRegions",
        )


def check_storage_account_type(kind: StorageAccountType, region: Region) -> None:
    """Check that a region offers a storage account type.

    Raises:
        InvalidInput: the region does not offer the type.
    """
    if kind not in region.storage_account_types:
        zones = len(region.zones)
        raise InvalidInput(
            f"The storage account type {kind} is not supported in region '{region.display_name}'.",
            found=f"{kind} in a region of {zones} zone{'s' * (zones != 1)}",
            expected=" or ".join(region.storage_account_types),
            hint="choose another type, or a region that offers this type: `imgstore regions list`",
            target="storageAccountType",
        )
