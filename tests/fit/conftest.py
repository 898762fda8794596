import os
from pathlib import Path

import pytest

from flops_fit.fit import read_runs


@pytest.fixture(scope="session")
def published():
    """The 240 runs of Hoffmann et al. 2022 as digitised by Besiroglu et al. 2024, 5 marked out."""
    folder = os.environ.get("FLOPS_FIT_PUBLISHED_RUNS")
    if not folder:
        pytest.skip("FLOPS_FIT_PUBLISHED_RUNS is not set: no published runs on this machine")
    return read_runs(Path(folder) / "hoffmann_epoch.csv")
