"""The plan as a self-contained page: the cost of the sweep, its grid, and what may go wrong."""

from flops_fit.experiment.plan import Plan
from flops_fit.notation import time_text
from flops_fit.plan.price import DEVICES, Rate, device_kind, usable_cores
from flops_fit.plan.table import PlanRow, closing, opening, totals
from flops_fit.plan.warnings import tunes
from flops_fit.report.pages import fill

MOST_ROWS = 500  # of the table on the page; the CSV has all rows


def plan_page(
    name: str,
    plan: Plan,
    rows: list[PlanRow],
    warnings: list[str],
    rate: Rate,
    currency: str,
    figure: bytes,
) -> str:
    """The page of the sweep ``name`` as HTML.

    ``plan`` is its plan, ``rows`` come from `flops_fit.plan.table.plan_rows`,
    ``warnings`` are sentences, ``rate`` is the assumed speed, ``currency`` its sign, and ``figure``
    an SVG.
    """
    *notes, estimate = closing(plan, rows, rate, currency)[2:]
    return fill(
        "plan.html.j2",
        {"time": time_text, "sentence": _sentence},
        name=name,
        plan=plan,
        rows=rows,
        most=MOST_ROWS,
        total=totals(rows),
        warnings=warnings,
        notes=notes,
        estimate=estimate,
        opening=opening(plan, rows, currency, usable_cores()),
        currency=currency,
        tuned=tunes(rows),
        seeds=len({row.experiment.seed for row in rows}),
        epochs_known=all(row.epochs is not None for row in rows),
        budgets=sorted({row.experiment.compute_budget for row in rows}),
        figure=figure.decode().partition("<svg")[2],
        device=DEVICES[device_kind(plan.resources.gpus)],
    )


def _sentence(text: str) -> str:
    """``text`` with a capital letter, unless it starts with a name such as d_model=12."""
    first = text.split(maxsplit=1)[0]
    return text if "=" in first else text[:1].upper() + text[1:]
