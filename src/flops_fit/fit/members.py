"""The surfaces of the stack: each form under each weighting of the runs, fitted on many prefixes."""

from dataclasses import dataclass

import numpy as np

from flops_fit.fit.bootstrap import Draws
from flops_fit.fit.forms import FREE, G_, BentDesign, Fits, bent_form, fit_bent, settle, starts_for
from flops_fit.fit.laws import BentLaw
from flops_fit.fit.surface import EFFICIENCY, Data

KAPPAS = dict.fromkeys(FREE, (0, 1, 2))  # runs weigh C^kappa
RESAMPLE_STEPS = 20  # iterations of a resample, from the estimate
RESAMPLE_CLOSE = 1e-5  # of a resample's objective: a fiftieth of its own spread


@dataclass(frozen=True)
class Member:
    """One way to fit: a form of `forms.FREE`, runs weighed by C^kappa."""

    form: str
    kappa: int

    @property
    def name(self) -> str:
        """As tables name it."""
        return f"{self.form}, C^{self.kappa}"


MEMBERS = tuple(Member(form, kappa) for form, kappas in KAPPAS.items() for kappa in kappas)


def tilt(masks: np.ndarray, log_c: np.ndarray, kappa: int) -> np.ndarray:
    """Weights C^``kappa`` over each of ``masks`` (J, n), their mean over the runs used 1.

    ``log_c`` (n,): ln C of the runs.
    """
    top = np.where(masks > 0, log_c, -np.inf).max(axis=1, keepdims=True)
    tilted = masks * np.exp(kappa * np.minimum(log_c - top, 0))
    return tilted * masks.sum(axis=1, keepdims=True) / tilted.sum(axis=1, keepdims=True)


def weights_of(masks: np.ndarray, log_c: np.ndarray, form: str) -> np.ndarray:
    """Weights (kappas x J, n) of the fits of one ``form``: kappa by kappa, each on every prefix.

    ``masks`` (J, n): 1 for the runs of each prefix; ``log_c`` (n,): ln C of the runs.
    """
    return np.concatenate([tilt(masks, log_c, kappa) for kappa in KAPPAS[form]])


def fit_members(
    data: Data, design: BentDesign, log_c: np.ndarray, masks: np.ndarray
) -> dict[str, Fits]:
    """Form -> fits of kappa x prefix, kappa by kappa.

    ``data`` and ``design``: the n runs; ``log_c`` (n,): ln C of each; ``masks`` (J, n): 1 for the
    runs of each prefix.
    """
    first = starts_for(data, masks[-1])
    plain = first[np.abs(first[:, G_]) < 1e-12]
    fits: dict[str, Fits] = {}
    for form, kappas in KAPPAS.items():
        starts = first if G_ in FREE[form] else plain
        if fits:
            starts = np.vstack([starts, fits["classic"].theta[ends_of("classic", len(masks))]])
        weight, held = weights_of(masks, log_c, form), np.tile(masks, (len(kappas), 1))
        fit = fit_bent(data, design, bent_form(data, form), weight, held, starts)
        ends = ends_of(form, len(masks))
        fine = settle(
            data,
            design,
            fit.form,
            weight[ends],
            fit.theta[ends],
            EFFICIENCY * fit.scale[ends],
            count=held[ends],
        )
        fit.theta[ends], fit.scale[ends] = fine.theta, fine.scale
        fits[form] = fit
    return fits


def ends_of(form: str, prefixes: int) -> list[int]:
    """Rows of the whole table among the fits of a ``form`` on so many ``prefixes``, one per kappa."""
    return [prefixes * (i + 1) - 1 for i in range(len(KAPPAS[form]))]


def by_member(fits: dict[str, Fits], prefixes: int) -> list[Fits]:
    """The ``fits`` of each of `MEMBERS` over so many ``prefixes``."""
    parts = []
    for form, f in fits.items():
        for i in range(len(KAPPAS[form])):
            rows = slice(i * prefixes, (i + 1) * prefixes)
            parts.append(Fits(f.form, f.theta[rows], f.scale[rows]))
    return parts


def law_of(theta: np.ndarray, data: Data) -> BentLaw:
    """The law of ``theta`` of shape (R, 7), with the centring of ``data`` undone."""
    e, p, q, alpha, beta, g, kappa = theta.T
    x, y = data.centre
    ln_a, ln_b = p + alpha * x, q - kappa * x + beta * y
    return BentLaw(np.column_stack([np.exp(e), ln_a, ln_b, alpha, beta, np.exp(g), kappa]))


def resample_members(
    data: Data,
    design: BentDesign,
    log_c: np.ndarray,
    weight: np.ndarray,
    fits: dict[str, Fits],
    draws: Draws,
    draw_weight: np.ndarray,
) -> tuple[BentLaw, ...]:
    """The law of each member on every one of the ``draws``, each started from its ``fits``.

    ``data`` and ``design``: the n runs; ``log_c`` (n,): ln C of each; ``weight`` (n,): 0 for runs left
    out; ``draw_weight`` (R, n): the same inside each resample.
    """
    count, held = len(draws), draw_weight * (weight > 0)
    used, laws = (weight > 0).sum(), []
    for form, f in fits.items():
        kappas = len(KAPPAS[form])
        ends, log_loss = ends_of(form, len(f.theta) // kappas), None
        if draws.sign is not None:
            smooth = design.log_surface(f.theta[ends])
            inflated = (data.log_loss - smooth) * np.sqrt(used / max(used - f.form.size, 1))
            log_loss = (smooth[:, None] + draws.sign * inflated[:, None]).reshape(-1, len(data))
        again = settle(
            data,
            design,
            f.form,
            weights_of(held, log_c, form),
            np.repeat(f.theta[ends], count, axis=0),
            np.repeat(EFFICIENCY * f.scale[ends], count),
            1,
            log_loss,
            count=np.tile(held, (kappas, 1)),
            close=RESAMPLE_CLOSE,
            most=RESAMPLE_STEPS,
        )
        laws += [law_of(theta, data) for theta in np.split(again.theta, kappas)]
    return tuple(laws)
