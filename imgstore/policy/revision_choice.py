"""Choose the revisions from which a catalog is rebuilt: the highest number of each resource, in all zones together."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias

from imgstore.domain.storage.object_keys import parse_installation_revision, parse_owner_revision
from imgstore.domain.storage.revisions import OWNER_KINDS

OWNER: Final = "owners"
"""The kind of the names of versions and stored disks, because the keys in a slot do not name the kind."""

ResourceName: TypeAlias = tuple[str, str]
"""A kind, or `OWNER`, and the part of the object keys that names the uid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionCopy:
    """A copy of a revision in a zone."""

    zone: int
    """The index of the zone."""
    prefix: str
    """The prefix of the slot, or "" at the top of the zone."""
    key: str
    """The key below the prefix."""
    modified_at: datetime
    """The time of the object by the clock of the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionChoice:
    """A revision of a resource, with all its copies."""

    number: int
    copies: Sequence[RevisionCopy]


def name_revision(key: str) -> tuple[ResourceName, int] | None:
    """Return the resource and the number of a revision from its key below a slot or zone, or None for other keys."""
    owner = parse_owner_revision(key)
    if owner is not None:
        return (OWNER, owner[0]), owner[1]
    found = parse_installation_revision(key)
    if found is None:
        return None
    kind, part, number = found
    return (OWNER if kind in OWNER_KINDS else kind, part), number


def choose_revisions(copies: Iterable[RevisionCopy]) -> Mapping[ResourceName, Sequence[RevisionChoice]]:
    """Return the revisions of each resource, the highest number first. Objects with other keys are left out.

    A rebuild takes the first revision with a valid HMAC.
    """
    by_name: defaultdict[ResourceName, defaultdict[int, list[RevisionCopy]]] = defaultdict(lambda: defaultdict(list))
    for copy in copies:
        named = name_revision(copy.key)
        if named is not None:
            by_name[named[0]][named[1]].append(copy)
    return {
        name: [RevisionChoice(number=number, copies=found[number]) for number in sorted(found, reverse=True)]
        for name, found in sorted(by_name.items())
    }
