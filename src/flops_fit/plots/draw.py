"""All figures of a fit, laid out and written."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from flops_fit.fit.runs import RunTable
from flops_fit.notation import unit_text
from flops_fit.plots.isoflop import draw_isoflop, isoflop_numbers
from flops_fit.plots.loss_curves import (
    draw_losses,
    draw_rates,
    heldout_numbers,
    loss_curve_numbers,
)
from flops_fit.plots.optima import QUANTITIES, draw_optima, optima_numbers
from flops_fit.plots.style import STYLE, BudgetColours, message, save
from flops_fit.plots.surface import draw_surface, surface_numbers


def draw_all(
    table: RunTable,
    records: list[dict],
    fit: dict,
    budgets: list[float],
    folder: str | Path,
    dpi: int = 150,
    width: float = 6.4,
) -> None:
    """Write every figure as SVG, PNG and CSV into ``folder``.

    ``records`` may be empty (a table of runs from elsewhere); ``budgets`` are those answered for;
    ``width`` in inches.
    """
    colours = BudgetColours([*table.frame["flops"], *fit["data"]["budgets"]])
    unit = unit_text(fit["data"]["loss_unit"])
    with matplotlib.rc_context(STYLE):
        numbers = isoflop_numbers(table, fit)
        figure = Figure(figsize=(width, 0.66 * width))
        draw_isoflop(figure.subplots(), numbers, colours, unit)
        save(figure, numbers, folder, "isoflop", dpi)

        numbers = optima_numbers(fit, budgets)
        figure = Figure(figsize=(width, 0.82 * width))
        axes = dict(zip(QUANTITIES, figure.subplots(2, 2, sharex=True).flat, strict=True))
        draw_optima(axes, numbers, colours, fit)
        save(figure, numbers, folder, "optima", dpi)

        numbers = loss_curve_numbers(records)
        figure = Figure(figsize=(width, (0.85 if len(numbers) else 0.3) * width))
        if len(numbers):
            top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2.4, 1))
            draw_losses(top, numbers, heldout_numbers(records), colours)
            top.set_ylabel(f"training loss ({unit})")
            draw_rates(bottom, numbers, colours)
            bottom.set(ylabel="learning rate", xlabel="tokens seen")
        else:
            message(figure.subplots(), "No training curves: these runs came as a table of results.")
        save(figure, numbers, folder, "loss_curves", dpi)

        numbers = surface_numbers(table, fit, budgets)
        drawable = (numbers["kind"] == "grid").any()
        figure = Figure(figsize=(width, (0.75 if drawable else 0.3) * width))
        if drawable:
            draw_surface(figure.subplots(), numbers, colours, unit)
        else:
            message(figure.subplots(), f"No surface to draw. {fit['parametric']['reason']}")
        save(figure, numbers, folder, "surface", dpi)
