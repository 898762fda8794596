"""How well the runs of a plan will separate N from D, before any of them is trained."""

from collections.abc import Sequence

import numpy as np

EXPONENTS = (0.3478, 0.3658)  # alpha and beta of Besiroglu et al. 2024 (2404.10102), table 1
MOST = 1e16  # beyond it a floating-point number tells nothing
POOR = 200.0  # IsoFLOP sweeps have 17 to 80; D / N within 10% of one ratio has 300 and more


def condition_number(params: Sequence[float], tokens: Sequence[float]) -> float:
    """The condition number of a design of runs with N = ``params`` and D = ``tokens``, each (n,).

    It is that of the gradients of L = E + A/N^alpha + B/D^beta by its five parameters, each scaled to
    length 1, so that E, A and B do not matter; published exponents are assumed. Runs with D in a fixed
    ratio to N have nearly equal gradients by N and by D, and their condition number grows without
    bounds (2605.08541).
    """
    log_n, log_d = (np.log(np.asarray(v, dtype=float)) for v in (params, tokens))
    x, y = log_n - log_n.mean(), log_d - log_d.mean()
    first, second = np.exp(-EXPONENTS[0] * x), np.exp(-EXPONENTS[1] * y)
    gradients = np.stack([np.ones_like(x), first, second, first * x, second * y], axis=1)
    length = np.linalg.norm(gradients, axis=0)
    singular = np.linalg.svd(gradients / np.maximum(length, 1e-300), compute_uv=False)
    if len(log_n) < gradients.shape[1] or singular[-1] * MOST <= singular[0]:
        return MOST
    return float(singular[0] / singular[-1])
