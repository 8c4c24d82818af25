"""How many replicas machines that are made at once want: advice, never a refusal.

After Azure: "a ratio of one replica for every 20 VMs that you create concurrently" (50 today).
https://learn.microsoft.com/azure/virtual-machines/azure-compute-gallery#scaling
"""

from datetime import timedelta
from typing import Final

CONCURRENT_WINDOW: Final = timedelta(minutes=1)
"""What is made within it is made at once: a machine reads most of what it boots from in its first minute."""


def advise_replica_count(machines: int, machines_per_replica: int) -> int:
    """How many replicas serve so many machines well."""
    return -(-machines // machines_per_replica)


def scaling_advice(machines: int, replicas: int, machines_per_replica: int, *, where: str) -> str | None:
    """What to tell a person who makes more machines at once than the replicas serve well; None if they do.

    Args:
        machines: made at once from one version in one region, the last one included.
        replicas: that may be handed out there.
        machines_per_replica: that one serves well.
        where: the region, as people know it.
    """
    wanted = advise_replica_count(machines, machines_per_replica)
    if wanted <= replicas:
        return None
    return (
        f"{machines} disks within a minute from {replicas} {'replica' if replicas == 1 else 'replicas'} in {where}: "
        f"{wanted} serve so many well, one for every {machines_per_replica} (machines_per_replica)"
    )
