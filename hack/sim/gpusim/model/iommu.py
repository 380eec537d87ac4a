"""IOMMU groups: kernel/iommu_groups/N and each function's iommu_group link."""

from __future__ import annotations

from gpusim.model.kernel import Kernel
from gpusim.model.pci import PciFunction
from gpusim.model.tree import constant


def join(kernel: Kernel, function: PciFunction, fixed: int | None) -> None:
    """Put a function into a group: the fixed one, or the lowest free."""
    if fixed is not None:
        kernel.numbers.take_one_of("iommu", [fixed])
    number = kernel.numbers.take("iommu") if fixed is None else fixed
    function.iommu_group = number
    group = f"kernel/iommu_groups/{number}"
    kernel.tree.add(f"{group}/type", constant("DMA"))
    kernel.tree.add_link(f"{group}/devices/{function}", function.path)
    kernel.tree.add_link(f"{function.path}/iommu_group", group)


def leave(kernel: Kernel, function: PciFunction) -> None:
    """Take a function out of its group; an empty group goes away."""
    number = function.iommu_group
    if number is None:
        return
    function.iommu_group = None
    group = f"kernel/iommu_groups/{number}"
    kernel.tree.remove(f"{function.path}/iommu_group")
    kernel.tree.remove(f"{group}/devices/{function}")
    if not kernel.tree.listdir(f"{group}/devices"):
        kernel.tree.remove(group)
        kernel.numbers.give_back("iommu", number)
