"""The command: ``python -m bench.growth``."""

import sys

from bench.growth.command import main

sys.exit(main())
