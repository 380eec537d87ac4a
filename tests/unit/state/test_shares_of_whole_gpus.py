"""A GPU that is offered as one device for several claims: what each is given of it is a share."""

import pytest

from state.ids import Use
from state.records import AppliedDevice
from state.usage import logical_of

GPU = "0000-03-00-0-0x56c0"


@pytest.mark.parametrize(
    ("device", "share_id", "kernel_driver", "use"),
    [
        (GPU, "", "drm", Use.WHOLE),
        (GPU, "a671734a", "drm", Use.SHARED),
        (GPU, "a671734a", "vfio", Use.WHOLE),
        (f"{GPU}-shared", "a671734a", "drm", Use.SHARED),
        (f"{GPU}-m4-vf1", "a671734a", "drm", Use.VF),
        (f"{GPU}-monitor", "", "drm", Use.MONITOR),
    ],
)
def test_use(device: str, share_id: str, kernel_driver: str, use: Use) -> None:
    record = AppliedDevice(device=device, share_id=share_id, kernel_driver=kernel_driver)
    assert logical_of(record).use is use
