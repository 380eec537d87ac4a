"""The data files shipped with ``state``: GPU models and VF profiles; and the machine's own pci.ids for names.

The data files are ours, so anything wrong in them is an error at once. pci.ids is the distribution's: whatever
it lacks or garbles only costs a name.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, Literal, TypeVar

import msgspec
import yaml

from state.models import Model, ModelTable
from state.profiles import Profile, ProfileTable, Quota

_PCI_IDS_BYTES = 8 * 1024 * 1024
_INTEL = re.compile(rb"^8086[ \t][^\n]*$", re.MULTILINE)
_NEXT_VENDOR = re.compile(rb"^[^\t#\n]", re.MULTILINE)
_DEVICE_LINE = re.compile(rb"^\t([0-9a-f]{4})[ \t]+([^\n]+)$", re.MULTILINE)
_MARKETING_NAME = re.compile(r"\[([^\[\]]+)\]\s*$")

_DeviceId = Annotated[str, msgspec.Meta(pattern=r"^0x[0-9a-f]{4}$")]
_Count = Annotated[int, msgspec.Meta(ge=1)]


class _ModelRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: _DeviceId
    name: str
    family: str
    driver: Literal["i915", "xe"]
    tiles: _Count | None = None
    integrated: bool


class _ModelsFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    models: tuple[_ModelRow, ...]


class _ProfileRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    count: _Count
    contexts: _Count
    doorbells: _Count
    exec_quantum_ms: _Count
    preempt_timeout_us: _Count
    ggtt: _Count
    lmem: _Count
    lmem_ecc_on: _Count


class _ProfilesFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    profiles: dict[str, _ProfileRow]
    models: dict[_DeviceId, tuple[str, ...]]


_File = TypeVar("_File", _ModelsFile, _ProfilesFile)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """What is known about GPU models before any is looked at."""

    models: ModelTable
    profiles: ProfileTable


def load_tables(pci_ids: str) -> Tables:
    """Both data files, and names from the file ``pci_ids`` when it is there.

    Raises yaml.YAMLError or msgspec.ValidationError (which name the place) when a data file is damaged.
    """
    return Tables(
        models=ModelTable(by_device_id=_models(_shipped("devices.yaml")), pci_ids=load_pci_ids(pci_ids)),
        profiles=ProfileTable(by_device_id=_profiles(_shipped("sriov-profiles.yaml"))),
    )


def load_pci_ids(path: str) -> dict[int, str]:
    """Names of Intel's PCI devices by device id; empty when the file can't be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        with open(descriptor, "rb") as stream:
            return decode_pci_ids(stream.read(_PCI_IDS_BYTES))
    except OSError:
        return {}


def decode_pci_ids(content: bytes) -> dict[int, str]:
    """Names in the block of vendor 8086: the marketing name in brackets where there is one."""
    start = _INTEL.search(content)
    if start is None:
        return {}
    end = _NEXT_VENDOR.search(content, start.end())
    names = {}
    for line in _DEVICE_LINE.finditer(content, start.end(), end.start() if end else len(content)):
        text = line[2].decode("utf-8", "replace").strip()
        marketing = _MARKETING_NAME.search(text)
        names[int(line[1], 16)] = marketing[1].strip() if marketing else text
    return names


def _shipped(name: str) -> bytes:
    return resources.files("state").joinpath("tables", name).read_bytes()


def _decode(content: bytes, kind: type[_File]) -> _File:
    return msgspec.convert(yaml.load(content, Loader=yaml.CSafeLoader), kind)


def _models(content: bytes) -> dict[int, Model]:
    return {
        int(row.id, 16): Model(
            name=row.name,
            family=row.family,
            drm_driver=row.driver,
            integrated=row.integrated,
            tiles=row.tiles,
        )
        for row in _decode(content, _ModelsFile).models
    }


def _profiles(content: bytes) -> dict[int, tuple[Profile, ...]]:
    file = _decode(content, _ProfilesFile)
    profiles = {name: _profile(name, row) for name, row in file.profiles.items()}
    return {int(model, 16): tuple(profiles[name] for name in names) for model, names in file.models.items()}


def _profile(name: str, row: _ProfileRow) -> Profile:
    quota = Quota(
        contexts=row.contexts,
        doorbells=row.doorbells,
        exec_quantum_ms=row.exec_quantum_ms,
        preempt_timeout_us=row.preempt_timeout_us,
        ggtt=row.ggtt,
        lmem=row.lmem,
        lmem_ecc_on=row.lmem_ecc_on,
    )
    return Profile(name=name, count=row.count, quota=quota)
