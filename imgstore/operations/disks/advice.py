"""Telling a person what replicas can't do well."""

from imgstore.domain.resources import ManagedDisk
from imgstore.operations.installation import Installation
from imgstore.policy.replica_advice import AT_ONCE, scaling_advice
from imgstore.policy.selection import healthy


def advise_replicas(installation: Installation, disk: ManagedDisk) -> None:
    """Tell, where more disks than its version's replicas serve well were made in the disk's region with it.

    Seconds are those of whoever wrote the disks' rows: a clock that is wrong gives a wrong piece of advice, no more.
    """
    per_replica, version_uid = installation.limits.machines_per_replica, disk.source_version_uid
    assert version_uid is not None, "it was made of an image version a moment ago"
    with installation.catalog.reading() as facts:
        since = installation.effects.now() - AT_ONCE
        machines = facts.disks.count_made(version_uid, disk.location, since=since)
        if machines <= per_replica:
            return  # One replica is enough, and there is one.
        replicas = healthy(facts.replicas.in_region(version_uid, disk.location), disk.location)
    where = installation.regions.get(disk.location).display_name
    advice = scaling_advice(machines, len(replicas), per_replica, where=where)
    if advice is not None:
        installation.note(disk.name, advice)
