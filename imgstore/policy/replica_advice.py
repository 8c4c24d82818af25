"""Advise how many replicas serve machines that are created at the same time. The advice never refuses a request.

Azure recommends "a ratio of one replica for every 20 VMs that you create concurrently" (50 today).
https://learn.microsoft.com/azure/virtual-machines/azure-compute-gallery#scaling
"""

from datetime import timedelta
from typing import Final

CONCURRENT_WINDOW: Final = timedelta(minutes=1)
"""Machines within this time count as concurrent. A machine reads most of its boot data in the first minute."""


def advise_replica_count(machines: int, machines_per_replica: int) -> int:
    """Return how many replicas serve `machines` concurrent machines."""
    return -(-machines // machines_per_replica)


def scaling_advice(machines: int, replicas: int, machines_per_replica: int, *, where: str) -> str | None:
    """Return a warning if a region has too few replicas for the concurrent machines, else None.

    Args:
        machines: Concurrent machines from one version in one region, with the new machine.
        replicas: Complete replicas of the region.
        machines_per_replica: Machines that one replica serves well.
        where: The name of the region in messages.
    """
    wanted = advise_replica_count(machines, machines_per_replica)
    if wanted <= replicas:
        return None
    return (
        f"{machines} disks within a minute from {replicas} {'replica' if replicas == 1 else 'replicas'} in {where}: "
        f"{wanted} replicas are advised, one for each {machines_per_replica} disks (machines_per_replica)"
    )
