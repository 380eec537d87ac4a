"""Towns of Kubernetes 1.26 with one node that has two GPUs of a kind."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import yaml

from hack.lab.pods import Town, running_town
from tests.uses.examples import Examples

GPU, OTHER = "0000-03-00-0-0x56c0", "0000-04-00-0-0x56c0"


@contextlib.contextmanager
def town_of_two_gpus(where: Path, classes: str, release: str = "1.26") -> Iterator[Town]:
    """``classes`` is the set of ours that the cluster has."""
    machine = where / "two-gpus.yaml"
    gpus = [{"model": "flex170", "address": f"0000:{bus}:00.0"} for bus in ("03", "04")]
    machine.write_text(yaml.safe_dump({"description": "Two GPUs of a kind", "gpus": gpus}))
    flags = ("--linger-seconds", "1")
    with running_town(where, {"node-a": str(machine)}, release=release, classes=classes, flags=flags) as town:
        yield town


def all_given(examples: Examples, pod: str) -> list[list[str]]:
    """What the node gave to each claim of a pod, sorted."""
    uids = {claim["metadata"]["uid"] for claim in examples.claims(pod)}

    def given() -> dict[str, list[str]]:
        status = (examples.town.lab.node_state("node-a") or {}).get("status", {})
        ready = [one for one in status.get("allocations", ()) if one["name"] in uids and one["phase"] == "Ready"]
        return {one["name"]: [device["device"] for device in one["devices"]] for one in ready}

    examples.until(f"given to {pod}", lambda: given().keys() == uids)
    return sorted(given().values())
