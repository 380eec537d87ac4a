"""The words of ``gpu-reconciler plugin``."""

import pytest

from reconciler.cli.arguments import parse
from reconciler.cli.problems import UsageError

WORDS = ("plugin", "--node-name", "a")
UID = "0f0f0f0f-0000-4000-8000-000000000001"


def test_flags_win_over_the_environment() -> None:
    environment = {"KUBELET_ROOT": "/from/environment", "NODE_NAME": "b", "POD_UID": UID}
    options = parse(["plugin"], environment)
    assert (options.node_name, options.kubelet_root, options.instance) == ("b", "/from/environment", "")
    options = parse([*WORDS, "--kubelet-root", "/from/flag", "--rolling"], environment)
    assert (options.node_name, options.kubelet_root, options.instance) == ("a", "/from/flag", UID)


def test_without_either_the_usual_place_is_taken() -> None:
    assert parse(WORDS, {}).kubelet_root == ""


@pytest.mark.parametrize("uid", [None, "", "../x", "A", "-", "a" * 37])
def test_rolling_needs_the_pods_uid(uid: str | None) -> None:
    with pytest.raises(UsageError, match=r"^--rolling: POD_UID is .* \(allowed: a pod's UID\)$"):
        parse([*WORDS, "--rolling"], {} if uid is None else {"POD_UID": uid})


def test_the_name_of_the_node_is_required() -> None:
    with pytest.raises(UsageError, match="see gpu-reconciler plugin --help"):
        parse(["plugin"], {})
