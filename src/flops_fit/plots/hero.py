"""One figure for a first page: the measured curves, where their minima lead, and the answer."""

import textwrap

import pandas as pd
from matplotlib.figure import Figure

from flops_fit.fit.prediction import predict
from flops_fit.fit.result import Fit
from flops_fit.fit.runs import RunTable
from flops_fit.notation import count_text, flops_text, unit_text
from flops_fit.plots.isoflop import draw_isoflop, isoflop_numbers
from flops_fit.plots.optima import draw_optimum, optima_numbers
from flops_fit.plots.style import BudgetColours

LETTERS_PER_INCH = 11  # of the sentence above the panels
SIDE_BY_SIDE = 4.5  # inches; a narrower figure stacks its panels


def hero_numbers(table: RunTable, fit: Fit, budgets: list[float]) -> pd.DataFrame:
    """The rows of `isoflop_numbers` and of `optima_numbers`, told apart by their column ``panel``.

    ``table`` holds the runs of ``fit``, ``budgets`` the budgets to answer for in FLOPs.
    """
    curves = isoflop_numbers(table, fit).assign(panel="isoflop")
    optima = optima_numbers(fit, budgets).assign(panel="optima")
    return pd.concat([curves, optima], ignore_index=True)


def hero_sentence(fit: Fit, budgets: list[float]) -> str:
    """The answer of ``fit`` for the largest of ``budgets`` (FLOPs) that is trusted, else answered."""
    answers = [a for a in (predict(fit, c) for c in sorted(budgets)) if a.params is not None]
    if not answers:
        return "These runs do not determine how large a model should be."
    best = ([a for a in answers if a.verdict == "trust"] or answers)[-1]
    assert best.params is not None
    assert best.tokens is not None
    text = (
        f"With {flops_text(best.flops)} FLOPs, train about {count_text(best.params)} parameters "
        f"on {count_text(best.tokens)} tokens"
    )
    if best.range_1pct is not None:
        low, high = (count_text(n) for n in best.range_1pct)
        text += f"; {low} to {high} parameters cost at most 1% more compute"
    return f"{text} ({best.verdict})."


def draw_hero(
    figure: Figure, numbers: pd.DataFrame, colours: BudgetColours, fit: Fit, sentence: str
) -> None:
    """Draw ``numbers``, the rows of `hero_numbers`, on an empty ``figure``, below ``sentence``.

    ``colours`` are those of the budgets of ``fit``, which has an optimum at some budget.
    """
    panels = dict(list(numbers.groupby("panel")))
    width = figure.get_figwidth()
    if width < SIDE_BY_SIDE:
        left, right = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.4, 1.6)).flat
    else:
        left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1.5, 1)).flat
    draw_isoflop(left.subplots(), panels["isoflop"], colours, unit_text(fit.data.loss_unit))
    axes = right.subplots(2, 1, sharex=True)
    for quantity, ax in zip(("params", "tokens"), axes, strict=True):
        draw_optimum(ax, panels["optima"], quantity, colours)
    axes[-1].set_xlabel("compute C (FLOPs)")
    lines = textwrap.fill(sentence, int(width * LETTERS_PER_INCH))
    figure.suptitle(lines, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
