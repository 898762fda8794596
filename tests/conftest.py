"""Shared by all tests: one thread for torch, before anything imports it.

The tests' models are small; a second thread only waits for the first, and for other processes.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
