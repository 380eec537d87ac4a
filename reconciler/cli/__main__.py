"""``python -m reconciler.cli``."""

import sys

from reconciler.cli.entry import main

if __name__ == "__main__":
    sys.exit(main())
