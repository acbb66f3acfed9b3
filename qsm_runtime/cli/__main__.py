"""`python -m qsm_runtime.cli`, the same as `qsm`."""

import sys

from qsm_runtime.cli.app import main

sys.exit(main())
