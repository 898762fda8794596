"""The optima and the answers as plain LaTeX tables, which need no package."""

import re
from collections.abc import Sequence

from flops_fit.fit.result import Fit
from flops_fit.notation import SUPERSCRIPTS, unit_text
from flops_fit.report.answer_text import answers_of
from flops_fit.report.evidence import minima_of
from flops_fit.report.table import numbers_of

DIGITS = {new: old for old, new in SUPERSCRIPTS.items()}
POWER = re.compile("(?:([\\d.]+)×)?10([" + "".join(map(chr, DIGITS)) + "]+)")
SPECIAL = re.compile(r"[&%$#_{}~^\\]")
NAMED = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def latex(text: str) -> str:
    """``text`` for LaTeX: powers of ten in math, special characters escaped, ASCII where known."""
    parts, end = [], 0
    for match in POWER.finditer(text):
        factor, power = match[1], match[2].translate(DIGITS)
        parts += [_escaped(text[end : match.start()])]
        parts += [f"${factor}\\times10^{{{power}}}$" if factor else f"$10^{{{power}}}$"]
        end = match.end()
    return "".join([*parts, _escaped(text[end:])])


def _escaped(text: str) -> str:
    text = SPECIAL.sub(lambda match: NAMED.get(match[0], f"\\{match[0]}"), text)
    return text.replace("–", "--").replace("×", r"$\times$").replace("−", "$-$")


def latex_tables(fit: Fit, budgets: list[float]) -> str:
    """The measured optima of ``fit`` and the answers at ``budgets`` (FLOPs) as two tabulars."""
    unit = latex(unit_text(fit.data.loss_unit))
    shared = ["$C$ (FLOPs)", "$N^*$", "$D^*$", "$D^*/N^*$", f"loss ({unit})"]
    parts = []
    minima = minima_of(fit)
    if minima:
        keys = ("budget", "params", "tokens", "ratio", "loss", "status_text")
        rows = [[latex(str(m[key])) for key in keys] for m in minima]
        parts.append(_tabular("measured optima", [*shared, "status"], rows))
    rows = [
        [latex(cell) for cell in (answer["budget"], *numbers_of(answer), answer["verdict"])]
        for answer in answers_of(fit, budgets)
    ]
    level = f"{100 * fit.bootstrap.level:g}\\% intervals in brackets"
    title = f"answers; {level}; good sizes: at most 1\\% more compute"
    parts.append(_tabular(title, [*shared, "good sizes", "size", "verdict"], rows))
    return "\n".join(parts)


def _tabular(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [
        f"% {title}",
        f"\\begin{{tabular}}{{{'r' * (len(head) - 1)}l}}",
        "\\hline",
        " & ".join(head) + r" \\",
        "\\hline",
        *(" & ".join(row) + r" \\" for row in rows),
        "\\hline",
        "\\end{tabular}",
        "",
    ]
    return "\n".join(lines)
