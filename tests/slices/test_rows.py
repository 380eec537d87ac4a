"""Which version of resource.k8s.io is chosen on each release, and what the kubelet plugin is told of it."""

import pytest

import kubesim
from plugin.services import SERVICES, chosen
from reconciler.node.slice_publisher import CHECK_SECONDS
from state.server_info import (
    MESSAGE_FORM,
    STRING_FORM,
    ServerInfo,
    ServerInfoError,
    decode_server_info,
    encode_server_info,
)
from state.server_rows import SERVER_ROWS
from tests.slices.machines import status_of
from tests.slices.scene import NODE, scene

CLASSIC = ("gpu.dra.intel.com", "gpu.resource.intel.com")
STRUCTURED = ("gpu.intel.com",)
TWO_FORMS = ("v1alpha3.Node.strings", "v1alpha2.Node")
CURRENT = ("v1.DRAPlugin", "v1beta1.DRAPlugin", "v1alpha1.DRAResourceHealth")
OLDER = (*CURRENT, "v1alpha3.NodeService")


@pytest.mark.parametrize(
    ("release", "classic", "row", "drivers", "services"),
    [
        ("1.26", True, "v1alpha1", CLASSIC, ("v1alpha1.Node",)),
        ("1.27", True, "v1alpha2", CLASSIC, TWO_FORMS),
        ("1.29", True, "v1alpha2", CLASSIC, TWO_FORMS),
        ("1.30", True, "v1alpha2", CLASSIC, TWO_FORMS),
        ("1.31", True, "v1alpha3", CLASSIC, ("v1alpha3.NodeService",)),
        ("1.31", False, "v1alpha3", STRUCTURED, ("v1alpha3.NodeService",)),
        ("1.32", False, "v1beta1", STRUCTURED, OLDER),
        ("1.33", False, "v1beta2", STRUCTURED, CURRENT),
        ("1.34", False, "v1", STRUCTURED, CURRENT),
        ("1.36", False, "v1", STRUCTURED, CURRENT),
    ],
)
def test_each_release_has_its_row(
    release: str, classic: bool, row: str, drivers: tuple[str, ...], services: tuple[str, ...]
) -> None:
    with scene(release, classic=classic) as here:
        here.offer(status_of("flex170"))
        here.settle()
        (told,) = here.found
        assert told == ServerInfo(row=row, driver_names=drivers, grpc_services=dict.fromkeys(drivers, services))
        assert decode_server_info(encode_server_info(told)) == told
        paths = {each.request.path for each in here.cluster.requests}
        if classic:
            assert not [path for path in paths if "resourceslices" in path], "nobody asks for slices here"
            assert here.publisher.row is None
            assert here.publisher.withdrawn({"a": "1"}) == {"a": "1"}, "no scheduler has to see it first"
        else:
            assert here.slices()


def test_an_upgraded_server_is_noticed() -> None:
    with scene("1.26", classic=True) as here:
        here.offer(status_of("flex170"))
        here.settle()
        here.cluster = kubesim.Cluster("1.32", seed=1)
        here.cluster.create("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})
        here.transport.upgrade(here.cluster)
        here.now += CHECK_SECONDS
        here.settle()
        assert [each.row for each in here.found] == ["v1alpha1", "v1beta1"]
        assert here.slices()[0]["spec"]["nodeName"] == NODE


def test_two_forms_of_one_path_are_never_offered_together() -> None:
    both = ServerInfo(
        row="v1alpha2",
        driver_names=("gpu.dra.intel.com",),
        grpc_services={"gpu.dra.intel.com": (MESSAGE_FORM, STRING_FORM)},
    )
    with pytest.raises(ServerInfoError, match=r"grpcServices\.gpu\.dra\.intel\.com has both .* \(allowed: one\)"):
        decode_server_info(encode_server_info(both))


def test_every_service_that_the_table_names_can_be_served() -> None:
    for row in SERVER_ROWS:
        assert {service.name for service in chosen(row.services)} == set(row.services)
    named = {name for row in SERVER_ROWS for name in row.services}
    assert {service.name for service in SERVICES} - named == {"v1.DRAResourceHealth"}
