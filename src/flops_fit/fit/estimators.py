"""The estimators behind one interface: runs in, a law for the estimate and for every resample out."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from flops_fit.fit.bootstrap import Draws
from flops_fit.fit.cost import Cost
from flops_fit.fit.identify import Identification, identify
from flops_fit.fit.isoflop import (
    FEWEST_SIZES,
    STATUSES,
    Minima,
    akima_minimum,
    parabola_minimum,
    path_law,
)
from flops_fit.fit.laws import PathLaw, SurfaceLaw
from flops_fit.fit.newton import minimise
from flops_fit.fit.surface import (
    EFFICIENCY,
    Data,
    Surface,
    far_runs,
    fit_surface,
    fixed_e_form,
    free_form,
    ladder,
    robust_scale,
    tied_form,
)

USABLE = ("converged", "at_bound", "bracketed")  # statuses of an estimate that can answer
ONE_BUDGET_SPAN = 2.0  # span of C below which all runs are those of one budget


@dataclass(frozen=True)
class Runs:
    """What every estimator sees: a checked frame, its budgets [(C, rows)] and the cost model."""

    frame: pd.DataFrame
    groups: list[tuple[float, np.ndarray]]  # C of each budget and the rows of its runs
    cost: Cost

    def __len__(self) -> int:
        return len(self.frame)

    def column(self, name: str) -> np.ndarray:
        """The column ``name`` as an array of shape (n,)."""
        return self.frame[name].to_numpy(dtype=float)

    def below(self, flops: float) -> "Runs":
        """The runs of budgets cheaper than ``flops``, or of cheaper cost where there are no budgets."""
        if self.groups:
            rows = np.sort(np.concatenate([r for c, r in self.groups if c < flops]))
        else:
            rows = np.flatnonzero(self.column("flops") < flops)
        return self.take(rows)

    def take(self, rows: np.ndarray) -> "Runs":
        """The runs at ``rows``, an ascending array of shape (k,)."""
        place = np.full(len(self), -1)
        place[rows] = np.arange(len(rows))
        groups = [(c, place[r][place[r] >= 0]) for c, r in self.groups]
        frame = self.frame.iloc[rows].reset_index(drop=True)
        return Runs(frame, [(c, r) for c, r in groups if len(r)], self.cost)


class SurfaceDetail(NamedTuple):
    """Behind an estimate by a surface: the fit and how well the runs determine it."""

    fit: Surface
    identified: Identification


class MinimaDetail(NamedTuple):
    """Behind an estimate by minima: their budgets and the minima themselves."""

    flops: list[float]
    minima: list[Minima]


EnvelopeDetail = list[list[float]]  # [C, N, loss] of each point


@dataclass(frozen=True)
class Estimate:
    """One estimator on one set of runs.

    ``law`` has one row, ``draws`` one per usable resample; ``usable`` (R,) says which those are.
    ``weight`` (n,) is 1 for the runs used, ``draw_weight`` (R, n) the same inside each resample.
    """

    name: str  # of the estimator
    law: SurfaceLaw | PathLaw
    status: str  # usable where it is one of `USABLE`
    reason: str  # for the status
    weight: np.ndarray
    draws: SurfaceLaw | PathLaw | None = None
    usable: np.ndarray | None = None
    draw_weight: np.ndarray | None = None
    detail: SurfaceDetail | MinimaDetail | EnvelopeDetail | None = None  # what is behind it

    @property
    def surface(self) -> SurfaceDetail:
        """The detail of an estimate by a surface."""
        assert isinstance(self.detail, SurfaceDetail)
        return self.detail

    @property
    def minima(self) -> MinimaDetail:
        """The detail of an estimate by minima."""
        assert isinstance(self.detail, MinimaDetail)
        return self.detail


REFIT_CONTINUATION = (1e-2, 3e-3)  # from an optimum nearby two coarser thresholds are enough
COARSE_TOLERANCE = 1e-2
FORMS = {"surface": free_form, "tied": tied_form}


def surface_law(theta: np.ndarray, centre: tuple[float, float]) -> SurfaceLaw:
    """The law of ``theta`` of shape (R, 5), with the ``centre`` of ln N and ln D put back."""
    theta = np.atleast_2d(theta)
    e, p, q, alpha, beta = theta.T
    return SurfaceLaw(
        np.column_stack([np.exp(e), p + alpha * centre[0], q + beta * centre[1], alpha, beta])
    )


def estimate_surface(
    runs: Runs,
    draws: Draws | None = None,
    delta: float | str = "auto",
    exclude: str = "auto",
    form: str = "surface",
    fixed_e: float | None = None,
    profile: bool = False,
    start: np.ndarray | None = None,
) -> Estimate:
    """Approach 3 (Hoffmann et al. 2022) on ``runs`` and on every resample of ``draws``.

    ``delta``, ``exclude`` and ``start``: as `fit_surface` takes them, of the same shapes.
    ``form``: surface, tied or fixed_e, which holds E at ``fixed_e``; ``profile`` adds the profile
    of E.
    """
    data = Data.of(runs.column("params"), runs.column("tokens"), runs.column("loss"))
    if form == "fixed_e":
        assert fixed_e is not None
        shape = fixed_e_form(data, fixed_e)
    else:
        shape = FORMS[form](data)
    fit = fit_surface(data, shape, delta, exclude, start=start)
    identified = identify(data, fit, profile)
    law = surface_law(fit.theta, fit.centre)
    if draws is None:
        return Estimate(
            form,
            law,
            identified.status,
            identified.reason,
            fit.weight,
            detail=SurfaceDetail(fit, identified),
        )
    refit = refit_surface(data, fit, draws, delta == "auto", exclude == "auto")
    return Estimate(
        form,
        law,
        identified.status,
        identified.reason,
        fit.weight,
        surface_law(refit.theta[refit.usable], fit.centre),
        refit.usable,
        refit.weight,
        SurfaceDetail(fit, identified),
    )


@dataclass(frozen=True)
class Refit:
    """Surfaces of R resamples: theta (R, 5), weight (R, n) with exclusions, delta and usable (R,)."""

    theta: np.ndarray
    weight: np.ndarray
    delta: np.ndarray
    usable: np.ndarray


def refit_surface(
    data: Data, fit: Surface, draws: Draws, auto_delta: bool, auto_exclude: bool
) -> Refit:
    """The surface of every one of ``draws``, each started from the estimate ``fit`` on ``data``.

    The threshold (if ``auto_delta``) and the exclusions (if ``auto_exclude``) are determined again
    inside each resample, so that their uncertainty is part of the interval.
    """
    log_loss: np.ndarray = data.log_loss[None]
    weight = draws.weight
    if draws.sign is not None:
        free = max(fit.n_runs - fit.form.size, 1)
        inflated = fit.residual * np.sqrt(max(fit.n_runs, 1) / free)
        log_loss = (data.log_loss - fit.residual)[None] + draws.sign * inflated
        weight = weight * fit.weight
    theta = np.repeat(fit.theta[None], len(draws), axis=0)
    delta = np.full(len(draws), fit.delta)
    for step in ladder(fit.delta, REFIT_CONTINUATION)[:-1]:
        theta = minimise(
            fit.form, theta, log_loss, weight, step, data.design, COARSE_TOLERANCE
        ).theta
    batch = minimise(fit.form, theta, log_loss, weight, delta, data.design)
    if auto_delta or auto_exclude:
        residual = log_loss - data.design.log_surface(batch.theta)
        # A resample holds fewer distinct runs, so its residuals are smaller by the parameters' share.
        parameters, held = fit.form.size, (weight > 0).sum(axis=1)
        shrunk = 1 - parameters / np.maximum(held, parameters + 1)
        scale = robust_scale(residual, weight) * np.sqrt(
            max(1 - parameters / fit.n_runs, 1 / fit.n_runs) / shrunk
        )
        if auto_exclude:
            weight = weight * ~far_runs(residual, weight, scale)
        delta = EFFICIENCY * scale if auto_delta else delta
        batch = minimise(fit.form, batch.theta, log_loss, weight, delta, data.design)
    usable = np.isfinite(batch.objective) & np.isfinite(batch.theta).all(axis=1)
    return Refit(batch.theta, weight, delta, usable)


def estimate_isoflop(
    runs: Runs,
    draws: Draws | None = None,
    weight: np.ndarray | None = None,
    draw_weight: np.ndarray | None = None,
    curve: str = "parabola",
    window: float | None = None,
) -> Estimate:
    """Approach 2 (Hoffmann et al. 2022) on ``runs`` and on every resample of ``draws``.

    ``weight`` (n,) and ``draw_weight`` (R, n) carry the exclusions. ``curve``: parabola or akima;
    ``window``: the factor in N around the lowest run that a parabola sees.
    """
    weight = np.ones(len(runs)) if weight is None else weight
    x, loss = np.log(runs.column("params")), runs.column("loss")
    budgets, minima = [], []

    def minimum(rows: np.ndarray, losses: np.ndarray, weights: np.ndarray, fewest: int) -> Minima:
        if curve == "akima":
            return akima_minimum(x[rows], losses, weights, fewest)
        return parabola_minimum(x[rows], losses, weights, window, fewest)

    for flops, rows in runs.groups:
        budgets.append(flops)
        minima.append(minimum(rows, loss[rows], weight[None, rows], FEWEST_SIZES))
    log_c = np.log(budgets)
    status = np.array([int(m.status[0]) for m in minima], dtype=int)
    law, how, why = path_through(log_c, minima)
    name = "isoflop"
    if draws is None or not len(budgets):
        return Estimate(name, law, how, why, weight, detail=MinimaDetail(budgets, minima))
    resampled = []
    base = draws.weight if draw_weight is None else draw_weight
    for (_, rows), point in zip(runs.groups, minima, strict=True):
        w = base[:, rows]
        losses = loss[rows][None]
        if draws.sign is not None:
            z = x[rows] - point.centre
            smooth = np.stack([z**k for k in range(3)], axis=1) @ point.coefficients[0]
            n = max(int(weight[rows].sum()), 1)
            inflate = np.sqrt(n / max(n - 3, 1))
            losses = smooth + draws.sign[:, rows] * (loss[rows] - smooth) * inflate
        resampled.append(minimum(rows, losses, w, 3))
    ok = np.stack([m.status == 0 for m in resampled], axis=1) & (status == 0)
    usable = ok.sum(axis=1) >= 2
    if not usable.any():
        return Estimate(
            name, law, how, why, weight, detail=MinimaDetail(budgets, minima), usable=usable
        )
    ok = ok[usable]
    stacked = [
        np.where(ok, np.stack([getattr(m, f) for m in resampled], axis=1)[usable], 0.0)
        for f in ("log_n", "loss", "curvature")
    ]
    drawn = path_law(log_c, stacked[0], stacked[1], stacked[2], ok.astype(float))
    return Estimate(
        name, law, how, why, weight, drawn, usable, detail=MinimaDetail(budgets, minima)
    )


def path_through(log_c: np.ndarray, minima: list[Minima]) -> tuple[PathLaw, str, str]:
    """The law through the bracketed ``minima``, one for each of ``log_c``, its status and reason.

    With fewer than two bracketed ones it goes through all of them.
    """
    if not minima:
        flat = PathLaw(np.array([[0.0, 0.0, 0.0, 0.0, 0.0, 1.0]]))
        return flat, "too_few_points", "no shared budgets, so no minima"
    status = np.array([m.status[0] for m in minima])
    good = status == 0
    weight = (good if good.sum() >= 2 else np.ones_like(good)).astype(float)[None]
    stacked = [
        np.array([[getattr(m, f)[0] for m in minima]]) for f in ("log_n", "loss", "curvature")
    ]
    law = path_law(log_c, stacked[0], stacked[1], stacked[2], weight)
    if good.sum() >= 2:
        lost = len(good) - int(good.sum())
        text = f"{int(good.sum())} of {len(good)} minima bracketed"
        return law, "bracketed", text if lost else f"all {len(good)} minima bracketed"
    worst = STATUSES[int(np.bincount(status[~good]).argmax())] if not good.all() else STATUSES[3]
    return law, worst, f"{int(good.sum())} of {len(good)} minima bracketed; at least 2 are needed"
