"""The optima and the answers as Markdown."""

import re

from flops_fit.fit.result import Fit
from flops_fit.notation import unit_text
from flops_fit.report.answer_text import answers_of
from flops_fit.report.evidence import members_of, minima_of


def plain(text: str) -> str:
    """``text`` as one line of Markdown, escaped so that it adds no cell, code, link or HTML."""
    escaped = re.sub(r"([\\|`\[])", r"\\\1", " ".join(text.split()))
    return re.sub(r"&(?=#?\w+;)", "&amp;", escaped).replace("<", "&lt;")


def markdown_table(fit: Fit, budgets: list[float]) -> str:
    """The measured optima of ``fit`` and the answers at ``budgets`` (FLOPs) as Markdown."""
    unit = plain(unit_text(fit.data.loss_unit))
    lines = []
    minima = minima_of(fit)
    if minima:
        lines += [
            "## Measured optima",
            "",
            f"| C (FLOPs) | N* | D* | D*/N* | loss ({unit}) | status |",
            "|---:|---:|---:|---:|---:|:---|",
            *(
                f"| {m['budget']} | {m['params']} | {m['tokens']} | {m['ratio']} | {m['loss']} "
                f"| {plain(m['status_text'])} |"
                for m in minima
            ),
            "",
        ]
    members = members_of(fit)
    if members:
        lines += [
            "## Members of the stack",
            "",
            "| member | weight for N* | weight for L* | weight for the loss of a run |",
            "|:---|---:|---:|---:|",
            *(f"| {m['name']} | {m['params']} | {m['loss']} | {m['runs']} |" for m in members),
            "",
        ]
    return "\n".join([*lines, "## Answers", "", answer_table(fit, budgets)])


def answer_table(fit: Fit, budgets: list[float]) -> str:
    """The answers of ``fit`` at ``budgets`` (FLOPs) as Markdown without a heading."""
    unit = plain(unit_text(fit.data.loss_unit))
    level = f"{100 * fit.bootstrap.level:g}%"
    lines = [
        f"In brackets: {level} interval ({_covers(fit)}). Good sizes reach the same loss with at "
        f"most 1% more compute. Headline estimator: {fit.headline.method}.",
        "",
        f"| C (FLOPs) | N* | D* | D*/N* | loss ({unit}) | good sizes | size | verdict |",
        "|---:|---:|---:|---:|---:|---:|---:|:---|",
    ]
    for answer in answers_of(fit, budgets):
        cells = [answer["budget"], *numbers_of(answer)]
        cells.append(plain("; ".join([answer["verdict"], *answer["reasons"]])))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _covers(fit: Fit) -> str:
    """What the intervals cover."""
    return "noise and the error of the form" if fit.stack else "noise alone"


def numbers_of(answer: dict) -> list[str]:
    """Cells of ``answer``, one of `answers_of`; dashes if the fit is not identifiable."""
    if answer["verdict"] == "not identifiable":
        return ["–"] * (len(answer["rows"]) + 2)
    rows = [
        row["text"] + (f" [{row['interval']['text']}]" if row["interval"] else "")
        for row in answer["rows"]
    ]
    size = answer["size_value"]
    return [*rows, answer["ranges"]["1"]["text"], "" if size is None else str(size)]
