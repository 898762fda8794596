"""Do these runs determine five parameters? Status, condition number, profile of E."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from flops_fit.fit.newton import minimise
from flops_fit.fit.surface import (
    CONTINUATION,
    EXPONENT_BOUNDS,
    SCALE_FLOOR,
    Data,
    Surface,
    fixed_e_form,
    ladder,
)

FEWEST_TESTABLE = 7  # runs: one for each of five parameters, and two to test them
FEWEST_DISTINCT = 3  # values of N, and of D
WORST_CONDITION = 1e10
WORST_SE_A = 0.05  # beyond it the 90% interval of a is wider than 0.16
PROFILE = np.array(
    [0.02, 0.15, 0.3, 0.45, 0.6, 0.7, 0.8, 0.9, 0.96]
)  # E as a share of the lowest loss


WIDE_CONTINUATION = (1.0, 0.3, 0.1, *CONTINUATION)


@dataclass(frozen=True)
class Identification:
    """``status`` of DESIGN, ``reason``, condition number, standard error of a, profile of E.

    ``profile``: [E, rise], rise = 2 (F(E) - F) / scale^2 with E held there: about chi^2 with one
    degree of freedom, so 2.7 bounds a 90% interval.
    """

    status: str
    reason: str
    condition: float
    se_a: float  # standard error of a
    profile: list[list[float]]


def _jacobian(data: Data, theta: np.ndarray) -> np.ndarray:
    e, p, q, alpha, beta = theta
    terms = np.stack(
        [
            np.full(len(data), np.exp(e)),
            np.exp(p - alpha * data.design.x),
            np.exp(q - beta * data.design.y),
        ]
    )
    s = terms / terms.sum(axis=0)
    return np.stack([s[0], s[1], s[2], -data.design.x * s[1], -data.design.y * s[2]], axis=1)


def _profile(data: Data, fit: Surface) -> list[list[float]]:
    """Objective with E held at shares of the lowest loss, the other four refitted, all at once.

    Far from the estimate every residual is large, so the threshold comes down from a wide one.
    """
    levels = PROFILE * float(np.exp(data.log_loss.min()))
    theta = np.repeat(fit.theta[None], len(levels), axis=0)
    theta[:, 0] = np.log(levels)
    form = fixed_e_form(data, float(levels[0]))
    for step in ladder(fit.delta, WIDE_CONTINUATION):
        batch = minimise(form, theta, data.log_loss, fit.weight, step, data.design, 1e-4)
        theta = batch.theta
    rise = np.maximum(2 * (batch.objective - fit.objective) / fit.scale**2, 0.0)
    points = [*zip(levels.tolist(), rise.tolist(), strict=True), (float(np.exp(fit.theta[0])), 0.0)]
    return [list(point) for point in sorted(points)]


def too_little(frame: pd.DataFrame) -> str:
    """What ``frame`` lacks for any law of N and D, as text; empty if nothing.

    ``frame``: one row per run, columns params and tokens.
    """
    sizes, horizons = frame["params"].nunique(), frame["tokens"].nunique()
    if len(frame) < FEWEST_TESTABLE:
        return f"{len(frame)} runs, at least {FEWEST_TESTABLE}"
    if sizes < FEWEST_DISTINCT or horizons < FEWEST_DISTINCT:
        return f"{sizes} distinct N and {horizons} distinct D, at least 3 of each"
    return ""


def identify(data: Data, fit: Surface, profile: bool = True) -> Identification:
    """How well ``data`` determine the parameters of ``fit``: status, reason, condition number.

    The status is converged, at_bound or not_identifiable. ``profile`` False skips the profile of E,
    which costs as much as a fit.
    """
    used = fit.weight > 0
    jacobian = _jacobian(data, fit.theta)[used] @ fit.form.basis
    norm = np.linalg.norm(jacobian, axis=0)
    singular = np.linalg.svd(jacobian / np.maximum(norm, 1e-300), compute_uv=False)
    rank_lost = len(jacobian) < fit.form.size or singular[-1] <= singular[0] / WORST_CONDITION
    condition = float(min(singular[0] / max(singular[-1], 1e-300), 1e16))
    alpha, beta = fit.theta[3:]
    gradient = np.array([0, 0, 0, -beta, alpha]) / (alpha + beta) ** 2 @ fit.form.basis
    free = max(fit.n_runs - fit.form.size, 1)
    scale = fit.scale * np.sqrt(fit.n_runs / free)
    inverse = np.linalg.pinv(jacobian / np.maximum(norm, 1e-300), rcond=1e-14)
    se_a = float(min(scale * np.linalg.norm((gradient / np.maximum(norm, 1e-300)) @ inverse), 1e6))
    sizes = len(np.unique(data.design.x[used]))
    horizons = len(np.unique(data.design.y[used]))
    span = [float(np.exp(np.ptp(v[used]))) for v in (data.design.x, data.design.y)]
    curve = _profile(data, fit) if profile and fit.form.name == "surface" else []
    reasons = []
    if fit.n_runs < FEWEST_TESTABLE:
        reasons.append(
            f"{fit.n_runs} runs for {fit.form.size} parameters; at least {FEWEST_TESTABLE} are needed"
        )
    if sizes < FEWEST_DISTINCT or horizons < FEWEST_DISTINCT:
        reasons.append(f"{sizes} distinct N and {horizons} distinct D, at least 3 of each")
    if rank_lost:
        reasons.append("the parameters cannot be separated")
    elif se_a > WORST_SE_A and fit.scale > SCALE_FLOOR * 10:
        reasons.append(f"standard error of a about {se_a:.2f}")
    if reasons:
        flat = [e for e, rise in curve if rise < 2.7]
        where = f", E anywhere in {flat[0]:.3g} to {flat[-1]:.3g}" if len(flat) > 1 else ""
        text = (
            f"not identifiable: {'; '.join(reasons)} (N spans x{span[0]:.3g}, D x{span[1]:.3g}, "
            f"condition number {condition:.3g}{where})"
        )
        return Identification("not_identifiable", text, condition, se_a, curve)
    stuck = [
        name
        for i, name in enumerate(("E", "A", "B", "alpha", "beta"))
        if np.abs(fit.form.basis[i]).sum() > 0
        and (fit.theta[i] <= fit.form.lower[i] + 1e-9 or fit.theta[i] >= fit.form.upper[i] - 1e-9)
    ]
    if stuck:
        text = f"at bound: {', '.join(stuck)} (E >= 1e-6 of the lowest loss, exponents in "
        text += (
            f"{EXPONENT_BOUNDS[0]:g} to {EXPONENT_BOUNDS[1]:g}); condition number {condition:.3g}"
        )
        return Identification("at_bound", text, condition, se_a, curve)
    text = f"condition number {condition:.3g}, standard error of a about {se_a:.2g}"
    if not fit.converged and fit.scale > SCALE_FLOOR * 10:
        text = "the last step still lowered the objective; " + text
    return Identification("converged", text, condition, se_a, curve)
