"""Loading machines: strict, with messages that name the field."""

from pathlib import Path

import pytest

import gpusim
from gpusim.machine_files import parse_machine

GPU = "{model: b50, address: '0000:03:00.0'"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "m: a mapping is needed"),
        ("description: x\ngpus: 3", "m.gpus: a list is needed"),
        ("gpus: []", "m.description: missing"),
        ("description: x\ncolour: red", "m.colour: unknown field; known are description, gpus, iommu, others"),
        (f"description: x\ngpus: [{GPU}, vram: 3}}]", r"m.gpus\[0\].vram: unknown field"),
        (
            "description: x\ngpus: [{model: b51, address: '0000:03:00.0'}]",
            r"m.gpus\[0\].model: 'b51'; allowed are arc",
        ),
        ("description: x\ngpus: [{model: b50, address: 0000:03:00.0}]", "PCI addresses need quotes"),
        ("description: x\ngpus: [{model: b50, address: '3:0.0'}]", "address: '3:0.0' is not a PCI address"),
        (f"description: x\ngpus: [{GPU}, bound: nvidia}}]", r"m.gpus\[0\].bound: 'nvidia'; allowed are i915"),
        (f"description: x\ngpus: [{GPU}, vfs_at_boot: 13}}]", "vfs_at_boot: 13 is more than the GPU has"),
        (f"description: x\ngpus: [{GPU}, sriov: {{total: 300}}}}]", r"sriov: total: 300 is not within"),
        (f"description: x\ngpus: [{GPU}, sriov: {{iov: prelim_iov}}}}]", "only i915 has this directory"),
        (f"description: x\ngpus: [{GPU}}}, {GPU}}}]", "two functions at 0000:03:00.0"),
        (f"description: x\ngpus: [{GPU}, vram_mib: true}}]", "vram_mib: a value of type int is needed, not bool"),
        ("a: [", "m: while parsing"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(gpusim.FormatError, match=message):
        parse_machine(text, "m")


def test_models_give_defaults_and_sriov_is_merged() -> None:
    spec = parse_machine(f"description: x\ngpus: [{GPU}, sriov: {{debugfs: true}}, vram_mib: 8192}}]", "m")
    assert spec.gpus[0].sriov == gpusim.SriovSpec(total=12, debugfs=True)
    assert spec.gpus[0].vram_mib == 8192
    without = parse_machine(f"description: x\ngpus: [{GPU}, sriov: null}}]", "m")
    assert without.gpus[0].sriov is None


def test_by_name_or_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"description: mine\ngpus: [{GPU}}}]")
    assert gpusim.load_machine(file).description == "mine"
    assert gpusim.load_machine(str(file)).description == "mine"
    with pytest.raises(gpusim.FormatError, match="no machine 'mine'; there are arc-b580, b50"):
        gpusim.load_machine("mine")
