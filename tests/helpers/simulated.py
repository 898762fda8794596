"""Sweeps from known laws, shared by the tests of the fitter."""

import numpy as np
import pandas as pd

# (E, A, B, alpha, beta): Besiroglu et al. 2024, Hoffmann et al. 2022, symmetric, lopsided.
LAWS = {
    "besiroglu": (1.8172, 482.0, 2085.4, 0.3478, 0.3658),
    "hoffmann": (1.69, 406.4, 410.7, 0.34, 0.28),
    "symmetric": (1.7, 300.0, 300.0, 0.31, 0.31),
    "lopsided": (0.5, 20.0, 3000.0, 0.15, 0.45),
}
# half width of the window (factor in N), its offset from N* and its drift over the budgets (ln N)
GRIDS = {
    "narrow": (2.0, 0.0, 0.0),
    "wide": (16.0, 0.0, 0.0),
    "off-centre": (4.0, 1.5, 0.0),
    "drifting": (4.0, 0.0, 1.5),
    "off and drifting": (8.0, -1.0, 1.0),
}


def exponent(law):
    """a = beta / (alpha + beta)."""
    return law[4] / (law[3] + law[4])


def log_optimum(law, flops):
    """ln N* on C = 6 N D (Hoffmann et al. 2022, equation 4)."""
    _, a, b, alpha, beta = law
    return (np.log(alpha * a / (beta * b)) + beta * np.log(flops / 6)) / (alpha + beta)


def loss_of(law, params, tokens):
    """E + A / N^alpha + B / D^beta."""
    e, a, b, alpha, beta = law
    return e + a * params**-alpha + b * tokens**-beta


def sweep(law, grid=GRIDS["wide"], sizes=15, budgets=5, low=1e18, high=1e20, noise=0.0, seed=0):
    """Runs of a sweep as a data frame with params, tokens, loss, flops, budget."""
    width, offset, drift = grid
    generator = np.random.default_rng(seed)
    parts = []
    for k, flops in enumerate(np.geomspace(low, high, budgets)):
        centre = log_optimum(law, flops) + offset + drift * (k / max(budgets - 1, 1) - 0.5)
        params = np.exp(centre + np.linspace(-np.log(width), np.log(width), sizes))
        tokens = flops / (6 * params)
        loss = loss_of(law, params, tokens)
        loss = loss * np.exp(noise * generator.standard_normal(sizes))
        parts.append(
            pd.DataFrame(
                {"params": params, "tokens": tokens, "loss": loss, "flops": flops, "budget": flops}
            )
        )
    return pd.concat(parts, ignore_index=True)


# Held-out loss (nats per byte) of small byte-level GPTs on plain text, trained at four budgets:
# width d, then the losses at 3e10, 9e10, 2.7e11 and 8.1e11 FLOPs. N = 12 L d^2 + V d with L = 2
# layers and V = 128; a token costs COUNTED / (6 N) times 6 N FLOPs.
SMALL = {
    12: (1.9216, None, None, None),
    16: (1.8276, 1.7236, None, None),
    24: (1.7958, 1.6284, 1.5241, None),
    32: (1.7980, 1.6139, 1.4714, 1.3868),
    48: (1.8895, 1.6393, 1.4675, 1.3429),
    64: (2.0294, 1.7379, 1.5090, 1.3515),
    80: (None, None, 1.5464, 1.3634),
    96: (None, 1.8671, 1.5992, 1.3847),
    128: (None, None, None, 1.4471),
}
SMALL_BUDGETS = (3e10, 9e10, 2.7e11, 8.1e11)
COUNTED = {12: 1.31, 16: 1.25, 32: 1.145, 64: 1.08, 128: 1.04}  # over 6 N D, measured


def small_models():
    """The runs of `SMALL` with their size, N, D, FLOPs per token and budget."""
    widths = np.array(sorted(COUNTED), dtype=float)
    rows = []
    for width, losses in SMALL.items():
        params = 24.0 * width**2 + 128.0 * width
        ratio = np.interp(np.log(width), np.log(widths), [COUNTED[int(w)] for w in widths])
        for flops, loss in zip(SMALL_BUDGETS, losses, strict=True):
            if loss is not None:
                per_token = 6 * params * ratio
                rows.append((width, params, flops / per_token, loss, flops, flops, per_token))
    names = ["size", "params", "tokens", "loss", "flops", "budget", "flops_per_token"]
    return pd.DataFrame(rows, columns=names)
