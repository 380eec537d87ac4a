"""Writes the custom resource definition: ``python -m hack.crdgen`` to where it is deployed from."""

from pathlib import Path

from hack.crdgen.definition import as_yaml

CRD = Path(__file__).resolve().parents[2] / "deploy" / "crd" / "gpunodestates.gpu.dra.intel.com.yaml"

if __name__ == "__main__":
    CRD.parent.mkdir(parents=True, exist_ok=True)
    CRD.write_text(as_yaml())
    print(CRD)
