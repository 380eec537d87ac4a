"""Smaller devices that come with a bound GPU: the management engine interface and hardware monitoring."""

from __future__ import annotations

from gpusim.model.kernel import ClassDevice, Kernel
from gpusim.model.nodes import CharacterDevice
from gpusim.model.pci import PciFunction
from gpusim.model.tree import constant

_MEI_MAJOR = 241
_SENSORS: dict[str, dict[str, int | str]] = {
    "i915": {
        "in0_input": 780,
        "power1_max": 150_000_000,
        "power1_rated_max": 150_000_000,
        "energy1_input": 123_456_789,
        "temp1_input": 41_000,
    },
    "xe": {
        "power1_max": 70_000_000,
        "power1_label": "card",
        "energy1_input": 123_456_789,
        "temp2_input": 41_000,
        "temp2_label": "pkg",
        "temp2_crit": 105_000,
        "temp3_input": 44_000,
        "temp3_label": "vram",
        "temp3_crit": 110_000,
        "fan1_input": 1_200,
    },
}
"""hwmon files with plausible values: mV, µW, µJ, millidegrees, RPM."""


class Mei:
    """The GPU's own management engine: an auxiliary device with one mei character device."""

    def __init__(self, kernel: Kernel, function: PciFunction, driver: str) -> None:
        self._kernel = kernel
        self._number = kernel.numbers.take("mei")
        self._auxiliary = f"{function.path}/{driver}.mei-gscfi.{function.address.auxiliary_id}"
        self._device = ClassDevice(
            path=f"{self._auxiliary}/mei/mei{self._number}",
            subsystem="mei",
            parent=self._auxiliary,
            character=CharacterDevice(_MEI_MAJOR, self._number),
            node=f"mei{self._number}",
        )
        self._device.register(kernel)

    def unregister(self) -> None:
        self._device.unregister(self._kernel)
        self._kernel.tree.remove(self._auxiliary)
        self._kernel.numbers.give_back("mei", self._number)


class Hwmon:
    """Sensors; their values are changed with Machine.set_attribute."""

    def __init__(self, kernel: Kernel, function: PciFunction, driver: str) -> None:
        self._kernel = kernel
        self._directory = f"{function.path}/hwmon"
        self._number = kernel.numbers.take("hwmon")
        path = f"{self._directory}/hwmon{self._number}"
        self._device = ClassDevice(path=path, subsystem="hwmon", parent=function.path)
        kernel.tree.add(f"{path}/name", constant(driver))
        for name, value in _SENSORS[driver].items():
            kernel.tree.add(f"{path}/{name}", constant(value))
        self._device.register(kernel)

    def unregister(self) -> None:
        self._device.unregister(self._kernel)
        self._kernel.tree.remove(self._directory)
        self._kernel.numbers.give_back("hwmon", self._number)
