"""The refits of a fit evaluated at one budget: what the answer depends on."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from flops_fit.fit.cost import Cost
from flops_fit.fit.estimators import USABLE
from flops_fit.fit.result import Fit

GROUPS = {  # in the order of the table
    "counting": "How N and C are counted",
    "estimator": "Estimator",
    "delta": "Huber threshold of the surface",
    "exclusion": "Runs left out",
    "budget": "Without one budget or range of C",
    "seed": "Without one seed",
}


@dataclass(frozen=True)
class RefitAnswer:
    """One refit at one budget: its choice, and its N*, D*, D*/N* and L*.

    ``params`` and ``tokens_per_param`` count N as the fit does, so that refits compare;
    ``own_params`` and ``own_tokens_per_param`` are the same in the refit's own ``count`` of N, a
    column of the table. The other fields are those of `flops_fit.fit.sections.Refit`.
    """

    group: str  # what was changed
    label: str  # the choice
    headline: bool  # whether it is the fit's own choice
    count: str
    status: str  # of the estimator
    reason: str  # for the status
    method: str  # the estimator
    n_runs: int  # runs used
    a: float
    params: float
    tokens: float  # D*
    tokens_per_param: float
    loss: float  # L*
    own_params: float
    own_tokens_per_param: float


def in_own_count(fit: Fit, count: str, params: float) -> float:
    """N as ``fit`` counts it, of the model whose ``count`` (a column of the table) is ``params``.

    Read off the table of sizes; between them the ratio of both counts is interpolated, beyond them
    it keeps its last value, as that of the cost does.
    """
    if count == "params":
        return params
    known = {n: size.params for size in fit.sizes if (n := getattr(size, count))}
    pairs = tuple(sorted(known)), tuple(known[n] for n in sorted(known))
    # N by its other count takes the place of f(N).
    ratio = Cost(pairs[1][0] / pairs[0][0], *pairs, trend=False)
    return float(np.exp(ratio.log_flops_per_token(np.log(params))))


def sensitivity_at(fit: Fit, flops: float) -> list[RefitAnswer]:
    """The refits of ``fit`` evaluated at C = ``flops``, as each counts C; empty where it has none.

    Where no law could be fitted (``status`` not in `USABLE`) the numbers are given, but mean little.
    """
    answers, log_c = [], np.log(flops)
    for row in fit.sensitivity.rows if fit.sensitivity else ():
        log_n, loss = (float(v[0]) for v in row.law.optimum(log_c, row.cost))
        counted, tokens = float(np.exp(log_n)), float(np.exp(row.cost.log_tokens(log_n, log_c)))
        params = in_own_count(fit, row.count, counted)
        answers.append(
            RefitAnswer(
                **{k: v for k, v in vars(row).items() if k not in ("law", "cost")},
                params=params,
                tokens=tokens,
                tokens_per_param=tokens / params,
                loss=loss,
                own_params=counted,
                own_tokens_per_param=tokens / counted,
            )
        )
    return answers


def spread_of(rows: Iterable[RefitAnswer], name: str = "params") -> dict[str, list[float]]:
    """[lowest, highest] of a quantity over the usable ``rows`` of `sensitivity_at`: all and by group.

    ``name``: the field that is compared.
    """
    usable = [row for row in rows if row.status in USABLE]
    spread = {"all": usable} | {g: [r for r in usable if r.group == g] for g in GROUPS}
    return {
        group: [min(getattr(r, name) for r in part), max(getattr(r, name) for r in part)]
        for group, part in spread.items()
        if part
    }
