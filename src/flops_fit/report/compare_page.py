"""A comparison as a self-contained page and as Markdown."""

from pathlib import Path

from flops_fit.comparison.result import Comparison, Row
from flops_fit.comparison.sentences import headline_of
from flops_fit.notation import count_text, flops_text, unit_text
from flops_fit.plots.compare import ISOFLOP, NAME
from flops_fit.report.figures import inline_svg
from flops_fit.report.pages import fill

COLOURS = {"better": "trust", "worse": "not-identifiable"}  # classes of the style sheet
FIGURE = "Best loss of all arms against compute, and the compute multiplier with its interval"
PANELS = "Loss against parameters at each compute budget, one panel for each arm"


def compare_page(comparisons: list[Comparison], folder: str | Path, command: str) -> str:
    """The page of ``comparisons``, which share their reference, as HTML.

    ``folder`` has the figures (`flops_fit.plots.compare.write_figures`), and ``command`` repeats it.
    """
    first = comparisons[0]
    headline = ". ".join(
        headline_of(each.rows, (first.reference.name, each.candidate.name)) for each in comparisons
    )
    shared = {each.candidate.name: _in_all(each.rows) for each in comparisons}
    measured = (c for each in comparisons for arm in each.minima.values() for c, _ in arm)
    return fill(
        "compare.html.j2",
        {"factor": _factor, "interval": _interval, "sentence": _sentence},
        comparisons=comparisons,
        headline=headline,
        shared=shared,
        reference=first.reference,
        colours=COLOURS,
        level=f"{100 * first.level:g}%",
        unit=unit_text(first.loss_unit),
        figure=inline_svg(Path(folder, f"{NAME}.svg"), NAME, FIGURE),
        panels=inline_svg(Path(folder, f"{ISOFLOP}.svg"), ISOFLOP, PANELS),
        budgets=sorted({flops_text(c): c for c in measured}.values()),
        command=command,
        fast=any(row.wall_clock for c in comparisons for row in c.rows),
    )


def compare_table(comparisons: list[Comparison]) -> str:
    """The ``comparisons`` as Markdown: sentences, one row for each C, model and fairness list."""
    first = comparisons[0]
    arms = ", ".join(c.candidate.name for c in comparisons)
    lines = [
        f"# {arms} against {first.reference.name}",
        "",
        *(text for c in comparisons for text in c.summary),
        "",
        f"| candidate | C (FLOPs) | M | {100 * first.level:g}% interval | P(M > 1) | measured M "
        "| verdict |",
        "|---|---|---|---|---|---|---|",
        *(_line(c.candidate.name, row) for c in comparisons for row in c.rows),
    ]
    for c in comparisons:
        lines += ["", f"## {c.candidate.name} against {c.reference.name}", ""]
        lines += [f"Model: {c.model.name}; {c.model.why}.", "", "Fairness:", ""]
        lines += [f"- {_sentence(doubt.text)}." for doubt in c.fairness]
        lines += [] if c.fairness else ["- Nothing differs beside the recipe."]
        if c.differences:
            lines += ["", "Differences in the config:", ""]
            lines += [f"- `{text}`" for text in c.differences]
    return "\n".join([*lines, ""])


def _line(name: str, row: Row) -> str:
    probability = "–" if row.probability is None else f"{row.probability:.3f}"
    cells = (
        name,
        flops_text(row.flops),
        _factor(row.multiplier),
        _interval(row.ci),
        probability,
        _factor(row.measured),
        row.verdict,
    )
    return f"| {' | '.join(cells)} |"


def _in_all(rows: list[Row]) -> list[str]:
    """The reasons that all of several ``rows`` give, to be said once."""
    return [why for why in rows[0].reasons if len(rows) > 1 and all(why in r.reasons for r in rows)]


def _factor(value: float | None) -> str:
    return "–" if value is None else count_text(value)


def _interval(ends: list[float] | None) -> str:
    return "–" if ends is None else f"{_factor(ends[0])} – {_factor(ends[1])}"


def _sentence(text: str) -> str:
    """``text`` with a capital letter, unless it begins with the name of a sweep such as muon_tuned."""
    name = "_" in text.split(maxsplit=1)[0]
    return text if name else text[:1].upper() + text[1:]
