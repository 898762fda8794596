"""What the answer depends on: the refits as rows of a table, and a summary of their spread."""

from itertools import groupby

from flops_fit.fit.estimators import USABLE
from flops_fit.fit.prediction import predict
from flops_fit.fit.result import Fit
from flops_fit.fit.sensitivity import GROUPS, RefitAnswer, sensitivity_at, spread_of
from flops_fit.notation import count_text, flops_text, loss_text
from flops_fit.report.answer_text import written

COUNT_NAMES = {
    "params": "as fitted",
    "params_matmul": "parameters of matrix products with the output head",
    "params_nonembedding": "parameters without embeddings and output head",
    "params_total": "all parameters",
}


def sensitivity_of(fit: Fit, budgets: list[float]) -> dict | None:
    """The refits of ``fit`` at the last of ``budgets`` (FLOPs); None without refits.

    ``budgets`` are those at which the fit has an answer. Returns ``groups`` (title, rows, span), a
    ``summary`` and ``notes``.
    """
    if not fit.sensitivity or not budgets:
        return None
    flops = budgets[-1]
    rows = [r for r in sensitivity_at(fit, flops) if r.group in GROUPS]
    spread = spread_of(rows)
    groups = [
        {
            "title": GROUPS[name],
            "rows": [_row(row) for row in part],
            "span": _span(spread[name]) if name in spread else "",
        }
        for name, part in groupby(rows, key=lambda row: row.group)
    ]
    return {
        "budget": flops_text(flops),
        "groups": groups,
        "span": _span(spread["all"]),
        "summary": _summary(spread, (predict(fit, flops).ci or {}).get("params")),
        "notes": fit.sensitivity.notes,
        "recounted": any(row.count != "params" for row in rows),
        "by_6nd": any(row.label.endswith("C: 6 N D") and not row.headline for row in rows),
    }


def _row(row: RefitAnswer) -> dict:
    other = row.count != "params"
    return {
        **vars(row),
        "usable": row.status in USABLE,
        "a_text": f"{row.a:.3f}",
        "params": written(row.params, count_text),
        "tokens": written(row.tokens, count_text),
        "ratio": written(row.tokens_per_param, count_text),
        "loss": written(row.loss, loss_text),
        "counted_params": written(row.own_params, count_text) if other else None,
        "counted_ratio": written(row.own_tokens_per_param, count_text) if other else None,
        "count_name": COUNT_NAMES.get(row.count, row.count),
    }


def _span(ends: list[float]) -> str:
    return " – ".join(dict.fromkeys(map(count_text, ends)))


def _summary(spread: dict[str, list[float]], ci: list[float] | None) -> str:
    """How far the choices move N, compared with its interval, and which one moves it most."""
    low, high = spread["all"]
    widest = max((g for g in spread if g != "all"), key=lambda g: spread[g][1] / spread[g][0])
    text = f"Over all these choices N ranges from {count_text(low)} to {count_text(high)}, "
    text += f"a factor of {high / low:.2f}."
    if ci:
        outside = low < ci[0] or high > ci[1]
        text += f" The interval of the answer spans a factor of {ci[1] / ci[0]:.2f} and "
        text += "does not contain all of them." if outside else "contains all of them."
    a, b = spread[widest]
    title = GROUPS[widest][:1].lower() + GROUPS[widest][1:]
    return f"{text} The choice with the largest effect: {title} (a factor of {b / a:.2f})."
