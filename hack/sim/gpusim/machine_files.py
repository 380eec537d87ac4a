"""Loading machines and fault rules from YAML: by the name of a machine that comes along, or from a file."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path

import yaml

from gpusim.model.faults import FaultRule
from gpusim.spec import MachineSpec
from gpusim.strict import FormatError, decode


def machine_names() -> tuple[str, ...]:
    """Names of the machines that come along, sorted."""
    names = (entry.name for entry in _machines().iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml")))


def load_machine(name_or_path: str | Path) -> MachineSpec:
    """A machine that comes along, by name, or any file (with a slash or an ending in .yaml).

    Raises FormatError naming file, field and allowed values; OSError if the file cannot be read.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or text.endswith(".yaml"):
        return parse_machine(Path(text).read_text(encoding="utf-8"), text)
    if text not in machine_names():
        raise FormatError(f"no machine {text!r}; there are {', '.join(machine_names())}")
    return parse_machine((_machines() / f"{text}.yaml").read_text(encoding="utf-8"), text)


def parse_machine(text: str, source: str) -> MachineSpec:
    """A machine from YAML text; `source` starts the messages of FormatError."""
    document = _mapping(text, source)
    gpus = document.get("gpus", [])
    if not isinstance(gpus, list):
        raise FormatError(f"{source}.gpus: a list is needed")
    models = _models()
    expanded = [_with_model(gpu, models, f"{source}.gpus[{index}]") for index, gpu in enumerate(gpus)]
    return decode(MachineSpec, {**document, "gpus": expanded}, source)


@dataclass(frozen=True, slots=True, kw_only=True)
class _FaultFile:
    faults: tuple[FaultRule, ...]


def load_faults(path: str | Path) -> tuple[FaultRule, ...]:
    """Fault rules from a file: `faults:` with a list of rules. Raises FormatError, OSError."""
    return parse_faults(Path(path).read_text(encoding="utf-8"), str(path))


def parse_faults(text: str, source: str) -> tuple[FaultRule, ...]:
    """Fault rules from YAML text."""
    return decode(_FaultFile, _mapping(text, source), source).faults


def _mapping(text: str, source: str) -> Mapping[str, object]:
    try:
        document: object = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise FormatError(f"{source}: {error}") from error
    if not isinstance(document, dict):
        raise FormatError(f"{source}: a mapping is needed")
    # YAML 1.1 reads a bare `on` as true, and it is the most natural key of a rule.
    return {str(key): _with_on(value) for key, value in document.items()}


def _with_on(value: object) -> object:
    if isinstance(value, list):
        return [_with_on(item) for item in value]
    if isinstance(value, dict):
        return {"on" if key is True else key: _with_on(item) for key, item in value.items()}
    return value


def _with_model(gpu: object, models: Mapping[str, object], path: str) -> object:
    """A GPU's fields on top of those of its `model`; `sriov` is merged field by field."""
    if not isinstance(gpu, dict) or "model" not in gpu:
        return gpu
    model = models.get(gpu["model"])
    if not isinstance(model, dict):
        raise FormatError(f"{path}.model: {gpu['model']!r}; allowed are {', '.join(sorted(models))}")
    own = {key: value for key, value in gpu.items() if key != "model"}
    merged = {**model, **own}
    if isinstance(own.get("sriov"), dict) and isinstance(model.get("sriov"), dict):
        merged["sriov"] = {**model["sriov"], **own["sriov"]}
    return merged


def _models() -> Mapping[str, object]:
    text = (importlib.resources.files("gpusim") / "models.yaml").read_text(encoding="utf-8")
    return _mapping(text, "models")


def _machines() -> Traversable:
    return importlib.resources.files("gpusim") / "machines"
