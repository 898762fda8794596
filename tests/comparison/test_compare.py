"""The comparison of two fits: intervals, verdicts, joint resamples, the fairness list, sentences."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from simulated import GRIDS, LAWS, sweep

from flops_fit.comparison.core import compare_fits
from flops_fit.comparison.judge import Belief, Spread, judge, together
from flops_fit.comparison.models import models_of
from flops_fit.comparison.multiplier import log_losses
from flops_fit.comparison.pairs import Arm, joint_draws, labels_of
from flops_fit.comparison.seeds import component, seed_luck
from flops_fit.errors import FlopsFitError
from flops_fit.fit import fit_runs
from flops_fit.fit.cost import Cost
from flops_fit.fit.laws import SurfaceLaw, spread

LAW = LAWS["besiroglu"]
TOP = 8.1e19


def runs(gain, seed, noise=0.003, budgets=4):
    """Two seeds of a sweep whose every FLOP is worth ``gain`` of the reference's."""
    e, a, b, alpha, beta = LAW
    law = (e, a * gain ** (-alpha / 2), b * gain ** (-beta / 2), alpha, beta)
    parts = [
        sweep(law, GRIDS["narrow"], 5, budgets, 3e18, TOP, noise, seed=[seed, s]).assign(seed=s)
        for s in (0, 1)
    ]
    frame = pd.concat(parts, ignore_index=True)
    frame["params"] = sweep(LAW, GRIDS["narrow"], 5, budgets, 3e18, TOP)["params"].tolist() * 2
    frame["tokens"] = frame["flops"] / (6 * frame["params"])
    luck = noise * np.random.default_rng([seed, 9]).standard_normal(len(frame))
    e, a, b, alpha, beta = law
    frame["loss"] = (e + a * frame["params"] ** -alpha + b * frame["tokens"] ** -beta) * np.exp(
        luck
    )
    return frame


def fitted(gain, seed, **options):
    return fit_runs(
        runs(gain, seed), bootstrap=options.pop("bootstrap", 100), sensitivity=False, **options
    )


# By the surface alone, which takes a tenth of the time of the stack.
@pytest.fixture(scope="module")
def reference():
    return fitted(1.0, 0, method="surface")


@pytest.fixture(scope="module")
def candidate():
    return fitted(1.3, 1, method="surface")


@pytest.fixture(scope="module")
def gain():
    return compare_fits(fitted(1.0, 0), fitted(1.3, 1), names=("plain", "muon"))


def test_a_gain_of_thirty_percent_is_seen_with_an_interval_that_holds_it(gain):
    *shared, beyond = gain.rows
    assert [row.flops for row in shared] == pytest.approx(np.geomspace(3e18, TOP, 4))
    assert beyond.flops == pytest.approx(10 * TOP)
    for row in shared[1:]:
        assert row.ci[0] < 1.3 < row.ci[1]
        assert row.verdict == "better"
        assert row.probability > 0.975
        assert row.measured == pytest.approx(1.3, rel=0.15)
    widths = [np.log(row.ci[1] / row.ci[0]) for row in gain.rows]
    assert widths[-1] > widths[-2]  # it widens beyond the data
    assert np.log(beyond.ci[1] / beyond.ci[0]) > np.log(beyond.ci_noise[1] / beyond.ci_noise[0])
    assert "better" in gain.summary[0]
    assert gain.crossing.flops is None
    assert "none within the range" in gain.crossing.text


def test_exchanged_arms_give_the_inverse(gain, reference, candidate):
    other = compare_fits(candidate, reference, [TOP], ("a", "b")).rows[0]
    assert other.verdict == "worse"
    assert other.models["shared"] == pytest.approx(1 / gain.rows[3].models["shared"], rel=1e-6)


def test_equal_arms_show_no_difference_and_what_would_have_been_seen(reference):
    same = compare_fits(reference, fitted(1.0, 5, method="surface"), [TOP])
    row, text = same.rows[0], same.summary[0]
    assert row.verdict == "no difference shown"
    assert 1.01 < row.smallest < 1.5
    assert "No difference between " in text
    assert "probability of 80%" in text


def test_a_fit_compared_with_itself_shows_nothing(reference):
    row = compare_fits(reference, reference, [TOP]).rows[0]
    assert row.verdict == "no difference shown"
    assert row.multiplier == pytest.approx(1.0, abs=1e-9)


def test_where_n_and_d_cannot_be_separated_nothing_can_be_told(reference):
    params = np.geomspace(1e8, 1e10, 12)
    frame = pd.DataFrame({"params": params, "tokens": 20 * params})
    e, a, b, alpha, beta = LAW
    frame["loss"] = e + a * params**-alpha + b * (20 * params) ** -beta
    along = fit_runs(frame, bootstrap=50, sensitivity=False)
    compared = compare_fits(reference, along)
    assert {row.verdict for row in compared.rows} == {"cannot tell"}
    assert all(row.multiplier is None and row.reasons for row in compared.rows)
    assert "not known" in compared.crossing.text
    assert compared.curve.flops == []


def test_crossing_frontiers_give_the_crossing_with_an_interval_around_it():
    e, a, b, alpha, beta = LAW
    law = (e, 1.9 * a, 1.9 * b, alpha + 0.03, beta + 0.03)
    frames = [sweep(each, GRIDS["narrow"], 6, 5, 1e18, 1e21, 0.001, seed=7) for each in (LAW, law)]
    fits = [fit_runs(f, bootstrap=60, sensitivity=False, method="surface") for f in frames]
    crossing = compare_fits(*fits, [1e20]).crossing
    at = np.linspace(np.log(1e18), np.log(1e22), 4001)
    true = [SurfaceLaw(np.array([[v[0], np.log(v[1]), np.log(v[2]), *v[3:]]])) for v in (LAW, law)]
    losses = [log_losses(each, at, Cost())[0] for each in true]
    (there,) = np.exp(at[np.flatnonzero(np.diff(np.sign(losses[0] - losses[1])))])
    assert crossing.flops == pytest.approx(there, rel=0.3)
    assert (crossing.ci[0] or 0) < there < (crossing.ci[1] or np.inf)
    assert "cross at" in crossing.text


def test_without_resamples_there_is_an_estimate_and_no_verdict(candidate):
    row = compare_fits(fitted(1.0, 0, bootstrap=0, method="surface"), candidate, [TOP]).rows[0]
    assert row.verdict == "cannot tell"
    assert row.multiplier == pytest.approx(1.3, rel=0.1)
    assert row.ci is None
    assert "no intervals" in row.reasons[0]


def test_far_beyond_the_data_nothing_can_be_told(reference, candidate):
    row = compare_fits(reference, candidate, [2000 * TOP]).rows[0]
    assert (row.verdict, row.multiplier) == ("cannot tell", None)


def test_losses_in_different_units_are_refused(reference):
    with pytest.raises(FlopsFitError, match="allowed: the same unit in both"):
        compare_fits(reference, fitted(1.0, 1, loss_unit="bits per byte", method="surface"))


@pytest.mark.parametrize("flops", [[0.0], [float("nan")], [-1e20]])
def test_a_budget_that_is_none_is_refused(reference, candidate, flops):
    with pytest.raises(FlopsFitError, match="positive"):
        compare_fits(reference, candidate, flops)


def test_paired_runs_are_drawn_together(reference, candidate):
    arms = Arm.of("a", reference), Arm.of("b", candidate)
    first, second = joint_draws(*arms, 50, np.random.default_rng(0))
    assert (first.weight == second.weight).all()
    first, second = joint_draws(*arms, 50, np.random.default_rng(0), paired=False)
    assert not (first.weight == second.weight).all()
    for draws in (first, second):
        assert draws.weight.sum(axis=1) == pytest.approx(draws.weight.shape[1])


def test_runs_are_matched_by_budget_size_and_seed_whatever_their_order(reference):
    frame = runs(1.0, 0).sample(frac=1, random_state=3).reset_index(drop=True)
    arms = (
        Arm.of("a", reference),
        Arm.of("b", fit_runs(frame, bootstrap=0, sensitivity=False, method="surface")),
    )
    labels = labels_of(*arms), labels_of(*arms[::-1])
    assert sorted(labels[0]) == sorted(labels[1])
    params = [
        dict(zip(label, arm.runs.column("params"), strict=True))
        for label, arm in zip(labels, arms, strict=True)
    ]
    assert params[0] == pytest.approx(params[1])


def test_common_luck_cancels_in_paired_resamples():
    luck = 0.01 * np.random.default_rng(4).standard_normal(40)
    fits = []
    for g in (1.0, 1.2):
        frame = runs(g, 0, noise=0.0)
        frame["loss"] *= np.exp(luck)
        options = {"resample": "runs", "method": "surface", "sensitivity": False}
        fits.append(fit_runs(frame, bootstrap=100, **options))
    sd = [
        np.log(np.divide(*compare_fits(*fits, [TOP], paired=paired).rows[0].ci_noise[::-1]))
        for paired in (True, False)
    ]
    assert sd[0] < 0.25 * sd[1]


def record(key, value, tokens=100, **changes):
    identity = {"model": {"size": 1}, "dataset": {"factory": "text"}, "learning_rate": 0.1}
    identity["optimizer"] = {"factory": "adamw", "source": str(changes)}
    section, name = key.split(".")
    identity[section] = {**identity.get(section, {}), name: value}
    return {
        "identity": identity | changes,
        "heldout_tokens": tokens,
        "flops_counted": 6.0,
        "wall_seconds": 2.0,
    }


def test_arms_that_differ_in_one_key_are_described_by_it(reference, candidate):
    sides = [record("optimizer.factory", "adamw")], [record("optimizer.factory", "muon")]
    compared = compare_fits(reference, candidate, [TOP], ("a", "b"), sides)
    assert compared.differences == ["optimizer.factory: adamw against muon"]
    assert "one key of their config, optimizer.factory" in compared.summary[0]
    assert [d.topic for d in compared.fairness] == ["learning rate", "learning rate"]
    assert compared.rows[0].verdict == "better"
    assert compared.rows[0].wall_clock == pytest.approx(compared.rows[0].multiplier)


def test_other_data_forbid_a_verdict_in_nats_and_not_in_bits_per_byte(reference, candidate):
    sides = [record("dataset.factory", "text")], [record("dataset.factory", "code")]
    row = compare_fits(reference, candidate, [TOP], ("a", "b"), sides).rows[0]
    assert row.verdict == "cannot tell"
    assert "dataset.factory" in row.reasons[0]
    both = [
        replace(fit, data=replace(fit.data, loss_unit="bits per byte"))
        for fit in (reference, candidate)
    ]
    assert compare_fits(*both, [TOP], ("a", "b"), sides).rows[0].verdict == "better"


def test_what_differs_between_the_sweeps_is_listed(reference):
    frame = runs(1.0, 3, budgets=3)
    frame["epochs"] = 9.0
    top = frame[frame["budget"] == frame["budget"].max()]
    frame = frame.drop(top.index[top["params"] > top["params"].median()])
    other = fit_runs(frame, bootstrap=50, sensitivity=False, method="surface")
    topics = {d.topic: d for d in compare_fits(reference, other, [3e18], ("a", "b")).fairness}
    assert {"budgets", "minima", "repeated data", "held-out data"} <= {*topics}
    assert topics["repeated data"].serious


def test_arms_without_a_common_seed_or_with_one_alone_say_so(reference):
    frame = runs(1.0, 3)
    frames = frame.assign(seed=frame["seed"] + 5), frame[frame["seed"] == 0], frame
    texts = []
    for part in frames:
        other = fit_runs(part, bootstrap=50, sensitivity=False, method="surface", resample="runs")
        row = compare_fits(reference, other, [TOP]).rows[0]
        texts.append(" ".join(row.reasons))
    assert "fewer than two seeds in common" in texts[0]
    assert "only one seed in candidate" in texts[1]
    assert "seed" not in texts[2]


def test_errors_add_and_decide_with_five_percent_of_false_alarms():
    spread = together([(0.03, 1e9), (0.04, 1e9)])
    assert spread.sd == pytest.approx(0.05)
    beliefs = [Belief(x, spread, 0.03) for x in (0.097, 0.099, -0.099)]
    assert [b.verdict() for b in beliefs] == ["no difference shown", "better", "worse"]
    assert beliefs[1].verdict(0.025) == "no difference shown"
    assert np.subtract(*beliefs[0].interval(0.95)) == pytest.approx(-2 * 1.96 * 0.05, rel=1e-3)
    assert np.log(beliefs[0].smallest()) == pytest.approx((1.96 + 0.8416) * 0.05, rel=1e-3)
    assert together([(0.0, 5.0)]) == Spread(1e-6, 1e9)
    assert together([(1.0, 4.0), (1.0, 4.0)]).df == pytest.approx(8.0)


def test_the_answer_is_the_mean_of_both_models_and_its_error_holds_their_difference(reference):
    """With weights of 0.7 and 0.3, of the error of the choice as of the noise of the mean."""
    arms = Arm.of("a", reference), Arm.of("b", fitted(1.15, 3, method="surface"))
    models = models_of(*arms, joint_draws(*arms, 200, np.random.default_rng(0)))
    ratio = 2 * (3 + np.log(3 / 7))  # of likelihoods, that gives the free model 0.3
    models = replace(models, scores=replace(models.scores, likelihood_ratio=ratio, heldout=None))
    at = np.log([TOP])
    (belief,), log_m = judge(models, arms, at).beliefs, judge(models, arms, at).log_m
    apart = float(log_m["free"][0] - log_m["shared"][0])
    assert belief.answer == pytest.approx(log_m["shared"][0] + 0.3 * apart)
    drawn = [p.deviations(at, log_m[m])[:200] for m, p in models.pairs.items()]
    noise = float(spread((0.7 * drawn[0] + 0.3 * drawn[1]).T)[0])
    assert belief.noise == pytest.approx(noise)
    luck = models.luck.sd / 0.06
    least = np.hypot(noise, np.sqrt(0.21) * abs(apart))
    assert least <= belief.spread.sd * (1 + 1e-9) < np.hypot(least, 2 * luck) + 1e-9


def shifted(gain, seed, shift):
    """A sweep of two seeds, all runs of whose second seed have a loss ``shift`` higher, in ln L."""
    frame = runs(gain, seed, noise=0.001)
    frame["loss"] *= np.exp(shift * frame["seed"])
    return fit_runs(frame, bootstrap=60, sensitivity=False, method="surface")


def test_the_luck_of_a_seed_is_measured_where_seeds_are_repeated():
    arms = [Arm.of("a", shifted(1.0, 0, 0.01)), Arm.of("b", shifted(1.1, 1, 0.01))]
    common = seed_luck(*arms)  # both arms have the same luck, which cancels
    assert common.source == "measured"
    assert common.sd < 0.0005
    against = seed_luck(arms[0], Arm.of("b", shifted(1.1, 1, -0.01)))
    # Seeds differ by 0.02 in the difference of the arms: a variance of 2e-4 with one degree of
    # freedom, shrunk towards none with three, and the mean of two seeds.
    assert against.sd == pytest.approx(np.sqrt(2e-4 / 4 / 2), rel=0.05)
    assert against.df == 4.0


def test_luck_of_no_size_is_found_in_a_table_without_it():
    cells = {(k,): dict.fromkeys("ab", 0.1 * k) for k in range(5)}
    assert component(cells, 0.0) == (0.0, 4.0)
    assert component(cells, 0.02) == (pytest.approx(0.75 * 0.02**2), 4.0)
    assert component({(0,): {"a": 1.0}}, 0.02) is None


def test_one_seed_for_each_arm_shows_no_gain_that_luck_explains():
    frames = [runs(1.0, 0, noise=0.003) for _ in range(2)]
    parts = [frame[frame["seed"] == k] for k, frame in enumerate(frames)]
    parts[1] = parts[1].assign(loss=parts[1]["loss"] * np.exp(-0.004))
    fits = [
        fit_runs(p, bootstrap=60, sensitivity=False, method="surface", resample="runs")
        for p in parts
    ]
    row = compare_fits(*fits, [TOP]).rows[0]
    assert row.ci_noise[0] > 1.0
    assert row.verdict == "no difference shown"
    assert "only one seed in reference and candidate" in " ".join(row.reasons)
