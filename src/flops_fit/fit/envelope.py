"""Approach 1: the lower envelope of the training curves (Hoffmann et al. 2022)."""

import numpy as np
import pandas as pd

from flops_fit.fit.bootstrap import Draws
from flops_fit.fit.estimators import Estimate, Runs

LEVELS = 60  # values of C at which the lowest curve is looked for


def estimate_envelope(
    runs: Runs, curves: pd.DataFrame, draws: Draws | None = None, weight: np.ndarray | None = None
) -> Estimate:
    """N of the lowest curve at each of many C, and the power law through it."""
    raise NotImplementedError("loss curves are not read yet")
