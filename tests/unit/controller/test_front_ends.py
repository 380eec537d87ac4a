"""Discovery against simulated API servers of every release, and against answers that are none."""

import json

import pytest

import kubesim
from reconciler.controller.front_ends import NoFrontEnd, discover
from reconciler.runtime.kube.client import NO_RETRIES, KubeClient
from reconciler.runtime.kube.errors import ApiError
from reconciler.runtime.kube.transport import Request, Response
from state.dra.resource_claims import ClaimReader, ClaimRef
from tests.kube_in_memory import InMemory


class Scripted(InMemory):
    """Serves resource.k8s.io as told: resource names by version."""

    def __init__(self, served: dict[str, list[str]]) -> None:
        super().__init__(kubesim.Cluster("1.36"))
        self.served = served

    def send(self, request: Request) -> Response:
        version = request.path.removeprefix("/apis/resource.k8s.io").strip("/")
        answer: object = {"versions": [{"version": name} for name in self.served]}
        if version:
            answer = {"resources": [{"name": name} for name in self.served[version]]}
        return Response(status=200, body=json.dumps(answer).encode())


@pytest.mark.parametrize(
    ("release", "version"), [("1.36", "v1"), ("1.34", "v1"), ("1.33", "v1beta2"), ("1.32", "v1beta1")]
)
def test_the_best_version_of_each_release_is_chosen(release: str, version: str) -> None:
    row = discover(KubeClient(InMemory(kubesim.Cluster(release))))
    assert row.version == version
    assert not row.allocates
    assert row.reader == ClaimReader()


def test_1_31_is_structured_unless_its_classic_mode_is_on() -> None:
    plain = ["deviceclasses", "resourceclaims", "resourceclaims/status", "resourceslices"]
    row = discover(KubeClient(Scripted({"v1alpha3": plain})))
    assert row.reader == ClaimReader(admin_access_in_spec=True)
    row = discover(KubeClient(Scripted({"v1alpha3": [*plain, "podschedulingcontexts"]})))
    assert (row.version, row.allocates) == ("v1alpha3", True)


@pytest.mark.parametrize(
    ("release", "version", "schedulings"),
    [("1.26", "v1alpha1", "podschedulings")]
    + [(release, "v1alpha2", "podschedulingcontexts") for release in ("1.27", "1.28", "1.29", "1.30")],
)
def test_older_releases_are_classic(release: str, version: str, schedulings: str) -> None:
    row = discover(KubeClient(InMemory(kubesim.Cluster(release))))
    assert row.version == version
    assert row.classic is not None
    assert row.classic.schedulings == schedulings


def test_a_version_without_claims_is_none() -> None:
    assert (
        discover(KubeClient(Scripted({"v1": ["resourceclaims"], "v1alpha3": ["devicetaintrules"]}))).version
        == "v1"
    )
    with pytest.raises(NoFrontEnd, match="v1alpha3"):
        discover(KubeClient(Scripted({"v1alpha3": ["devicetaintrules"]})))


def test_what_is_not_served_is_told() -> None:
    with pytest.raises(NoFrontEnd, match="v9; known here: v1, v1beta2"):
        discover(KubeClient(Scripted({"v9": ["resourceclaims"]})))


def test_an_answer_that_is_none_is_an_api_error() -> None:
    class Garbling(InMemory):
        def send(self, request: Request) -> Response:
            return Response(status=200, body=b"<html>")

    with pytest.raises(ApiError, match="discovery"):
        discover(KubeClient(Garbling(kubesim.Cluster("1.36")), retries=NO_RETRIES))


def test_names_are_quoted_in_paths() -> None:
    row = discover(KubeClient(InMemory(kubesim.Cluster("1.36"))))
    assert row.claim_path(ClaimRef("a/../b", "c?d")).endswith("/namespaces/a%2F..%2Fb/resourceclaims/c%3Fd")
