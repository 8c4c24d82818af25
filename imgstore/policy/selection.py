"""Small choices that must be the same everywhere: a base, the latest version, the next replica."""

from collections.abc import Iterable, Sequence

from imgstore.domain.names import VersionName
from imgstore.domain.resources import ImageVersion, Replica, Slot
from imgstore.domain.states import ReplicaState

BASES_MAX = 3


def choose_bases(
    candidates: Sequence[ImageVersion], *, new: VersionName, named: Sequence[VersionName]
) -> tuple[ImageVersion, ...]:
    """Up to three versions that a new one is compared with (rules.md, rule 12).

    Those that the user names, the newest, and the highest version below the new one.

    Args:
        candidates: versions of the definition that are complete in the source slot.
        new: the version that is being made.
        named: what the user gave as `--base`.
    """
    by_name = {version.name: version for version in candidates}
    chosen = [by_name[name] for name in named if name in by_name]
    chosen += sorted(candidates, key=lambda version: version.published_at)[-1:]
    below = [version for version in candidates if version.name < new]
    chosen += [max(below, key=lambda version: version.name)] if below else []
    return tuple({version.uid: version for version in chosen}.values())[:BASES_MAX]


def find_latest(versions: Iterable[tuple[ImageVersion, Sequence[Replica]]], region: str) -> ImageVersion | None:
    """The highest version that is not excluded and is complete in the region."""
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
    """The replicas of a region that may be handed out, by slot."""
    here = (replica for replica in replicas if replica.slot.key.region == region)
    fit = [replica for replica in here if replica.state is ReplicaState.COMPLETED]
    return sorted(fit, key=lambda replica: (replica.slot.key.ordinal, replica.slot.key.storage_account_type))


def next_slot(turn: int, fit: Sequence[Slot]) -> Slot:
    """Round robin: the slot of that turn. Counts of slots that are healthy throughout differ by at most one.

    `catalog/resources/placements.py` says it once more, in the statement that writes a disk's row.
    """
    return fit[turn % len(fit)]
