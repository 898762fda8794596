"""Rounds of a real plan whose losses follow a known law: how they end, and what they leave."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import yaml

from flops_fit.cli.main import main
from flops_fit.config.load import load_config
from flops_fit.errors import FlopsFitError
from flops_fit.fit import fit_runs, prepare_runs
from flops_fit.plan.cache import search_paths
from flops_fit.rounds import outcome
from flops_fit.rounds.goal import parse_goal
from flops_fit.rounds.loop import Rounds
from flops_fit.rounds.outcome import MONEY, NOTHING, REACHED, End, Outcome

COUNTS = (
    "def counts(size):\n    return {'params': 48 * size**2, 'flops_per_token': 288 * size**2}\n"
)
LAW = (1.0, 25.0, 60.0, 0.4, 0.42)
RAW = {
    "name": "own",
    "counts": {"function": "counted:counts"},
    "budgets": [1e9, 3e9, 9e9, 2.7e10, 8.1e10],
    "sizes": {
        "per_budget": {
            "1e9": [4, 6, 8, 10, 12, 16, 24],
            "3e9": [5, 6, 8, 12, 16, 20, 32],
            "9e9": [6, 8, 12, 16, 20, 24, 40],
            "2.7e10": [8, 12, 16, 20, 24, 32, 48],
            "8.1e10": [12, 16, 20, 24, 32, 40, 64],
        }
    },
    "batch": {"value": 16},
    "fit": {"bootstrap": 200},
}

RAW_BUDGETS = RAW["budgets"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder whose sweep is planned once for all tests."""
    root = tmp_path_factory.mktemp("rounds")
    (root / "counted.py").write_text(COUNTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        rounds_of(root, "N within 2x at 1e11").cells  # noqa: B018 - makes the plan
    return root


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for path in folder.glob("own-round*.yaml"):
        path.unlink()
    (folder / "Snakefile").touch()
    (folder / "own.yaml").write_text(yaml.safe_dump(RAW))
    return folder


def rounds_of(root, goal: str, most: float | None = None, **changes) -> Rounds:
    path = root / "own.yaml"
    path.write_text(yaml.safe_dump({**RAW, **changes}))
    return Rounds(path, load_config(path), parse_goal(goal), most, search_paths())


def fitted(rounds: Rounds, runs: np.ndarray, noise: float = 0.003):
    """The fit of ``runs``, whose losses follow `LAW` with the same noise in every round."""
    e, a, b, alpha, beta = LAW
    design = rounds.design
    loss = e + a * design["params"] ** -alpha + b * design["tokens"] ** -beta
    loss *= np.exp(noise * np.random.default_rng(0).standard_normal(len(design)))
    table = prepare_runs(design.assign(loss=loss)[runs].reset_index(drop=True))
    return fit_runs(table, bootstrap=100, sensitivity=False)


def outcome_of(rounds: Rounds, last, fit, lost: np.ndarray | None = None) -> Outcome:
    """The outcome of a round, given its fit, in which the runs ``lost`` have no loss."""
    lost = np.zeros_like(last.runs) if lost is None else lost
    parts = rounds.goal, rounds.most, rounds.design, rounds.cells, last.runs, lost, fit
    return Outcome(*parts, rounds.config["fit"])


def after(rounds: Rounds, last, fit) -> tuple[np.ndarray, str] | End:
    """What follows a round, given its fit."""
    return outcome_of(rounds, last, fit).following()


def played(rounds: Rounds) -> tuple[End, list[np.ndarray]]:
    """Rounds to their end without Snakemake: their configs are written and read as usual."""
    last, every = rounds.write(1, rounds.first(), "Why: first"), []
    while True:
        every.append(last.runs)
        following = after(rounds, last, fitted(rounds, last.runs))
        if isinstance(following, End):
            return following, every
        last = rounds.write(last.number + 1, *following)
        assert rounds.known().runs.tolist() == last.runs.tolist()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(outcome, "TIMES", 10)
    monkeypatch.setattr(outcome, "RESAMPLES", 50)


@pytest.mark.seconds
def test_rounds_end_where_the_goal_is_reached_for_less_than_the_whole_grid(here, quick):
    rounds = rounds_of(here, "N within 1.45x at 2.43e11")
    end, every = played(rounds)
    assert end.reason == REACHED
    assert 1 < len(every) < 8
    costs = [rounds.cells.total(runs) for runs in every]
    assert costs == sorted(set(costs))
    assert costs[-1] < 0.8 * rounds.cells.total(np.ones_like(every[0]))
    for before, after in itertools.pairwise(every):
        assert (before & ~after).sum() == 0


@pytest.mark.seconds
def test_rounds_end_where_the_flops_are_spent_and_never_exceed_them(here, quick):
    rounds = rounds_of(here, "N within 1.36x at 2.43e11", most=1.2e11)
    end, every = played(rounds)
    assert end.reason in (MONEY, NOTHING)
    assert rounds.cells.total(every[-1]) <= 1.2e11


def test_the_money_that_is_left_buys_no_run(here):
    rounds = rounds_of(here, "N within 1.45x at 2.43e11")
    rounds.most = rounds.cells.total(rounds.first()) * 1.0001
    last = rounds.write(1, rounds.first(), "Why: first")
    end = after(rounds, last, fitted(rounds, last.runs))
    assert end.reason == MONEY
    assert "--max-flops are spent" in end.sentence


def test_rounds_end_where_the_grid_is_exhausted(here, quick):
    rounds = rounds_of(here, "N within 1.02x at 8.2e10")
    last = rounds.write(1, np.ones(len(rounds.design), dtype=bool), "Why: all")
    end = after(rounds, last, fitted(rounds, last.runs))
    assert end.reason == NOTHING
    assert "nothing is left of the config's grid" in end.sentence


def test_rounds_end_where_no_run_is_expected_to_narrow_the_answer(here, monkeypatch):
    rounds = rounds_of(here, "N within 1.3x at 8.2e10")
    monkeypatch.setattr(Outcome, "_expected", lambda *_: 1.0)
    last = rounds.write(1, rounds.first(), "Why: first")
    end = after(rounds, last, fitted(rounds, last.runs))
    assert end.reason == NOTHING
    assert end.sentence.endswith("N within 2.72x is expected of all that can be trained")


def test_a_small_choice_that_plays_call_useless_is_not_the_end(here, monkeypatch):
    """The delta method expects that a few runs are enough; plays expect nothing of them."""
    rounds = rounds_of(here, "N within 1.45x at 2.43e11")
    last = rounds.write(1, rounds.first(), "Why: first")
    few = last.runs.sum() + 2
    monkeypatch.setattr(Outcome, "_enough", lambda self, runs: runs.sum() >= few)
    widths = {True: 9.0, False: 0.2}
    monkeypatch.setattr(Outcome, "_expected", lambda self, runs: widths[runs.sum() <= few + 1])
    following, why = after(rounds, last, fitted(rounds, last.runs))
    assert following.sum() > last.runs.sum()
    assert "N within 1.22x" in why


def test_an_interval_of_noise_alone_is_not_the_goal(here, quick):
    """Where the runs determine too little for the stack, one estimator answers, surely and wrongly."""
    rounds = rounds_of(here, "N within 1.6x at 2.43e11")
    last = rounds.write(1, rounds.first(), "Why: first")
    fit = replace(fitted(rounds, last.runs, noise=1e-5), stack=None)
    played = outcome_of(rounds, last, fit)
    assert played.goal.reached(played.answer)
    assert not played.reached
    assert played.interval.endswith("of noise alone")
    following, _ = played.following()
    assert following.sum() > last.runs.sum()


def test_a_run_without_a_loss_says_nothing_and_is_not_chosen_again(here, quick):
    rounds = rounds_of(here, "N within 1.45x at 2.43e11")
    last = rounds.write(1, rounds.first(), "Why: first")
    lost = np.zeros_like(last.runs)
    lost[np.flatnonzero(last.runs)[-1]] = True  # the largest size of a budget diverged
    played = outcome_of(rounds, last, fitted(rounds, last.runs & ~lost), lost)
    following, _ = played.following()
    assert (following & last.runs).sum() == last.runs.sum()
    law = {name: played._scores.noise_variance(last.runs, name) for name in ("params", "loss")}
    without = {name: played._scores.noise_variance(last.runs & ~lost, name) for name in law}
    assert law == pytest.approx(without)


def test_an_edge_whose_neighbour_diverged_is_bracketed_by_the_next_size(here):
    rounds = rounds_of(here, "N within 1.45x at 2.43e11")
    runs, size = rounds.first(), rounds.design["size"]
    top = np.isclose(rounds.design["budget"], 9e9)
    runs = (runs & ~top) | (top & np.isin(size, [6, 8, 12, 16, 20]))
    lost = (top & (size == 20)).to_numpy()
    last = rounds.write(1, runs, "Why: off-centre")
    fit = fitted(rounds, runs & ~lost, noise=0.0)
    assert fit.isoflop.budgets[-1].status == "at_edge"
    following, why = outcome_of(rounds, last, fit, lost).following()
    assert size[following & ~runs].tolist() == [24]
    assert "bracket" in why


def test_a_minimum_at_the_edge_is_bracketed_first(here):
    rounds = rounds_of(here, "N within 1.45x at 2.43e11")
    runs = rounds.first()
    top = np.isclose(rounds.design["budget"], 9e9)
    runs = (runs & ~top) | (top & np.isin(rounds.design["size"], [6, 8, 12, 16]))
    fit = fitted(rounds, runs, noise=0.0)
    assert fit.isoflop.budgets[-1].status == "at_edge"
    last = rounds.write(1, runs, "Why: off-centre")
    following, why = after(rounds, last, fit)
    new = rounds.design[following & ~runs]
    assert list(zip(new["budget"], new["size"], strict=True)) == [(9e9, 20)]
    assert "bracket" in why


def test_the_rounds_of_another_config_are_refused(here):
    rounds = rounds_of(here, "N within 1.45x at 2.43e11")
    last = rounds.write(1, rounds.first(), "Why: first")
    assert rounds.known().runs.tolist() == last.runs.tolist()
    made = yaml.safe_load(last.config.read_text())
    cells = made["sizes"]["per_budget"]
    sizes = {"per_budget": {**cells, "3e9": [*cells["3e9"], 7]}}  # 7 is not in the grid
    for change in ({"batch": {"value": 32}}, {"sizes": sizes}, {"seeds": [1]}):
        last.config.write_text(yaml.safe_dump({**made, **change}))
        with pytest.raises(FlopsFitError, match="made from another version of"):
            rounds.known()


def test_a_round_without_those_before_it_is_refused(here):
    """Such as the config that `flops-fit next` writes under the same name."""
    rounds = rounds_of(here, "N within 1.45x at 2.43e11")
    rounds.write(2, rounds.first(), "Why: another sweep")
    with pytest.raises(FlopsFitError, match="no config of round 1"):
        rounds.known()


def test_a_round_is_an_ordinary_sweep_whose_runs_are_those_of_the_config(here):
    rounds = rounds_of(here, "N within 1.45x at 2.43e11", until="N within 2x at 1e11")
    last = rounds.write(1, rounds.first(), "Why: first")
    config = load_config(last.config)
    assert (config["name"], config["until"]) == ("own-round1", None)
    part = Rounds(last.config, config, rounds.goal, None, search_paths()).plan
    assert {e.experiment_id for e in part.experiments} == set(
        rounds.design["experiment_id"][last.runs]
    )


def command(capsys, *arguments: str) -> tuple[int, str, str]:
    status = main(["sweep", "--config", "own.yaml", *arguments])
    return status, *capsys.readouterr()


def test_a_dry_run_prints_the_first_round_and_its_cost_and_writes_no_config(here, capsys):
    status, out, _ = command(capsys, "--until", "N within 1.6x at 2.43e11", "--dry-run")
    assert status == 0
    assert "the error of the form of law alone allows N within" in out
    assert "round 1: 15 of 35 runs of the grid" in out
    assert not list(here.glob("own-round*"))


def test_the_goal_of_the_config_is_used_and_one_below_the_error_of_the_form_is_refused(
    here, capsys
):
    (here / "own.yaml").write_text(yaml.safe_dump({**RAW, "until": "N within 1.1x at 8.1e11"}))
    status, _, error = command(capsys, "--dry-run")
    assert status == 2
    assert "N within 1.1x at 8.1e11: the error of the form of law alone allows" in error
    assert "a config with a budget above" in error


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "--until: missing"),
        (["--until", "N at 1e11"], "is not a goal; allowed:"),
        (["--until", "N within 2x at 1e11", "--max-flops", "1e9"], "--max-flops: 1e+09; the first"),
        (["--until", "N within 2x at 1e11", "--max-flops", "0"], "--max-flops: 0.0; allowed:"),
        (["--until", "N within 2x at 1e11", "--max-flops", "nan"], "--max-flops: nan; allowed:"),
        (["--until", "N within 2x at 1e11", "--snakefile", "none"], "--snakefile: none: no such"),
    ],
)
def test_bad_input_is_named(here, capsys, arguments, error):
    status, _, said = command(capsys, *arguments)
    assert status == 2
    assert error in said


@pytest.mark.parametrize(("key", "value"), [("bootstrap", 0), ("method", "surface")])
def test_a_fit_without_the_whole_interval_is_refused(here, key, value):
    with pytest.raises(FlopsFitError, match=f"fit.{key}"):
        rounds_of(here, "N within 2x at 1e11", fit={key: value})


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"until": "N within"}, "own.yaml: until: 'N within' is not a goal"),
        (
            {"until": "loss within 0.02 nats at 1e11", "fit": {"loss_unit": "bits per byte"}},
            "fit.loss_unit: the losses are in bits per byte; allowed: a goal in %",
        ),
    ],
)
def test_a_config_that_rounds_cannot_use_is_refused(here, capsys, changes, error):
    (here / "own.yaml").write_text(yaml.safe_dump({**RAW, **changes}))
    status, _, said = command(capsys, "--dry-run")
    assert status == 2
    assert error in said


def test_several_shares_of_the_data_are_refused(here):
    config = {**load_config(here / "own.yaml"), "dataset": {"unique_fraction": {1e9: [1, 0.5]}}}
    with pytest.raises(FlopsFitError, match=r"dataset\.unique_fraction: several shares"):
        Rounds(here / "own.yaml", config, parse_goal("N within 2x at 1e11"), None, [])


def test_a_round_that_is_not_trained_and_costs_too_much_is_not_begun(here, capsys):
    rounds = rounds_of(here, "N within 1.6x at 2.43e11")
    rounds.write(1, rounds.first(), "Why: first")
    arguments = ["--until", "N within 1.6x at 2.43e11", "--dry-run"]
    status, out, error = command(capsys, *arguments, "--max-flops", "1e10")
    assert status == 2
    assert "own-round1.yaml, which is not trained to its end, costs" in error
    status, out, _ = command(capsys, *arguments)
    assert status == 0
    assert "goes on with round 1: 15 of 35 runs" in out


def leave(here, name: str, rounds: Rounds, runs: np.ndarray, lost: np.ndarray) -> None:
    """Write what the workflow leaves of a round with ``runs``, of which ``lost`` have no loss."""
    folder = here / "results" / name
    folder.mkdir(parents=True, exist_ok=True)
    records = [
        {
            "format": 1,
            "experiment_id": rounds.design["experiment_id"][i],
            "status": "diverged" if lost[i] else "completed",
            "flops_counted": float(rounds.design["flops"][i]),
        }
        for i in np.flatnonzero(runs)
    ]
    (folder / "results.json").write_text(json.dumps(records))
    (folder / "fit.json").write_text(json.dumps(fitted(rounds, runs & ~lost).to_dict()))


@pytest.fixture
def trained(here, monkeypatch):
    """Snakemake's part is taken by a fit of known losses; the smallest size of all diverges."""

    def train(config, options, mark):
        rounds = rounds_of(here, "N within 1.6x at 2.43e11")
        runs = rounds.known().runs
        lost = runs & (rounds.design["size"] == 4).to_numpy()
        leave(here, yaml.safe_load(config.read_text())["name"], rounds, runs, lost)

    monkeypatch.setattr("flops_fit.rounds.snakemake.run_config", train)


def test_rounds_go_on_with_further_seeds_of_the_grid(here, quick):
    """Where no size is left, a round has a second seed of some budgets, and its config says so."""
    rounds = rounds_of(here, "N within 1.3x at 2.43e11", seeds=[0, 5])
    assert len(rounds.design) == 70
    assert set(rounds.design["seed"][rounds.first()]) == {0}
    rounds.most = 1.5 * rounds.cells.total(rounds.cells.repeat == 0)
    last = rounds.write(1, rounds.cells.repeat == 0, "Why: all sizes")
    assert load_config(last.config)["seeds"] == [0]
    following, why = after(rounds, last, fitted(rounds, last.runs, noise=0.01))
    new = rounds.design[following & ~last.runs]
    assert "narrow" in why
    assert set(new["seed"]) == {5}
    again = rounds.write(2, following, why)
    seeds = load_config(again.config)["seeds"]
    assert seeds == {b: [0, 5] if b in set(new["budget"]) else [0] for b in RAW_BUDGETS}
    assert rounds.known().runs.tolist() == following.tolist()
    plan = Rounds(again.config, load_config(again.config), rounds.goal, None, search_paths()).plan
    ids = rounds.design["experiment_id"][following]
    assert {e.experiment_id for e in plan.experiments} == set(ids)


def test_results_of_other_runs_are_refused(here):
    rounds = rounds_of(here, "N within 1.6x at 2.43e11")
    last, none = rounds.write(1, rounds.first(), "Why: first"), np.zeros(35, dtype=bool)
    leave(here, last.name, rounds, np.ones(35, dtype=bool), none)
    with pytest.raises(FlopsFitError, match=r"its runs are not those of .*own-round1\.yaml"):
        rounds.outcome(last)


def test_the_json_has_every_round(here, quick, capsys, trained):
    arguments = ["--until", "N within 1.6x at 2.43e11", "--json"]
    status, out, _ = command(capsys, *arguments)
    assert status == 0
    told = json.loads(out.splitlines()[-1])
    assert told["reason"] == REACHED
    assert [r["round"] for r in told["rounds"]] == list(range(1, len(told["rounds"]) + 1))
    assert all(f"round {r['round']}: {r['runs']} runs (1 without" in out for r in told["rounds"])
    assert f"verdict: {told['rounds'][-1]['verdict']}" in out
    low, high = told["rounds"][-1]["interval"]
    assert math.sqrt(high / low) <= 1.6
    again = json.loads(command(capsys, *arguments)[1].splitlines()[-1])
    assert again["rounds"] == told["rounds"][-1:]  # it goes on from the last round
