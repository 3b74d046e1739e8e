"""`python -m aim_edge.cli`: the command where no script is installed."""

import sys

from . import main

sys.exit(main())
