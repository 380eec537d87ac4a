from typing import Any

import msgspec
import pytest

from state.dra.resource_claims import ClaimReader
from tests.unit.state.dra.objects import PF, opaque, raw_claim, result


def encode(raw: Any) -> bytes:
    return msgspec.json.encode(raw)


def test_only_what_is_ours_is_kept() -> None:
    raw = raw_claim(
        "u",
        {**result("nic-0"), "driver": "nic.example.com"},
        result(PF, consumedCapacity={"memory": "4Gi"}, shareID="s", bindingConditions=["later"]),
        config=[opaque({"a": 1}, driver="nic.example.com"), opaque({"b": 2})],
    )
    claim = ClaimReader().claim(encode(raw))
    (ours,) = claim.results
    assert (ours.position, ours.device, ours.share_id, ours.consumed) == (1, PF, "s", (("memory", "4Gi"),))
    assert [config.position for config in claim.configs] == [1]
    assert ClaimReader(driver="nic.example.com").claim(encode(raw)).results[0].device == "nic-0"


def test_nulls_are_as_good_as_nothing() -> None:
    raw = raw_claim("u", result(PF, shareID=None, adminAccess=None, consumedCapacity=None))
    raw["status"]["allocation"]["devices"]["config"] = None
    (ours,) = ClaimReader().claim(encode(raw)).results
    assert (ours.share_id, ours.admin_access, ours.consumed) == ("", False, ())
    statuses: list[Any] = [None, {}, {"allocation": None}, {"allocation": {}}]
    for status in [*statuses, {"allocation": {"devices": {"results": None}}}]:
        assert ClaimReader().claim(encode({**raw, "status": status})).results == ()


def test_1_31_has_admin_access_in_the_spec() -> None:
    raw = raw_claim("u", result(PF, "a"), result(PF, "b"))
    raw["spec"]["devices"]["requests"] = [{"name": "a", "adminAccess": True}, {"name": "b"}]
    reader = ClaimReader(admin_access_in_spec=True)
    assert [one.admin_access for one in reader.claim(encode(raw)).results] == [True, False]
    assert [one.admin_access for one in ClaimReader().claim(encode(raw)).results] == [False, False]


def test_what_a_classic_controller_allocated_is_not_ours() -> None:
    raw = raw_claim("u", result(PF))
    raw["status"]["allocation"]["controller"] = "gpu.dra.intel.com"
    assert ClaimReader(admin_access_in_spec=True).claim(encode(raw)).results == ()


def test_pages_leave_out_claims_without_our_devices() -> None:
    items = [raw_claim("a"), raw_claim("b", result(PF))]
    page = ClaimReader().page(encode({"metadata": {"continue": "more"}, "items": items}))
    assert ([claim.uid for claim in page.claims], page.continue_token) == (["b"], "more")
    assert ClaimReader().page(encode({"metadata": {}, "items": None})).claims == ()


@pytest.mark.parametrize("raw", [b"", b"{}", b'{"metadata": {"name": 1}}', b'{"metadata": null}', b"\xff"])
def test_anything_else_is_an_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        ClaimReader().claim(raw)
