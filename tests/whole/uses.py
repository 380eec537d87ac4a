"""What pods ask for, by name."""

from collections.abc import Mapping

from kubesim.values import Object

API = "/apis/resource.k8s.io/v1"
MIB = 1024 * 1024


def _exactly(name: str, device_class: str, **more: object) -> Object:
    return {"name": name, "exactly": {"deviceClassName": device_class, **more}}


def _of(attribute: str, value: str) -> list[Object]:
    return [{"cel": {"expression": f'device.attributes["gpu.intel.com"].{attribute} == "{value}"'}}]


USES: Mapping[str, list[Object]] = {
    "whole": [_exactly("gpu", "gpu.intel.com")],
    "two-whole": [_exactly("gpu", "gpu.intel.com", count=2)],
    "flex": [_exactly("gpu", "gpu.intel.com", selectors=_of("family", "Data Center Flex"))],
    "vf": [_exactly("vf", "vf.gpu.intel.com")],
    "vf-m2": [_exactly("vf", "vf.gpu.intel.com", selectors=_of("profile", "m2"))],
    "vf-big": [_exactly("vf", "vf.gpu.intel.com", capacity={"requests": {"memory": "9Gi"}})],
    "vf-pair": [_exactly("vf", "vf.gpu.intel.com", count=2)],
    "shared": [_exactly("share", "shared.gpu.intel.com", capacity={"requests": {"memory": "3Gi"}})],
    "monitor": [
        _exactly(
            "all",
            "monitor.gpu.intel.com",
            allocationMode="All",
            adminAccess=True,
            tolerations=[{"key": "gpu.intel.com/monitor-only", "operator": "Exists"}],
        )
    ],
    "vfio": [_exactly("gpu", "gpu-vfio.intel.com")],
    "either": [
        {
            "name": "gpu",
            "firstAvailable": [
                {"name": "whole", "deviceClassName": "gpu.intel.com"},
                {"name": "part", "deviceClassName": "vf.gpu.intel.com"},
            ],
        }
    ],
}


def template(use: str) -> Object:
    """A ResourceClaimTemplate named like the use."""
    return {"metadata": {"name": use}, "spec": {"spec": {"devices": {"requests": USES[use]}}}}


def claim(name: str, use: str) -> Object:
    """A ResourceClaim that outlives its pods."""
    return {"metadata": {"name": name}, "spec": {"devices": {"requests": USES[use]}}}


def pod(name: str, *, use: str = "", claim: str = "") -> Object:
    """A pod with a claim of its own for a use, or with one that is there."""
    source = {"resourceClaimName": claim} if claim else {"resourceClaimTemplateName": use}
    return {
        "metadata": {"name": name},
        "spec": {
            "containers": [{"name": "main", "image": "none", "resources": {"claims": [{"name": "gpu"}]}}],
            "resourceClaims": [{"name": "gpu", **source}],
        },
    }
