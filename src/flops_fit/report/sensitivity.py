"""What the answer depends on: the refits as table rows, and their spread in words."""

from itertools import groupby

from flops_fit.fit.answer import predict
from flops_fit.fit.sensitivity import GROUPS, USABLE, sensitivity_at, spread_of
from flops_fit.notation import count_text, flops_text, loss_text
from flops_fit.report.answer import written

COUNTS = {
    "params": "as fitted",
    "params_matmul": "parameters of matrix products, head included",
    "params_nonembedding": "without embeddings and head",
    "params_total": "all parameters",
}


def sensitivity_of(fit: dict, budgets: list[float]) -> dict | None:
    """``groups`` (title, rows, span) at the last budget, ``words`` and ``notes``; None without.

    ``budgets``: those at which the fit has an answer.
    """
    if not fit["sensitivity"] or not budgets:
        return None
    flops = budgets[-1]
    rows = [r for r in sensitivity_at(fit, flops) if r["group"] in GROUPS]
    spread = spread_of(rows)
    groups = [
        {
            "title": GROUPS[name],
            "rows": [_row(row) for row in part],
            "span": _span(spread[name]) if name in spread else "",
        }
        for name, part in groupby(rows, key=lambda row: row["group"])
    ]
    return {
        "budget": flops_text(flops),
        "groups": groups,
        "span": _span(spread["all"]),
        "words": _words(spread, (predict(fit, flops)["ci"] or {}).get("params")),
        "notes": fit["sensitivity"]["notes"],
        "recounted": any(row["count"] != "params" for row in rows),
        "by_6nd": any(row["label"].endswith("C: 6 N D") and not row["headline"] for row in rows),
    }


def _row(row: dict) -> dict:
    other = row["count"] != "params"
    return {
        **row,
        "usable": row["status"] in USABLE,
        "a_text": f"{row['a']:.3f}",
        "params": written(row["params"], count_text),
        "tokens": written(row["tokens"], count_text),
        "ratio": written(row["tokens_per_param"], count_text),
        "loss": written(row["loss"], loss_text),
        "own_params": written(row["own_params"], count_text) if other else None,
        "own_ratio": written(row["own_tokens_per_param"], count_text) if other else None,
        "count_words": COUNTS.get(row["count"], row["count"]),
    }


def _span(ends: list[float]) -> str:
    return " – ".join(dict.fromkeys(map(count_text, ends)))


def _words(spread: dict[str, list[float]], ci: list[float] | None) -> str:
    """How far the choices move N, beside the interval, and which of them moves it most."""
    low, high = spread["all"]
    widest = max((g for g in spread if g != "all"), key=lambda g: spread[g][1] / spread[g][0])
    words = f"Over all of these choices N lies between {count_text(low)} and {count_text(high)}, "
    words += f"a factor of {high / low:.2f}"
    if ci:
        words += f"; the answer's interval spans a factor of {ci[1] / ci[0]:.2f}"
    outside = ci and (low < ci[0] or high > ci[1])
    verdict = (
        "."
        if ci is None
        else (
            ", and some choices move the answer beyond it." if outside else ", and holds them all."
        )
    )
    a, b = spread[widest]
    title = GROUPS[widest][:1].lower() + GROUPS[widest][1:]
    return f"{words}{verdict} What moves it most: {title} (a factor of {b / a:.2f})."
