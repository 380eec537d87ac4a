"""Our slices before the simulated scheduler, which was checked against recordings of a real one."""

from typing import Any

import pytest

from kubesim.actors.running import settle
from kubesim.actors.scheduler import Scheduler
from state.manifest import Layout
from tests.slices.machines import status_of
from tests.slices.scene import Scene, scene

TYPES = {"gpu.intel.com": "gpu", "vf.gpu.intel.com": "vf", "shared.gpu.intel.com": "shared"}
CLASSES = "/apis/resource.k8s.io/v1/deviceclasses"
CLAIMS = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"


class Cluster:
    """A node with a Flex 170, and a scheduler that gives claims their devices at once."""

    def __init__(self, here: Scene, layout: Layout) -> None:
        self.cluster = here.cluster
        here.offer(status_of("flex170"), layout=layout)
        here.settle()
        for name, kind in TYPES.items():
            expression = f'device.driver == "gpu.intel.com" && device.attributes["gpu.intel.com"].type == "{kind}"'
            selectors = [{"cel": {"expression": expression}}]
            self._make(CLASSES, "DeviceClass", name, {"selectors": selectors})
        self.scheduler = Scheduler(self.cluster, immediate=True)

    def _make(self, path: str, kind: str, name: str, spec: dict[str, Any]) -> None:
        body = {"apiVersion": "resource.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}
        self.cluster.create(path, body)

    def claim(self, name: str, device_class: str, *requests: dict[str, str], parent: bool = False) -> list[str]:
        """What a claim is given: devices without the GPU's name; nothing where it has to wait."""
        asked = [
            {
                "name": f"r{number}",
                "exactly": {
                    "deviceClassName": device_class,
                    **({"capacity": {"requests": needs}} if needs else {}),
                },
            }
            for number, needs in enumerate(requests or ({},))
        ]
        devices: dict[str, Any] = {"requests": asked}
        if parent:
            devices["constraints"] = [{"matchAttribute": "gpu.intel.com/parent"}]
        self._make(CLAIMS, "ResourceClaim", name, {"devices": devices})
        settle(self.cluster, self.scheduler)
        allocation = self.cluster.get(f"{CLAIMS}/{name}").get("status", {}).get("allocation")
        if allocation is None:
            return []
        gpu = status_of("flex170").devices[0].name
        return [result["device"].removeprefix(gpu) for result in allocation["devices"]["results"]]


def test_one_mode_at_a_time() -> None:
    with scene() as here:
        cluster = Cluster(here, Layout.DYNAMIC)
        sized = {"memory": "3500Mi"}
        assert [cluster.claim(f"vf{number}", "vf.gpu.intel.com", sized) for number in range(4)] == [["-m4"]] * 4
        assert cluster.claim("fifth", "vf.gpu.intel.com", sized) == []
        assert cluster.claim("whole", "gpu.intel.com") == []
        assert cluster.claim("share", "shared.gpu.intel.com") == []


def test_many_vfs_of_one_gpu() -> None:
    with scene() as here:
        cluster = Cluster(here, Layout.DYNAMIC)
        eight = [{"memory": "1500Mi"}] * 8
        assert cluster.claim("eight", "vf.gpu.intel.com", *eight, parent=True) == ["-m8"] * 8


def test_shares_of_memory() -> None:
    with scene() as here:
        cluster = Cluster(here, Layout.DYNAMIC)
        for number, size in enumerate(("512Mi", "700Mi", "10Gi")):
            assert cluster.claim(f"share{number}", "shared.gpu.intel.com", {"memory": size}) == ["-shared"]
        assert cluster.claim("much", "shared.gpu.intel.com", {"memory": "12Gi"}) == []
        assert cluster.claim("vf", "vf.gpu.intel.com") == []


@pytest.mark.parametrize("layout", [Layout.DYNAMIC, Layout.COUNTER_FREE, Layout.PINNED])
def test_a_whole_gpu_is_nobody_elses(layout: Layout) -> None:
    with scene() as here:
        cluster = Cluster(here, layout)
        assert cluster.claim("whole", "gpu.intel.com") == [""]
        assert cluster.claim("second", "gpu.intel.com") == []
        assert cluster.claim("vf", "vf.gpu.intel.com") == []


def test_a_divisible_gpu() -> None:
    with scene() as here:
        cluster = Cluster(here, Layout.COUNTER_FREE)
        some = {"memory": "2Gi", "millicores": "100"}
        assert cluster.claim("one", "gpu.intel.com", some) == [""]
        assert cluster.claim("two", "gpu.intel.com", some) == [""]
        assert cluster.claim("whole", "gpu.intel.com") == []
