"""The law that a sweep is simulated with, and how widely its runs scatter around it."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from flops_fit.errors import FlopsFitError
from flops_fit.fit.cost import cost_of
from flops_fit.fit.laws import SurfaceLaw
from flops_fit.fit.result import Fit
from flops_fit.notation import flops_text

BESIROGLU = (1.8172, 482.0, 2085.4, 0.3478, 0.3658)  # Besiroglu et al. 2024, 2404.10102, table 1
PUBLISHED_FROM = 1e18  # FLOPs: the runs behind that law start about here
TOKENS_PER_PARAM = 20.0  # Hoffmann et al. 2022, 2203.15556
# Share of the loss above E at small scale: 0.49 in the demo, 0.41 of BESIROGLU at 1e18.
ABOVE_E = 0.5
NOISE = {"small": 0.01, "published": 0.005}  # sd of ln L; 0.008 in the demo


@dataclass(frozen=True)
class Truth:
    """What runs are simulated with: a ``law`` and the standard deviation ``noise`` of a run.

    ``noise`` is in nats, or of ln L if ``relative``. ``source`` and ``noise_source`` say as text
    where the two come from.
    """

    law: SurfaceLaw
    source: str
    noise: float
    relative: bool
    noise_source: str


def law_of(e: float, a: float, b: float, alpha: float, beta: float) -> SurfaceLaw:
    """The surface L = ``e`` + ``a`` / N^``alpha`` + ``b`` / D^``beta``.

    Raises `FlopsFitError` if a coefficient is not positive.
    """
    for name, value in zip(("E", "A", "B", "alpha", "beta"), (e, a, b, alpha, beta), strict=True):
        if not (np.isfinite(value) and value > 0):
            raise FlopsFitError(f"law: {name} = {value!r}; allowed: a positive finite number")
    return SurfaceLaw(np.array([[e, np.log(a), np.log(b), alpha, beta]]))


def default_law(design: pd.DataFrame) -> tuple[SurfaceLaw, str, float]:
    """A law for a ``design`` (one row per run) of which nothing is known yet, its source, and a noise.

    From 1e18 FLOPs on, the range of published runs, this is Chinchilla's law as refitted by
    Besiroglu et al. 2024. Far below, that law would give losses of tens of nats, so only its
    exponents are kept: at the geometric middle of the budgets the optimum is set to 20 tokens per
    parameter with half of the loss above E, and E is the unit of the loss. The noise is the
    standard deviation of ln L.
    """
    if design["flops"].max() >= PUBLISHED_FROM:
        source = "Chinchilla's law as refitted by Besiroglu et al. 2024 (2404.10102)"
        return law_of(*BESIROGLU), source, NOISE["published"]
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
    source = (
        f"the exponents of Besiroglu et al. 2024, whose runs are far larger; assumed: at "
        f"{flops_text(middle)} FLOPs {TOKENS_PER_PARAM:g} tokens per parameter are best, and "
        f"{ABOVE_E:.0%} of the loss lies above E = 1"
    )
    return law, source, NOISE["small"]


def law_of_fit(fit: Fit) -> tuple[SurfaceLaw, str, float]:
    """The surface of ``fit``, its source, and the standard deviation of ln L of a run around it.

    The latter is the residual scale, corrected for the number of parameters, and holds seed noise
    and misfit. If the surface is not identifiable, the one with alpha = beta replaces it. Raises
    `FlopsFitError` if that one is not identifiable either.
    """
    for name, source in (
        ("parametric", "the fitted surface"),
        ("tied", "the fitted surface with alpha = beta"),
    ):
        entry = fit.parametric if name == "parametric" else fit.tied
        if entry.status in ("converged", "at_bound"):
            free = max(entry.n_runs - (5 if name == "parametric" else 4), 1)
            noise = entry.scale * np.sqrt(entry.n_runs / free)
            values = (getattr(entry, key) for key in ("E", "A", "B", "alpha", "beta"))
            return law_of(*values), source, float(noise)
    raise FlopsFitError(f"fit: no surface is identified ({fit.parametric.reason})")


def truth_for(
    design: pd.DataFrame,
    law: tuple[float, ...] | None = None,
    fit: Fit | None = None,
    noise: tuple[float, bool] | None = None,
) -> Truth:
    """The given ``law`` (E, A, B, alpha, beta), else that of ``fit``, else a default for ``design``.

    ``design`` has one row per run. ``noise``, if given, is (standard deviation, whether it is
    relative to the loss instead of in nats), else it comes from the same source as the law.
    """
    if law is not None:
        surface, source, sd = law_of(*law), "the given law", NOISE["published"]
    elif fit is not None:
        surface, source, sd = law_of_fit(fit)
    else:
        surface, source, sd = default_law(design)
    if noise is not None:
        return Truth(surface, source, *noise, "given")
    return Truth(surface, source, sd, True, "residual scale of the fit" if fit else "assumed")
