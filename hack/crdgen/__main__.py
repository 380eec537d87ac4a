"""Writes the custom resource definitions: ``python -m hack.crdgen`` to where they are deployed from."""

from collections.abc import Mapping
from pathlib import Path

from hack.crdgen.definition import as_yaml
from hack.crdgen.documents import text_of
from hack.crdgen.parameters import KINDS, definition_of, name_of

DIRECTORY = Path(__file__).resolve().parents[2] / "deploy" / "crd"
CRD = DIRECTORY / "gpunodestates.gpu.dra.intel.com.yaml"


def files() -> Mapping[Path, str]:
    """The text of each file."""
    return {CRD: as_yaml()} | {DIRECTORY / f"{name_of(kind)}.yaml": text_of(definition_of(kind)) for kind in KINDS}


if __name__ == "__main__":
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for file, text in files().items():
        file.write_text(text)
        print(file)
