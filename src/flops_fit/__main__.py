"""``python -m flops_fit``: the same as ``flops-fit``."""

import sys

from flops_fit.cli import main

sys.exit(main())
