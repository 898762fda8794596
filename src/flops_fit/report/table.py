"""The optima and the answers as Markdown."""

from flops_fit.notation import unit_text
from flops_fit.report.answer import answers_of
from flops_fit.report.evidence import minima_of


def markdown_table(fit: dict, budgets: list[float]) -> str:
    """Optima per budget, measured, then the answers, as Markdown."""
    unit, level = unit_text(fit["data"]["loss_unit"]), f"{100 * fit['bootstrap']['level']:g}%"
    lines = []
    minima = minima_of(fit)
    if minima:
        lines += [
            "## Measured optima", "",
            f"| C (FLOPs) | N* | D* | D*/N* | loss ({unit}) | status |",
            "|---:|---:|---:|---:|---:|:---|",
            *(f"| {m['budget']} | {m['params']} | {m['tokens']} | {m['ratio']} | {m['loss']} "
              f"| {m['words']} |" for m in minima),
            "",
        ]  # fmt: skip
    lines += [
        "## Answers", "",
        f"In brackets: {level} interval. Good sizes: N within 1% of the best compute. "
        f"Headline estimator: {fit['headline']['method']}.", "",
        f"| C (FLOPs) | N* | D* | D*/N* | loss ({unit}) | good sizes | size | verdict |",
        "|---:|---:|---:|---:|---:|---:|---:|:---|",
    ]  # fmt: skip
    for answer in answers_of(fit, budgets):
        cells = [answer["budget"]]
        for row in answer["rows"]:
            cells.append(row["text"] + (f" [{row['interval']['text']}]" if row["interval"] else ""))
        size = answer["size_value"]
        cells += [answer["ranges"]["1"]["text"], "" if size is None else str(size)]
        cells.append("; ".join([answer["verdict"], *answer["reasons"]]))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
