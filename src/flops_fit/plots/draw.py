"""Lay out the figures of a fit and write them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from flops_fit.fit.result import Fit
from flops_fit.fit.runs import RunTable
from flops_fit.fit.verdict import has_trend
from flops_fit.notation import unit_text
from flops_fit.plots import FIGURES
from flops_fit.plots.hero import SIDE_BY_SIDE, draw_hero, hero_numbers, hero_sentence
from flops_fit.plots.isoflop import draw_isoflop, isoflop_numbers
from flops_fit.plots.loss_curves import (
    MOST_CURVES,
    draw_losses,
    draw_rates,
    drawn_records,
    heldout_numbers,
    loss_curve_numbers,
)
from flops_fit.plots.optima import QUANTITIES, draw_optima, optima_numbers
from flops_fit.plots.refits import draw_sensitivity, sensitivity_height, sensitivity_numbers
from flops_fit.plots.regret import draw_regret, regret_numbers
from flops_fit.plots.residuals import (
    PANELS,
    draw_fitted,
    draw_residuals,
    residual_numbers,
    residuals_of,
)
from flops_fit.plots.style import STYLE, BudgetColours, message, save
from flops_fit.plots.surface import draw_surface, surface_numbers
from flops_fit.plots.throughput import draw_throughput, throughput_numbers
from flops_fit.plots.uncertainty import draw_uncertainty, uncertainty_numbers

TWO_COLUMNS = 4.5  # inches; narrower figures stack their panels
Drawn = tuple[Figure, pd.DataFrame]  # a figure and the numbers in it


def draw_all(
    table: RunTable,
    records: list[dict],
    fit: Fit,
    budgets: list[float],
    folder: str | Path,
    dpi: int = 150,
    width: float = 6.4,
    names: Sequence[str] = tuple(FIGURES),
    formats: Sequence[str] = ("svg", "png"),
) -> None:
    """Write the figures ``names`` of ``fit`` in ``formats``, and their numbers as CSV, into ``folder``.

    ``table`` holds the runs of the fit, ``records`` their records (empty for a table of existing
    runs), ``budgets`` the budgets to answer for in FLOPs. ``dpi`` is the resolution of the PNG
    files, ``width`` the width in inches.
    """
    with matplotlib.rc_context(STYLE):
        figures: dict[str, Callable[[], Drawn]] = {
            "isoflop": lambda: isoflop_figure(table, fit, width),
            "optima": lambda: optima_figure(table, fit, budgets, width),
            "surface": lambda: surface_figure(table, fit, budgets, width),
            "residuals": lambda: residuals_figure(table, fit, width),
            "uncertainty": lambda: uncertainty_figure(fit, width),
            "sensitivity": lambda: sensitivity_figure(fit, budgets, width),
            "regret": lambda: regret_figure(fit, budgets, width),
            "loss_curves": lambda: loss_curves_figure(table, records, fit, width),
            "throughput": lambda: throughput_figure(table, records, fit, width),
            "hero": lambda: hero_figure(table, fit, budgets, width),
        }
        for name in names:
            figure, numbers = figures[name]()
            save(figure, numbers, folder, name, dpi, formats)


def isoflop_figure(table: RunTable, fit: Fit, width: float) -> Drawn:
    """Loss against N per budget: the runs of ``table`` and the minima of ``fit``, ``width`` inches."""
    numbers = isoflop_numbers(table, fit)
    figure = Figure(figsize=(width, max(0.7 * width, 3.2)))
    draw_isoflop(figure.subplots(), numbers, colours_of(table, fit), _unit(fit))
    return figure, numbers


def optima_figure(table: RunTable, fit: Fit, budgets: list[float], width: float) -> Drawn:
    """N*, D*, L* and tokens per parameter of ``fit`` against C.

    ``table`` holds its runs, ``budgets`` the budgets to answer for in FLOPs; ``width`` in inches.
    """
    numbers = optima_numbers(fit, budgets)
    if fit.identified and not has_trend(fit):
        why = "The runs have one budget, and its optimum says nothing about others."
        return _instead(why, numbers, width)
    if numbers.empty:
        return _instead(f"There is no optimum to draw. {_because(fit)}", numbers, width)
    rows, columns, height = (2, 2, 0.88) if width >= TWO_COLUMNS else (4, 1, 2.4)
    figure = Figure(figsize=(width, height * width))
    axes = dict(zip(QUANTITIES, figure.subplots(rows, columns, sharex=True).flat, strict=True))
    draw_optima(axes, numbers, colours_of(table, fit), fit)
    return figure, numbers


def loss_curves_figure(table: RunTable, records: list[dict], fit: Fit, width: float) -> Drawn:
    """Training loss and learning rate against tokens, from ``records``.

    ``table`` and ``fit`` give the colours and the unit of the loss; ``width`` in inches.
    """
    drawn, colours = drawn_records(records), colours_of(table, fit)
    numbers = loss_curve_numbers(drawn)
    if numbers.empty:
        why = "No training curves: the input was a table of finished runs."
        return _instead(why, numbers, width)
    rates = numbers["learning_rate"].notna().any()  # a user's own script does not tell them
    figure = Figure(figsize=(width, max((1.25 if rates else 1.0) * width, 6.5 if rates else 5.2)))
    heights = (2.2, 2, 1) if rates else (2.2, 2)
    top, middle, *below = figure.subplots(len(heights), 1, height_ratios=heights)
    ends = _with_residuals(heldout_numbers(drawn), table, fit)
    draw_losses(top, numbers, ends, colours)
    draw_losses(middle, numbers, ends, colours, "flops")
    for ax in (top, middle):
        ax.set_ylabel(f"training loss ({_unit(fit)})")
    top.set_xlabel("tokens seen")
    of = f" ({len(drawn)} of {len(records):,} runs drawn)" if len(records) > MOST_CURVES else ""
    middle.set_xlabel("FLOPs spent" if rates else f"FLOPs spent{of}")
    for ax in below:
        draw_rates(ax, numbers, colours)
        ax.set(ylabel="learning rate", xlabel=f"tokens seen{of}")
    return figure, numbers


def throughput_figure(table: RunTable, records: list[dict], fit: Fit, width: float) -> Drawn:
    """Speed of every run in ``records`` against N.

    ``table`` and ``fit`` give the colours; ``width`` in inches.
    """
    numbers = _with_residuals(throughput_numbers(records), table, fit)
    if numbers.empty:
        return _instead("No run times: the input was a table of finished runs.", numbers, width)
    figure = Figure(figsize=(width, max(0.4 * width, 2.6)))
    draw_throughput(figure.subplots(), numbers, colours_of(table, fit))
    return figure, numbers


def residuals_figure(table: RunTable, fit: Fit, width: float) -> Drawn:
    """Measured against fitted loss, and residuals against C, N and D.

    ``table`` holds the runs, ``fit`` the surface; ``width`` in inches.
    """
    numbers = residual_numbers(table, fit)
    if numbers.empty:
        return _instead(
            f"There is no surface to compare with. {_sentence(fit.parametric.reason)}",
            numbers,
            width,
        )
    rows, columns, height = (2, 2, 0.8) if width >= TWO_COLUMNS else (4, 1, 2.4)
    figure = Figure(figsize=(width, height * width))
    first, *others = figure.subplots(rows, columns).flat
    colours = colours_of(table, fit)
    draw_fitted(first, numbers, colours, _unit(fit))
    for name, ax in zip(PANELS, others, strict=True):
        draw_residuals(ax, numbers, name, colours, fit.parametric.scale)
    return figure, numbers


def uncertainty_figure(fit: Fit, width: float) -> Drawn:
    """Parameters of the surface of ``fit``, one point per resample; ``width`` in inches."""
    numbers = uncertainty_numbers(fit)
    if numbers.empty:
        why = fit.parametric.reason if fit.laws["surface"].draws else "the fit has no resamples"
        return _instead(f"There is nothing to draw. {_sentence(why)}", numbers, width)
    figure = Figure(figsize=(width, 0.85 * width))
    draw_uncertainty(figure, numbers)
    return figure, numbers


def sensitivity_figure(fit: Fit, budgets: list[float], width: float) -> Drawn:
    """N* of ``fit`` under other choices, at the last of ``budgets`` (FLOPs); ``width`` in inches."""
    numbers = sensitivity_numbers(fit, budgets)
    if numbers.empty:
        reason = _because(fit) if fit.sensitivity else "The fit has no refits."
        return _instead(f"There are no other choices to compare. {reason}", numbers, width)
    figure = Figure(figsize=(width, sensitivity_height(numbers, width)))
    draw_sensitivity(figure.subplots(), numbers)
    return figure, numbers


def regret_figure(fit: Fit, budgets: list[float], width: float) -> Drawn:
    """Extra compute of ``fit`` at other sizes than N*, for ``budgets`` (FLOPs); ``width`` in inches."""
    numbers = regret_numbers(fit, budgets)
    if numbers.empty:
        return _instead(f"There is no optimum to compare with. {_because(fit)}", numbers, width)
    figure = Figure(figsize=(width, max(0.5 * width, 3.0)))
    draw_regret(figure.subplots(), numbers)
    return figure, numbers


def surface_figure(table: RunTable, fit: Fit, budgets: list[float], width: float) -> Drawn:
    """Contours of L(N, D) of ``fit`` with the runs of ``table``.

    The best sizes are drawn up to the largest of ``budgets`` (FLOPs); ``width`` in inches.
    """
    numbers = surface_numbers(table, fit, budgets)
    if not (numbers["kind"] == "grid").any():
        return _instead(
            f"There is no surface to draw. {_sentence(fit.parametric.reason)}", numbers, width
        )
    figure = Figure(figsize=(width, max(0.75 * width, 3.5)))
    draw_surface(figure.subplots(), numbers, colours_of(table, fit), _unit(fit))
    return figure, numbers


def hero_figure(table: RunTable, fit: Fit, budgets: list[float], width: float) -> Drawn:
    """Curves and optima of ``fit`` and its runs in ``table``, and its answer in a sentence.

    The answer is for one of ``budgets`` (FLOPs); ``width`` in inches.
    """
    numbers, sentence = hero_numbers(table, fit, budgets), hero_sentence(fit, budgets)
    if not fit.identified:
        return _instead(f"{sentence} {_because(fit)}", numbers, width)
    figure = Figure(figsize=(width, 0.62 * width if width >= SIDE_BY_SIDE else 2.2 * width))
    draw_hero(figure, numbers, colours_of(table, fit), fit, sentence)
    return figure, numbers


def colours_of(table: RunTable, fit: Fit) -> BudgetColours:
    """One colour scale for all figures of a ``fit`` and the runs in ``table``."""
    return BudgetColours([*table.frame["flops"], *fit.data.budgets])


def _unit(fit: Fit) -> str:
    return unit_text(fit.data.loss_unit)


def _with_residuals(numbers: pd.DataFrame, table: RunTable, fit: Fit) -> pd.DataFrame:
    """``numbers``, one row per run, with the residuals of those that ``fit`` used.

    Runs of a table that gives one id to several have none.
    """
    residuals = residuals_of(table.frame.set_index("experiment_id"), fit)
    residuals = residuals[~residuals.index.duplicated(keep=False)]
    return numbers.assign(residual=numbers["experiment_id"].map(residuals))


def _because(fit: Fit) -> str:
    return _sentence(fit.headline.reason)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _instead(why: str, numbers: pd.DataFrame, width: float) -> Drawn:
    figure = Figure(figsize=(width, 0.3 * width))
    message(figure.subplots(), why)
    return figure, numbers
