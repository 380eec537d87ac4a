"""What KUBE_EDITOR is in tests: changes the spec in the file that kubectl wants edited, as JSON in SPEC says.

Like a person it does so once: shown the file again with the server's complaint, it leaves it as it is.
"""

import json
import os
import sys
from pathlib import Path

import yaml


def main(file: Path) -> None:
    text = file.read_text()
    if "was not valid" in text:
        return
    edited = yaml.safe_load(text)
    edited["spec"] |= json.loads(os.environ["SPEC"])
    file.write_text(yaml.safe_dump(edited))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
