"""Forecast of the next budget's loss: a surface whose runs weigh more the more they cost."""

from flops_fit.fit.estimators import Estimate, Runs


def forecast_surface(runs: Runs, surface: Estimate, delta: float | str) -> dict:
    """FIT.json's ``forecast``."""
    e, ln_a, ln_b, alpha, beta = (float(v) for v in surface.law.values[0])
    import math

    return {
        "E": e,
        "A": math.exp(ln_a),
        "B": math.exp(ln_b),
        "alpha": alpha,
        "beta": beta,
        "kappa": 0.0,
    }
