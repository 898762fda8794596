"""An accuracy from the predicted loss: a planted sigmoid is recovered, and what shows none refused."""

import json

import numpy as np
import pandas as pd
import pytest
from published_schemas import problems
from simulated import LAWS, log_optimum, loss_of, sweep

from flops_fit.cli.main import main
from flops_fit.errors import FlopsFitError
from flops_fit.fit import Fit, Reading, ask, fit_runs, prepare_runs
from flops_fit.fit.questions import weakest_verdict
from flops_fit.fit.sigmoid import sigmoid, undetermined
from flops_fit.report.answer_lines import describe
from flops_fit.rounds.confirm import check_measure

LAW = LAWS["besiroglu"]
PLANTED = [0.25, 0.8, 2.75, 0.12]  # low, high, middle and width; the losses reach from 2.55 to 4.1
READING = Reading(accuracy="task")


def table(planted=PLANTED, noise=0.0, items=0, seed=0) -> pd.DataFrame:
    """Runs of a sweep with the accuracy ``planted``, on so many ``items`` (0: exact)."""
    frame = sweep(LAW, noise=noise, seed=seed, sizes=9)
    exact = sigmoid(np.array(planted), frame["loss"].to_numpy())
    drawn = np.random.default_rng(seed + 1000).binomial(items, exact) / items if items else exact
    return frame.assign(task=drawn)


def fitted(frame: pd.DataFrame, **how) -> Fit:
    how = {"bootstrap": 40, "method": "surface", **how}
    return fit_runs(prepare_runs(frame, reading=READING), sensitivity=False, **how)


def truth(flops: float, planted=PLANTED) -> float:
    """The accuracy of the planted law's optimum."""
    params = np.exp(log_optimum(LAW, flops))
    return float(sigmoid(np.array(planted), loss_of(LAW, params, flops / (6 * params))))


@pytest.mark.parametrize("chance", [None, 0.25])
def test_a_planted_sigmoid_is_recovered(chance):
    fit = fitted(table(), chance=chance)
    assert fit.accuracy.law == pytest.approx(PLANTED, rel=1e-6)
    assert fit.accuracy.scatter < 1e-6
    for flops in (3e18, 1e20, 1e21):
        assert ask(fit, flops).accuracy.value == pytest.approx(truth(flops), rel=1e-5)


def test_the_interval_holds_the_truth_and_a_measurement():
    held = measured = 0
    for seed in range(12):
        fit = fitted(table(noise=0.004, items=400, seed=100 + seed), chance=0.25, seed=seed)
        accuracy, true = ask(fit, 2e20).accuracy, truth(2e20)
        run = np.random.default_rng(5000 + seed).binomial(400, true) / 400
        held += accuracy.ci[0] <= true <= accuracy.ci[1]
        measured += accuracy.ci[0] <= run <= accuracy.ci[1]
        assert accuracy.ci[0] <= accuracy.ci_noise[0] <= accuracy.value <= accuracy.ci_noise[1]
        assert accuracy.ci[1] - accuracy.ci[0] < 0.2
    assert min(held, measured) >= 9  # of 90%; 8 or fewer have a probability of 3%


@pytest.mark.parametrize(
    ("values", "chance", "words"),
    [
        ("chance", 0.25, "is at chance in all runs: 0.24"),
        ("chance", None, "may be at chance in all runs"),
        ("saturated", None, "is saturated: 0.98"),
        ("errors", None, "is higher where the loss is higher"),
        ("bent", None, "is no monotone function of the loss"),
        ("few", None, "5 runs have a value of task; a sigmoid needs at least 8"),
    ],
)
def test_what_shows_no_sigmoid_is_refused(values, chance, words):
    frame, generator = table(), np.random.default_rng(3)
    loss, scatter = frame["loss"], 0.01 * generator.standard_normal(len(frame))
    shapes = {
        "chance": 0.25 + scatter,
        "saturated": 0.98 + 0.3 * scatter,
        "errors": 1 - frame["task"],
        "bent": 0.6 - (loss - loss.quantile(0.3)).abs() / 4,
        "few": frame["task"].where(frame.index < 5),
    }
    fit = fitted(frame.assign(task=shapes[values]), chance=chance)
    assert words in fit.accuracy.reason
    answer = ask(fit, 1e20)
    assert answer.params is not None
    assert (answer.accuracy.value, answer.accuracy.ci) == (None, None)
    assert answer.accuracy.verdict == weakest_verdict(answer) == "not identifiable"
    assert fit.accuracy.reason in describe(answer, fit)
    assert problems("fit", fit.to_dict()) == problems("answer", answer.to_dict()) == []


def test_chance_alone_is_refused_in_nearly_all_tables():
    loss, refused = table()["loss"].to_numpy(), 0
    for seed in range(300):
        drawn = np.random.default_rng(seed).binomial(200, 0.25, len(loss)) / 200
        refused += bool(undetermined(loss, drawn, "task", 0.25))
    assert refused >= 297


def test_what_the_runs_do_not_show_costs_the_trust():
    inside = ask(fitted(table(), method="auto", chance=0.25), 5e19)
    assert inside.verdict == inside.accuracy.verdict == "trust"
    far = ask(fitted(table(), method="auto"), 1e21).accuracy
    assert "there the sigmoid is extrapolated" in " ".join(far.reasons)
    rising = ask(fitted(table([0.25, 0.8, 2.3, 0.2])), 1e20).accuracy
    assert "so its upper end" in " ".join(rising.reasons)
    falling = ask(fitted(table([0.0, 0.8, 3.9, 0.4])), 1e20).accuracy
    assert "state it (--chance)" in " ".join(falling.reasons)
    assert {far.verdict, rising.verdict, falling.verdict} == {"provisional"}


def test_the_law_is_the_one_without_an_accuracy():
    frame = table(noise=0.003)
    plain = fit_runs(prepare_runs(frame.drop(columns="task")), bootstrap=40, sensitivity=False)
    both = fit_runs(prepare_runs(frame, reading=READING), bootstrap=40, sensitivity=False)
    without = both.to_dict()
    assert without.pop("accuracy")["name"] == "task"
    assert without["data"]["reading"].pop("accuracy") == "task"
    assert without == plain.to_dict()
    assert Fit.from_dict(json.loads(json.dumps(both.to_dict()))).accuracy == both.accuracy


def test_a_run_confirms_only_the_loss_that_it_is_trained_on():
    frame = table().assign(code=lambda f: f["loss"] + 0.1)
    fits = [
        fit_runs(prepare_runs(frame, reading=Reading(column)), bootstrap=0, method="surface")
        for column in (None, "loss", "code")
    ]
    assert fits[2].data.loss[0] == fits[0].data.loss[0] + 0.1
    for fit in fits[:2]:
        check_measure(fit, "fit.json")
    with pytest.raises(FlopsFitError, match=r"fit\.json: its law is of 'code', and a confirmation"):
        check_measure(fits[2], "fit.json")


def test_values_that_are_no_accuracy_are_refused():
    with pytest.raises(FlopsFitError, match=r"row 3, column 'task': 25\.0; allowed: an accuracy"):
        prepare_runs(table().assign(task=lambda f: 25.0 * (f.index == 3)), reading=READING)
    with pytest.raises(FlopsFitError, match="accuracy column 'nothing' is not there"):
        prepare_runs(table(), reading=Reading(accuracy="nothing"))
    with pytest.raises(FlopsFitError, match="chance: allowed: with an accuracy"):
        fit_runs(table(), chance=0.25)
    with pytest.raises(FlopsFitError, match=r"chance: 1\.5; allowed: from 0 to below 1"):
        fitted(table(), chance=1.5)


def test_the_commands_fit_and_predict_it(tmp_path, capsys):
    table(noise=0.002, items=500).to_csv(tmp_path / "runs.csv", index=False)
    runs, out = ["--runs", str(tmp_path / "runs.csv")], str(tmp_path / "fit.json")
    fit = ["--accuracy", "task", "--chance", "0.25", "--bootstrap", "40", "--method", "surface"]
    assert main(["fit", *runs, *fit, "--out", out]) == 0
    assert (
        "note: task of 45 runs as a sigmoid of the loss: from 0.25 (stated)"
        in capsys.readouterr().out
    )
    assert main(["predict", "--fit", out, "--flops", "2e20", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["accuracy"]["name"] == "task"
    assert answer["accuracy"]["ci"][0] < answer["accuracy"]["value"] < answer["accuracy"]["ci"][1]
    assert problems("answer", answer) == []
