"""python -m gpusim is gpu-simulate."""

import sys

from gpusim.cli import main

sys.exit(main())
