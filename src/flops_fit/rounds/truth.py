"""The law that a simulated sweep is played on, and how far its runs scatter around it."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from flops_fit.errors import FlopsFitError
from flops_fit.fit.cost import cost_of
from flops_fit.fit.laws import SurfaceLaw

BESIROGLU = (1.8172, 482.0, 2085.4, 0.3478, 0.3658)  # Besiroglu et al. 2024, 2404.10102, table 1
PUBLISHED_FROM = 1e18  # FLOPs: the runs behind that law start about here
TOKENS_PER_PARAM = 20.0  # Hoffmann et al. 2022, 2203.15556
# Share of the loss above E at small scale: 0.49 in the demo, 0.41 of BESIROGLU at 1e18.
ABOVE_E = 0.5
NOISE = {"small": 0.01, "published": 0.005}  # sd of ln L; 0.008 in the demo


@dataclass(frozen=True)
class Truth:
    """What the runs are drawn from: ``law``, a surface, and the sd of a run around it.

    ``noise`` is in nats, or of ln L where ``relative``; ``words`` and ``noise_words`` say whence.
    """

    law: SurfaceLaw
    words: str
    noise: float
    relative: bool
    noise_words: str


def law_of(e: float, a: float, b: float, alpha: float, beta: float) -> SurfaceLaw:
    """The surface E + A / N^alpha + B / D^beta; `FlopsFitError` where a coefficient is not positive."""
    for name, value in zip(("E", "A", "B", "alpha", "beta"), (e, a, b, alpha, beta), strict=True):
        if not (np.isfinite(value) and value > 0):
            raise FlopsFitError(f"law: {name} = {value!r}; allowed: a positive finite number")
    return SurfaceLaw(np.array([[e, np.log(a), np.log(b), alpha, beta]]))


def default_law(design: pd.DataFrame) -> tuple[SurfaceLaw, str, float]:
    """A law for runs of which nothing is known yet, in words, and a noise (sd of ln L).

    From 1e18 FLOPs on, where published runs lie, Chinchilla's law as refitted by Besiroglu et al.
    2024. Far below, that law would give losses of tens of nats; only its exponents are kept, and at
    the middle of the budgets (geometric) the optimum is put at 20 tokens per parameter with half of
    the loss above E. The unit of the loss is then E.
    """
    if design["flops"].max() >= PUBLISHED_FROM:
        words = "Chinchilla's law as refitted by Besiroglu et al. 2024 (2404.10102)"
        return law_of(*BESIROGLU), words, NOISE["published"]
    alpha, beta = BESIROGLU[3:]
    middle = float(np.exp((np.log(design["flops"].min()) + np.log(design["flops"].max())) / 2))
    cost = cost_of(design)[0]
    grid = np.log(design["params"].min() / 100) + np.linspace(0, 15, 4001)
    log_d = cost.log_tokens(grid, np.log(middle))
    at = int(np.argmin(np.abs(log_d - grid - np.log(TOKENS_PER_PARAM))))
    above = ABOVE_E / (1 - ABOVE_E)
    price = float(cost.slope(grid[at]))  # alpha A/N^alpha = price x beta B/D^beta at the optimum
    part_n = above * price * beta / (alpha + price * beta)
    law = law_of(
        1.0,
        part_n * np.exp(alpha * grid[at]),
        (above - part_n) * np.exp(beta * log_d[at]),
        alpha,
        beta,
    )
    words = (
        f"the exponents of Besiroglu et al. 2024, whose runs are far larger; at {middle:.3g} FLOPs "
        f"{TOKENS_PER_PARAM:g} tokens per parameter are taken as best, with {ABOVE_E:.0%} of the "
        "loss above E = 1"
    )
    return law, words, NOISE["small"]


def law_of_fit(fit: dict) -> tuple[SurfaceLaw, str, float]:
    """The surface of FIT.json, in words, and the sd of ln L of a run around it.

    The sd is the residual scale, corrected for the five unknowns: seed noise and misfit together.
    Where the surface is not identifiable the one with alpha = beta stands in for it.
    """
    for name, words in (("parametric", "the fitted surface"), ("tied", "the fitted surface, tied")):
        entry = fit[name]
        if entry["status"] in ("converged", "at_bound"):
            free = max(entry["n_runs"] - (5 if name == "parametric" else 4), 1)
            noise = entry["scale"] * np.sqrt(entry["n_runs"] / free)
            values = (entry[key] for key in ("E", "A", "B", "alpha", "beta"))
            return law_of(*values), words, float(noise)
    raise FlopsFitError(f"fit: no surface is identified ({fit['parametric']['reason']})")


def truth_for(
    design: pd.DataFrame,
    law: tuple[float, ...] | None = None,
    fit: dict | None = None,
    noise: tuple[float, bool] | None = None,
) -> Truth:
    """The ``law`` given (E, A, B, alpha, beta), else that of ``fit``, else the default for ``design``.

    The noise likewise. ``noise``: (sd, whether it is a share of the loss instead of nats).
    """
    if law is not None:
        found, words, sd = law_of(*law), "the law given", NOISE["published"]
    elif fit is not None:
        found, words, sd = law_of_fit(fit)
    else:
        found, words, sd = default_law(design)
    if noise is not None:
        return Truth(found, words, *noise, "given")
    return Truth(found, words, sd, True, "residual scale of the fit" if fit else "assumed")
