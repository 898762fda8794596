"""Reasons about what the runs are forbid trust, whatever the probability of the promise."""

import numpy as np
import pandas as pd
import pytest
from simulated import LAWS, loss_of, sweep

from flops_fit.fit import fit_runs, predict

LAW = LAWS["besiroglu"]
BASE = sweep(LAW, noise=0.001, sizes=11)
TOP = float(BASE["flops"].max())


def answer(frame, flops=2 * TOP):
    return predict(fit_runs(frame, bootstrap=60, sensitivity=False), flops)


def checkpoints():
    """Every run seen three times on its way, each time right on the law."""
    final = BASE.drop(columns="budget").assign(run_id=[f"r{i}" for i in range(len(BASE))])
    parts = []
    for share in (0.25, 0.5, 1.0):
        tokens = share * final["tokens"]
        loss = final["loss"] * loss_of(LAW, final["params"], tokens)
        loss /= loss_of(LAW, final["params"], final["tokens"])
        parts.append(final.assign(tokens=tokens, flops=share * final["flops"], loss=loss))
    return pd.concat(parts, ignore_index=True)


def mixed():
    return BASE.assign(dataset=np.where(np.arange(len(BASE)) % 2, "c4", "wiki"))


def other_cost():
    """C as billed, which is no function of N times D."""
    bill = np.exp(0.15 * np.random.default_rng(0).standard_normal(len(BASE)))
    return BASE.assign(flops=BASE["flops"] * bill)


def test_without_a_gate_such_runs_are_trusted():
    assert answer(BASE).verdict == "trust"
    assert answer(BASE.assign(dataset="c4")).verdict == "trust"


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (checkpoints(), "165 rows are 55 runs by 'run_id': checkpoints of one run"),
        (mixed(), "column 'dataset' has 2 values (wiki, c4): one law for all of them mixes them"),
        (other_cost(), "the FLOPs of the runs differ from C = f(N) D by a factor of up to 1."),
        (BASE.assign(epochs=np.linspace(0.1, 9, len(BASE))), "some runs read their data up to 9"),
    ],
)
def test_what_the_runs_are_forbids_trust_where_the_promise_would_do(frame, reason):
    held = answer(frame, 2 * frame["flops"].max())
    assert held.promise >= 0.9
    (only,) = held.reasons
    assert only.startswith(reason)
    assert held.verdict == "provisional"


def test_beyond_budgets_of_which_none_could_be_left_out_nothing_is_trusted():
    frame = BASE[BASE["flops"] < 5e18]
    held = answer(frame, 2 * frame["flops"].max())
    assert held.verdict == "provisional"
    assert any("no budget could be left out and predicted" in text for text in held.reasons)


def test_one_budget_is_provisional_at_it_and_without_an_answer_elsewhere():
    frame = BASE[BASE["flops"] == TOP]
    here, there = answer(frame, TOP), answer(frame, 2 * TOP)
    assert here.verdict == "provisional"
    assert any("too little to see a trend" in text for text in here.reasons)
    assert there.verdict == "not identifiable"
    assert there.params is None
