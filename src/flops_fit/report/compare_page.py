"""A comparison as a self-contained page and as Markdown."""

from pathlib import Path

from flops_fit.comparison.result import Comparison, Row
from flops_fit.comparison.sentences import factor
from flops_fit.notation import flops_text, unit_text
from flops_fit.plots.compare import NAME
from flops_fit.report.figures import inline_svg
from flops_fit.report.pages import fill

COLOURS = {"better": "trust", "worse": "not-identifiable"}  # classes of the style sheet
FIGURE = "Best loss of both arms against compute, and the compute multiplier with its interval"


def compare_page(comparison: Comparison, folder: str | Path, command: str) -> str:
    """The page of ``comparison`` as HTML.

    ``folder`` has its figure (`flops_fit.plots.compare.write_figure`), and ``command`` repeats it.
    """
    return fill(
        "compare.html.j2",
        {"factor": _factor, "interval": _interval, "sentence": _sentence},
        c=comparison,
        colours=COLOURS,
        level=f"{100 * comparison.level:g}%",
        unit=unit_text(comparison.loss_unit),
        figure=inline_svg(Path(folder, f"{NAME}.svg"), NAME, FIGURE),
        command=command,
        fast=any(row.wall_clock for row in comparison.rows),
    )


def compare_table(comparison: Comparison) -> str:
    """The ``comparison`` as Markdown: its sentences, one row for each C, and the fairness list."""
    names = comparison.reference.name, comparison.candidate.name
    level = f"{100 * comparison.level:g}%"
    lines = [
        f"# {names[1]} against {names[0]}",
        "",
        *comparison.summary,
        "",
        f"| C (FLOPs) | M | {level} interval | P(M > 1) | measured M | verdict |",
        "|---|---|---|---|---|---|",
        *(_line(row) for row in comparison.rows),
        "",
        f"Model: {comparison.model.name}; {comparison.model.why}.",
        "",
        "## Fairness",
        "",
        *(f"- {_sentence(doubt.text)}." for doubt in comparison.fairness),
        *(["- Nothing differs beside the recipe."] if not comparison.fairness else []),
    ]
    if comparison.differences:
        lines += ["", "## Differences in the config", ""]
        lines += [f"- `{text}`" for text in comparison.differences]
    return "\n".join([*lines, ""])


def _line(row: Row) -> str:
    probability = "–" if row.probability is None else f"{row.probability:.3f}"
    cells = (
        flops_text(row.flops),
        _factor(row.multiplier),
        _interval(row.ci),
        probability,
        _factor(row.measured),
        row.verdict,
    )
    return f"| {' | '.join(cells)} |"


def _factor(value: float | None) -> str:
    return "–" if value is None else factor(value)


def _interval(ends: list[float] | None) -> str:
    return "–" if ends is None else f"{factor(ends[0])} – {factor(ends[1])}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
