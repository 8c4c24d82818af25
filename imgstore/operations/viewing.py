"""An image version as it is shown: with its replicas and what it is in."""

from collections.abc import Sequence
from dataclasses import dataclass

from imgstore.catalog import Facts
from imgstore.domain.resources import ImageVersion, Replica
from imgstore.domain.states import ReplicaState
from imgstore.operations.finding import Lineage


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionView:
    """A version with its replicas and what it is in."""

    version: ImageVersion
    replicas: tuple[Replica, ...]
    """By region and ordinal; none that is being deleted."""
    line: Lineage


def view_of(facts: Facts, line: Lineage, version: ImageVersion) -> VersionView:
    """A version with its replicas."""
    return seen(line, version, facts.replicas.list(version.uid))


def seen(line: Lineage, version: ImageVersion, replicas: Sequence[Replica]) -> VersionView:
    """The same, of replicas that were read already."""
    visible = tuple(replica for replica in replicas if replica.state is not ReplicaState.DELETING)
    return VersionView(version=version, replicas=visible, line=line)
