from typing import Any

import pytest

from state.dra.gpu_config import ConfigRefusedError, config_of
from state.manifest import KernelDriver
from tests.unit.state.dra.objects import PF, claim, gpu_config, opaque, result


def driver(request: str, *config: dict[str, Any]) -> KernelDriver | None:
    found = config_of(request, claim("u", result(PF, request), config=config).configs)
    return None if found is None else found.kernel_driver


def test_nothing_configured_is_nothing() -> None:
    assert driver("gpu") is None
    assert driver("gpu", opaque({"kind": "Else"}, driver="other.example.com")) is None
    assert driver("gpu", opaque(gpu_config("vfio"), "another")) is None


def test_no_requests_means_all_of_them() -> None:
    assert driver("gpu", opaque(gpu_config("vfio"))) is KernelDriver.VFIO


@pytest.mark.parametrize("named", ["r", "r/sub"])
def test_a_subrequest_is_meant_by_either_name(named: str) -> None:
    assert driver("r/sub", opaque(gpu_config("vfio"), named)) is KernelDriver.VFIO


def test_the_class_gives_way_to_the_claim_and_the_earlier_to_the_later() -> None:
    own = opaque(gpu_config("drm"), "gpu")
    of_class = opaque(gpu_config("vfio"), "gpu", source="FromClass")
    assert driver("gpu", own, of_class) is KernelDriver.DRM
    assert driver("gpu", of_class, own) is KernelDriver.DRM
    assert driver("gpu", own, opaque(gpu_config("xe-vfio"))) is KernelDriver.XE_VFIO


@pytest.mark.parametrize(
    ("parameters", "path", "words"),
    [
        (gpu_config("nvme"), ".kernelDriver", "drm, vfio, xe-vfio"),
        (gpu_config("vfio") | {"kernelDriwer": "x"}, ".kernelDriwer", "kernelDriver"),
        (gpu_config("vfio") | {"apiVersion": "gpu.intel.com/v9"}, ".apiVersion", "gpu.intel.com/v1alpha1"),
        (gpu_config("vfio") | {"kind": "Config"}, ".kind", "GpuConfig"),
        ({"kernelDriver": "vfio"}, ".apiVersion", "missing|required"),
        ([], "", "object"),
        (gpu_config("x" * 11_000), "", "bytes, more than 10240"),
    ],
)
def test_mistakes_are_refused_where_they_are(parameters: Any, path: str, words: str) -> None:
    with pytest.raises(ConfigRefusedError, match=words) as caught:
        driver("gpu", opaque(gpu_config("vfio")), opaque(parameters))
    assert caught.value.refusal.path == f"status.allocation.devices.config[1].opaque.parameters{path}"


def test_a_mistake_counts_though_a_later_one_overrides_it() -> None:
    with pytest.raises(ConfigRefusedError):
        driver("gpu", opaque(gpu_config("nvme"), source="FromClass"), opaque(gpu_config("vfio")))
