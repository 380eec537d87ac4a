from typing import Any

import pytest

from state.dra.projection import Projection, project
from state.manifest import KernelDriver
from tests.unit.state.dra.objects import NODE, PF, claim, gpu_config, opaque, result, table


def of(*results: dict[str, Any], **more: Any) -> Projection:
    return project(claim("u", *results, **more), NODE, table())


def test_a_layout_is_the_models_whole_profile() -> None:
    (flex,) = of(
        result(f"{PF}-m4", shareID="s", consumedCapacity={"memory": "3384Mi", "millicores": "250"})
    ).devices
    assert flex.layout is not None
    assert (flex.layout.name, flex.mode, flex.device.physical_function) == ("flex170_m4", "m4", PF)
    assert (flex.device.memory, flex.device.millicores, flex.device.share_id) == (3384 * 2**20, 250, "s")
    (ponte,) = of(result("0000-3a-00-0-0x0bd5-c62")).devices
    assert ponte.layout is not None
    assert ponte.layout.name == "max_128g_c62"
    (fair,) = of(result("0000-3a-00-0-0xe20b-fs2")).devices
    assert fair.layout is not None
    assert (fair.layout.name, fair.layout.count) == ("fs2", 2)


def test_a_pinned_vf_needs_no_index() -> None:
    (pinned,) = of(result(f"{PF}-m4-vf2")).devices
    assert pinned.layout is None
    assert pinned.device.virtual_function is not None
    assert (pinned.device.virtual_function.profile, pinned.device.virtual_function.index) == ("flex170_m4", 2)


def test_devices_of_other_pools_are_other_nodes() -> None:
    assert [one.device.device for one in of(result(PF, "a"), {**result(PF, "b"), "pool": "node-2"}).devices] == [
        PF
    ]


def test_requests_get_their_own_drivers() -> None:
    projection = of(result(PF, "a"), result(f"{PF}-m4", "r/b"), config=[opaque(gpu_config("vfio"), "r")])
    assert [one.device.kernel_driver for one in projection.devices] == [KernelDriver.DRM, KernelDriver.VFIO]
    assert [request for request, _ in projection.config] == ["r/b"]


@pytest.mark.parametrize(
    ("bad", "field", "words"),
    [
        (result("gpu-0"), "device", "'gpu-0'"),
        (result(f"{PF}-m3"), "device", "m4"),
        (result("0000-03-00-0-0x9999-m4"), "device", "fs<n>"),
        (result(f"{PF}-m4-vf4"), "device", "VFs 0 to 3"),
        (result(f"{PF}-monitor"), "adminAccess", "true"),
        (result(f"{PF}-m4", adminAccess=True), "device", f"{PF}-monitor"),
        (result(PF, consumedCapacity={"memory": "4Zi"}), "consumedCapacity.memory", "4Zi"),
        (result(PF, consumedCapacity={"millicores": "0"}), "consumedCapacity.millicores", "1"),
    ],
)
def test_what_cannot_be_is_refused_by_name(bad: dict[str, Any], field: str, words: str) -> None:
    projection = of(result(PF, "fine"), bad)
    assert projection.devices == ()
    assert projection.refused is not None
    assert projection.refused.path == f"status.allocation.devices.results[1].{field}"
    assert words in projection.refused.reason


@pytest.mark.parametrize(
    ("device", "more"),
    [(PF, {"adminAccess": True}), (f"{PF}-monitor", {"adminAccess": True}), (f"{PF}-shared", {})],
)
@pytest.mark.parametrize("driver", ["vfio", "xe-vfio"])
def test_what_others_use_cannot_be_passed_through(device: str, more: dict[str, Any], driver: str) -> None:
    projection = of(result(device, **more), config=[opaque(gpu_config(driver))])
    assert projection.refused is not None
    assert f"kernelDriver {driver}" in projection.refused.reason


def test_a_mistake_in_a_config_refuses_the_claim() -> None:
    projection = of(result(PF), config=[opaque(gpu_config("nvme"))])
    assert projection.refused is not None
    assert projection.refused.path.endswith("config[0].opaque.parameters.kernelDriver")
