"""``python -m flops_fit``: the same as ``flops-fit``."""

import sys

from flops_fit.cli.main import main

sys.exit(main())
