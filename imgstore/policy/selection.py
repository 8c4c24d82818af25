"""Selection rules that all callers share: bases, the latest version, the next replica."""

from collections.abc import Iterable, Sequence

from imgstore.domain.names import VersionName
from imgstore.domain.resources import ImageVersion, Replica, Slot
from imgstore.domain.states import ReplicaState

BASES_MAX = 3


def choose_bases(
    candidates: Sequence[ImageVersion], *, new: VersionName, named: Sequence[VersionName]
) -> tuple[ImageVersion, ...]:
    """Choose up to three versions as bases of a new version (invariant I7).

    Candidates are the versions that the user names, the newest version, and the highest version below the new version.

    Args:
        candidates: Versions of the definition that are complete in the source slot.
        new: The name of the new version.
        named: The versions in `--base`.
    """
    by_name = {version.name: version for version in candidates}
    chosen = [by_name[name] for name in named if name in by_name]
    chosen += sorted(candidates, key=lambda version: version.published_at)[-1:]
    below = [version for version in candidates if version.name < new]
    chosen += [max(below, key=lambda version: version.name)] if below else []
    return tuple({version.uid: version for version in chosen}.values())[:BASES_MAX]


def find_latest(versions: Iterable[tuple[ImageVersion, Sequence[Replica]]], region: str) -> ImageVersion | None:
    """Return the highest version that is not excluded from latest and is complete in the region."""
    fit = [
        version for version, replicas in versions if _is_offered(version, region) and healthy_replicas(replicas, region)
    ]
    return max(fit, key=lambda version: version.name, default=None)


def _is_offered(version: ImageVersion, region: str) -> bool:
    excluded = version.exclude_from_latest or not version.is_visible
    return not excluded and not any(
        target.exclude_from_latest for target in version.target_regions if target.name == region
    )


def healthy_replicas(replicas: Sequence[Replica], region: str) -> list[Replica]:
    """Return the complete replicas of a region, ordered by slot."""
    here = (replica for replica in replicas if replica.slot.key.region == region)
    fit = [replica for replica in here if replica.state is ReplicaState.COMPLETED]
    return sorted(fit, key=lambda replica: (replica.slot.key.ordinal, replica.slot.key.storage_account_type))


def next_slot(turn: int, fit: Sequence[Slot]) -> Slot:
    """Return the slot for a turn of round robin.

    Use counts of constantly healthy slots differ by at most one (invariant D2). The SQL statement in
    `catalog/resources/placements.py` that inserts a disk row uses the same rule.
    """
    return fit[turn % len(fit)]
