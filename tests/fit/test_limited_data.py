"""What repeats are worth, and the best model for few unique tokens: planted laws are recovered."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from published_schemas import problems
from scipy.optimize import minimize_scalar
from simulated import LAWS, loss_of, sweep

from flops_fit.errors import FlopsFitError
from flops_fit.fit import Fit, ask, fit_runs, prepare_runs, read_runs
from flops_fit.fit.cost import Cost
from flops_fit.fit.estimators import Runs
from flops_fit.fit.repeats import effective, repeats_of
from flops_fit.fit.rows import Reading
from flops_fit.fit.sections import RepeatsEntry
from flops_fit.report.answer_lines import describe

LAW = LAWS["besiroglu"]


def worth(form: str, tokens, unique, r: float):
    """D', by the formulas of the page."""
    x = np.maximum(np.asarray(tokens) / unique - 1, 0)
    more = {"none": x, "exponential": r * (1 - np.exp(-x / r)), "hyperbolic": r * x / (r + x)}
    return np.where(x > 0, unique * (1 + more[form]), tokens)


def repeating(form: str, r: float = 6.0, noise: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Runs of half a pass to 32 passes over three amounts of data."""
    grid = np.meshgrid(
        np.geomspace(1e8, 4e9, 6), (2e9, 8e9, 3.2e10), (0.5, 1, 2, 4, 8, 16, 32), indexing="ij"
    )
    params, unique, epochs = (v.ravel() for v in grid)
    loss = loss_of(LAW, params, worth(form, unique * epochs, unique, r))
    scatter = np.exp(noise * np.random.default_rng(seed).standard_normal(len(params)))
    columns = {"params": params, "tokens": unique * epochs, "unique_tokens": unique}
    return pd.DataFrame({**columns, "loss": loss * scatter})


def fitted(form: str, **how: float) -> Fit:
    table = prepare_runs(repeating(form, **how))
    return fit_runs(table, method="surface", bootstrap=40, sensitivity=False)


def repeats(form: str, **how: float) -> RepeatsEntry:
    frame = prepare_runs(repeating(form, **how)).frame
    return repeats_of(Runs(frame, [], Cost()), 40, 0.9, 0)


@pytest.fixture(scope="module")
def noisy() -> Fit:
    return fitted("exponential", noise=0.003)


def best_of(form: str, r: float, flops: float, unique: float):
    """N and L by a search of the planted law."""

    def loss(log_n):
        tokens = flops / 6 / np.exp(log_n)
        return float(loss_of(LAW, np.exp(log_n), worth(form, tokens, unique, r)))

    found = minimize_scalar(loss, bounds=(18, 28), method="bounded", options={"xatol": 1e-10})
    return np.exp(found.x), found.fun


@pytest.mark.parametrize("form", ["none", "exponential", "hyperbolic"])
def test_the_worth_of_repeats_is_that_of_the_page(form):
    tokens, unique = np.geomspace(1e8, 1e12, 30), 1e9
    got = np.exp(effective(form, np.log(tokens), np.log(np.full(30, unique)), np.array(5.0)))
    assert got == pytest.approx(worth(form, tokens, unique, 5.0), rel=1e-12)


@pytest.mark.parametrize("form", ["exponential", "hyperbolic"])
def test_without_noise_the_answer_is_exact(form):
    fit = fitted(form)
    limited = ask(fit, 1e22, unique=1e10).limited
    params, loss = best_of(form, 6.0, 1e22, 1e10)
    assert fit.repeats.form == limited.form == form
    assert pytest.approx(6.0, rel=1e-4) == limited.R
    assert limited.params == pytest.approx(params, rel=1e-3)
    assert limited.loss == pytest.approx(loss, rel=1e-6)
    assert limited.epochs == pytest.approx(1e22 / 6 / limited.params / 1e10)
    assert not limited.borrowed


@pytest.mark.parametrize(
    ("planted", "noise", "said"), [("exponential", 0.03, True), ("none", 0.003, False)]
)
def test_a_form_that_is_better_but_not_clearly_is_said(planted, noise, said):
    fit = fitted(planted, r=30, noise=noise, seed=int(said))
    errors = {form.form: form.error for form in fit.repeats.forms}
    assert fit.repeats.form == "none"
    assert (min(errors.values()) < errors["none"]) == said
    reasons = ask(fit, 1e22, unique=1e10).limited.reasons
    assert any("which is better, but not clearly" in reason for reason in reasons) == said


def test_runs_left_out_for_their_passes_still_show_what_repeats_are_worth():
    """The law is that of the fresh runs; a row of the sensitivity has the others too."""
    table = prepare_runs(repeating("exponential"), reading=Reading(max_epochs=1.05))
    assert (len(table.frame), len(table.repeated)) == (36, 90)
    fit = fit_runs(table, method="surface", bootstrap=0)
    assert fit.repeats.n_repeated == 90
    assert pytest.approx(6, rel=0.01) == fit.repeats.R
    assert fit.parametric.alpha == pytest.approx(LAW[3], rel=1e-4)
    (row,) = [r for r in fit.sensitivity.rows if "left out for their epochs" in r.label]
    assert (row.label, row.n_runs) == ("with the 90 left out for their epochs", 126)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("r", [4.0, 15.4])
def test_a_planted_r_is_recovered_within_a_fifth(r, seed):
    repeats = fitted("exponential", r=r, noise=0.003, seed=seed).repeats
    assert repeats.form == "exponential"
    assert pytest.approx(r, rel=0.2) == repeats.R
    assert repeats.R_ci[0] < repeats.R < repeats.R_ci[1]


@pytest.mark.parametrize("seed", range(5))
def test_none_is_chosen_where_nothing_was_planted(seed):
    found = repeats("none", noise=0.003, seed=seed)
    assert found.form == "none"
    assert found.R is found.R_ci is None
    assert len(found.law) == 5


def test_repeats_without_loss_of_value_lack_nothing():
    limited = ask(fitted("none", noise=0.003), 1e22, unique=1e10).limited
    assert limited.form == "none"
    assert limited.wasted == 0
    assert limited.params == limited.unlimited[0]
    assert limited.epochs > 10


def test_the_price_of_the_lack_of_data_is_the_compute_that_would_do_without_it(noisy):
    limited = ask(noisy, 1e22, unique=1e10).limited
    e, ln_a, ln_b, alpha, beta, _ = noisy.repeats.law
    law = (e, np.exp(ln_a), np.exp(ln_b), alpha, beta)
    less = 1e22 * (1 - limited.wasted)

    def loss(log_n):
        return float(loss_of(law, np.exp(log_n), less / 6 / np.exp(log_n)))

    found = minimize_scalar(loss, bounds=(15, 28), method="bounded", options={"xatol": 1e-10})
    assert found.fun == pytest.approx(limited.loss, rel=1e-9)
    for name in ("params", "tokens", "epochs", "loss"):
        assert limited.ci[name][0] < getattr(limited, name) < limited.ci[name][1]


def test_where_no_run_repeats_the_published_worth_is_borrowed_and_said():
    fit = fit_runs(sweep(LAW), method="surface", bootstrap=0, sensitivity=False)
    few, enough = (ask(fit, 1e20, unique=unique) for unique in (1e9, 1e12))
    assert fit.repeats is None
    assert few.limited.borrowed
    assert "2305.16264" in few.limited.source
    params, loss = best_of("exponential", 15.4, 1e20, 1e9)
    assert few.limited.params == pytest.approx(params, rel=1e-4)
    assert few.limited.loss == pytest.approx(loss, rel=1e-9)
    assert few.limited.verdict == "provisional"
    assert "borrowed (R = 15.4" in describe(few, fit)
    assert enough.limited.params == pytest.approx(enough.params)
    assert enough.limited.verdict == enough.verdict
    assert enough.limited.wasted == 0


def test_beyond_the_passes_of_the_runs_it_says_so(noisy):
    far = ask(noisy, 1e23, unique=1e8).limited
    assert far.epochs > 32 * 1.05
    assert "passes are beyond those of the runs, at most 32" in far.reasons[-1]
    assert far.verdict == "provisional"


def test_the_fit_and_the_answer_keep_their_schemas_and_files(noisy):
    assert problems("fit", noisy.to_dict()) == []
    answer = ask(noisy, 1e22, unique=1e10)
    assert problems("answer", answer.to_dict()) == []
    assert ask(Fit.from_dict(noisy.to_dict()), 1e22, unique=1e10) == answer
    with pytest.raises(FlopsFitError, match=r"unique: -1; allowed: a positive finite number of"):
        ask(noisy, 1e22, unique=-1)


@pytest.mark.skipif(
    "FLOPS_FIT_PUBLISHED_RUNS" not in os.environ, reason="FLOPS_FIT_PUBLISHED_RUNS is not set"
)
def test_public_runs_give_what_the_page_says():
    """Muennighoff et al. 2023, arXiv 2305.16264."""
    table = read_runs(Path(os.environ["FLOPS_FIT_PUBLISHED_RUNS"], "published/datablations.csv"))
    repeats = fit_runs(table, bootstrap=60, method="surface", sensitivity=False).repeats
    assert repeats.n_repeated == 153
    assert repeats.form == "exponential"
    assert pytest.approx(29, abs=0.5) == repeats.R
    errors = [form.error for form in repeats.forms]
    assert errors == pytest.approx([0.053, 0.041, 0.041], abs=0.001)
