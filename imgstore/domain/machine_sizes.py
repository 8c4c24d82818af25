"""Azure's sizes of machines: virtual CPUs and memory.

Source: https://learn.microsoft.com/azure/virtual-machines/sizes/overview, general purpose series of x86-64.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from imgstore.domain.errors import InvalidInput


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSize:
    """The processors and the memory of a size."""

    vcpus: int
    memory_mib: int


def _series(pattern: str, memory_gib_per_vcpu: float, *vcpus: int) -> dict[str, MachineSize]:
    return {
        pattern.format(count): MachineSize(vcpus=count, memory_mib=round(count * memory_gib_per_vcpu * 1024))
        for count in vcpus
    }


_SIZES: Final[Mapping[str, MachineSize]] = {
    "Standard_B1ls": MachineSize(vcpus=1, memory_mib=512),
    "Standard_B1s": MachineSize(vcpus=1, memory_mib=1024),
    "Standard_B1ms": MachineSize(vcpus=1, memory_mib=2048),
    "Standard_B2s": MachineSize(vcpus=2, memory_mib=4096),
    **_series("Standard_B{}ms", 4, 2, 4, 8, 12, 16, 20),
    "Standard_DS1_v2": MachineSize(vcpus=1, memory_mib=3584),
    "Standard_DS2_v2": MachineSize(vcpus=2, memory_mib=7168),
    "Standard_DS3_v2": MachineSize(vcpus=4, memory_mib=14336),
    "Standard_DS4_v2": MachineSize(vcpus=8, memory_mib=28672),
    "Standard_D1_v2": MachineSize(vcpus=1, memory_mib=3584),
    "Standard_D2_v2": MachineSize(vcpus=2, memory_mib=7168),
    **_series("Standard_D{}s_v3", 4, 2, 4, 8, 16, 32),
    **_series("Standard_D{}s_v4", 4, 2, 4, 8, 16, 32),
    **_series("Standard_D{}s_v5", 4, 2, 4, 8, 16, 32),
    **_series("Standard_D{}as_v5", 4, 2, 4, 8, 16, 32),
    **_series("Standard_E{}s_v5", 8, 2, 4, 8, 16, 32),
    **_series("Standard_F{}s_v2", 2, 2, 4, 8, 16, 32),
}
_BY_FOLDED_NAME: Final = {name.casefold(): size for name, size in _SIZES.items()}


def find_size(name: str) -> MachineSize:
    """Return the size with a name.

    Raises:
        InvalidInput: the table has no such size.
    """
    found = _BY_FOLDED_NAME.get(name.casefold())
    if found is None:
        raise InvalidInput(
            "The size of the virtual machine is unknown, so the machine cannot start.",
            found=name,
            expected=f"one of {', '.join(sorted(_SIZES))}",
            hint="change the size: repeat `imgstore vm create` with --size",
            target="properties.hardwareProfile.vmSize",
            code="InvalidParameter",
        )
    return found
