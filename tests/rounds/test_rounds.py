"""The second round and the confirmation: which runs are proposed, and that nothing old is touched."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.stats import t as student

from flops_fit.cli.main import main
from flops_fit.config.complete import complete_config
from flops_fit.config.load import load_config
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.plan import Plan
from flops_fit.files import write_json
from flops_fit.fit import Fit, ask, fit_runs, prepare_runs
from flops_fit.plan.cache import search_paths
from flops_fit.plan.planner import make_plan
from flops_fit.rounds.confirm import (
    compare,
    confirmation_table,
    confirmations_of,
    outcome_text,
    predicted_loss,
    run_noise,
)
from flops_fit.rounds.grid import Grid, check_matches
from flops_fit.rounds.ledger import enter, entries, ledger_text
from flops_fit.rounds.next import (
    Action,
    Outlook,
    best_action,
    config_text,
    grown,
    log_optimum,
    next_name,
    number,
    outlook,
    over_trained,
    repairs,
    tightenings,
)
from flops_fit.rounds.simulate import design_of, losses_of
from flops_fit.rounds.truth import BESIROGLU, Truth, law_of

SMOKE = Path(__file__).parents[2] / "config" / "smoke.yaml"
LAW = law_of(*BESIROGLU)
BUDGETS = (1e18, 3e18, 9e18, 2.7e19)
WIDTHS = {
    1e18: (16, 24, 32, 40, 48, 56),
    3e18: (24, 32, 40, 48, 56, 64),
    9e18: (32, 40, 48, 64, 80, 96),
    2.7e19: (40, 48, 64, 80, 96, 112),
}


def params_of(width: int) -> float:
    """Widths of 16 to 112 around the optima of these budgets."""
    return 2.4e4 * width**2.3


def count(sizes: list) -> dict:
    """As `count_sizes`, for a model that needs widths in whole eights."""
    for size in sizes:
        if size % 8:
            raise FlopsFitError(f"width {size} does not divide into heads")
    return {
        s: SimpleNamespace(
            params=params_of(s), num_params=params_of(s), flops_per_token=6 * params_of(s)
        )
        for s in sizes
    }


def grid(widths: dict | None = None) -> Grid:
    rows = []
    for flops, sizes in (WIDTHS | (widths or {})).items():
        for size in sizes:
            n = params_of(size)
            rows.append(
                {
                    "experiment_id": f"{flops:g}-{size}",
                    "budget": flops,
                    "size": size,
                    "seed": 0,
                    "params": n,
                    "params_nonembedding": n,
                    "params_total": n,
                    "flops_per_token": 6 * n,
                    "tokens": flops / (6 * n),
                    "flops": flops,
                }
            )
    return Grid(pd.DataFrame(rows), count)


def truth(noise: float = 0.0) -> Truth:
    return Truth(LAW, "published", noise, True, "given")


def fit_of(found: Grid, noise: float = 0.0, **options) -> Fit:
    loss = losses_of(found.design, truth(noise), 1)[0]
    return fit_runs(
        prepare_runs(found.design.assign(loss=loss)),
        **{"bootstrap": 0, "sensitivity": False} | options,
    )


def statuses(fit: Fit) -> list[str]:
    return [b.status for b in fit.isoflop.budgets]


@pytest.fixture(scope="module")
def noisy() -> Fit:
    """A fit with intervals."""
    return fit_of(grid(), noise=0.004, bootstrap=200)


def extended(found: Grid, actions: list[Action]) -> Grid:
    for action in actions:
        found = Grid(found.with_runs(action), count)
    return found


def test_a_centred_grid_needs_no_repair():
    found = grid()
    fit = fit_of(found)
    assert statuses(fit) == ["bracketed"] * 4
    assert repairs(fit, found) == []


@pytest.mark.parametrize(
    ("sizes", "side"), [((72, 80, 96, 112), "smaller"), ((8, 16, 24, 32), "larger")]
)
def test_a_minimum_at_an_edge_gets_runs_on_the_right_side_and_is_then_bracketed(sizes, side):
    found = grid({9e18: sizes})
    fit = fit_of(found)
    assert statuses(fit) == ["bracketed", "bracketed", "at_edge", "bracketed"]
    (action,) = repairs(fit, found)
    (new,) = action.sizes.values()
    assert list(action.sizes) == [9e18]
    assert (
        all(s < min(sizes) for s in new) if side == "smaller" else all(s > max(sizes) for s in new)
    )
    assert ("smallest" if side == "smaller" else "largest") in action.why
    after = extended(found, [action])
    assert statuses(fit_of(after)) == ["bracketed"] * 4
    beyond = [abs(found.log_n(s) - log_optimum(fit, 9e18)) / found.spacing(9e18) for s in new]
    assert len(new) <= 1 or min(beyond) < 1.8  # no run further out than bracketing takes


def test_a_curve_of_too_few_sizes_is_filled_up():
    found = grid({3e18: (32, 48, 56)})
    fit = fit_of(found)
    assert statuses(fit)[1] == "too_few_points"
    (action,) = repairs(fit, found)
    assert len(action.sizes[3e18]) == 2
    assert statuses(fit_of(extended(found, [action])))[1] == "bracketed"


def test_a_one_sided_window_is_evened_out_on_its_thin_side():
    found = grid({9e18: (48, 56, 64, 80, 96)})
    fit = fit_of(found)
    assert statuses(fit) == ["bracketed"] * 4
    assert sum(found.log_n(s) < log_optimum(fit, 9e18) for s in found.sizes(9e18)) == 1
    (action,) = repairs(fit, found)
    (size,) = action.sizes[9e18]
    assert size < 48
    assert "has only 1 smaller size" in action.why
    assert repairs(fit_of(extended(found, [action])), extended(found, [action])) == []


def test_sizes_that_cannot_be_built_are_passed_over():
    found = grid()
    target = found.log_n(40) + 0.02
    assert found.size_at(target, 1e18, {40, 48, 32}, 10.0) % 8 == 0
    assert found.size_at(math.log(params_of(44)), 1e18, set(found.known), 0.1) is None
    assert found.nearest(params_of(88)) == 88
    assert found.nearest(params_of(1000)) == 1000


def test_a_further_seed_and_a_further_budget_are_among_the_ways_to_tighten(noisy):
    found = grid()
    actions = tightenings(noisy, found)
    (seed,) = [a for a in actions if a.seeds]
    assert len(found.with_runs(seed)) == 2 * len(found.design)
    (budget,) = [a for a in actions if set(a.sizes) - set(BUDGETS)]
    assert list(budget.sizes) == [pytest.approx(8.1e19)]
    best = log_optimum(noisy, 8.1e19)
    logs = [found.log_n(s) for s in budget.sizes[8.1e19]]
    assert logs == sorted(logs)
    assert sum(v < best for v in logs) >= 2
    assert sum(v > best for v in logs) >= 2
    old = found.design.to_dict("records")
    for action in actions:
        assert found.with_runs(action).to_dict("records")[: len(old)] == old


def test_serving_is_tested_by_a_smaller_model_at_each_of_the_two_largest_budgets(noisy):
    found = grid()
    served = ask(noisy, found.budgets[-1], serve=1e12).served
    action = over_trained(noisy, found, served)
    assert list(action.sizes) == found.budgets[-2:]
    for budget, (size,) in action.sizes.items():
        row = found.row(budget, size, 0)
        assert row["tokens"] / row["params"] == pytest.approx(served.tokens_per_param, rel=0.5)
        assert size < min(found.sizes(budget))


def test_a_second_seed_narrows_the_interval_by_about_the_square_root_of_two(monkeypatch):
    monkeypatch.setattr("flops_fit.rounds.next.TIMES", 15)
    found = grid()
    before = outlook(found, None, truth(0.004), "isoflop", 2.7e20)
    after = outlook(found, Action("", "", {}, (1,)), truth(0.004), "isoflop", 2.7e20)
    assert after.runs == len(found.design)
    assert after.flops == pytest.approx(found.design["flops"].sum())
    assert 1.2 < before.width / after.width < 2.2


def test_the_best_action_narrows_most_per_flop_within_what_may_be_spent():
    def option(flops, width):
        return Outlook(Action(str(flops), "", {}), flops, 1, width, 1.0)

    before = Outlook(None, 0.0, 0, 0.4, 1.0)
    cheap, good, dear = option(1e18, 0.395), option(2e18, 0.3), option(1e20, 0.1)
    assert best_action([cheap, good, dear], before, 1e21) is good
    assert best_action([cheap, dear], before, 1e21) is dear
    assert best_action([cheap, dear], before, 1e19) is None


def test_a_fit_of_another_sweep_is_refused(noisy):
    other = Grid(grid().design.assign(budget=lambda d: d["budget"] * 2), count)
    with pytest.raises(FlopsFitError, match=r"budget 1e\+18 is not in the config"):
        check_matches(noisy, other)
    total = Grid(grid().design, count, "params_total")
    with pytest.raises(FlopsFitError, match="counts N as params_total, but the fit as params"):
        check_matches(noisy, total)


@pytest.mark.parametrize("value", [3e10, 8.1e11, 12, 0.75, 1.23456789e19, 2 / 3, 1e6, 999999])
def test_numbers_are_written_so_that_they_read_back(value):
    assert float(number(value)) == value


def test_names_of_rounds_count_up():
    assert next_name("demo") == "demo-round2"
    assert next_name("demo-round2") == "demo-round3"


@pytest.mark.parametrize(
    "sizes",
    [{"values": [8, 16, 32]}, {"window": {"count": 3, "multiple": 8, "max_size": 64}}],
    ids=["values", "window"],
)
def test_a_grown_config_keeps_every_old_run(tmp_path, sizes):
    raw = yaml.safe_load(SMOKE.read_text())
    raw["sizes"] = sizes
    config = complete_config(raw)
    old = make_plan(config, tmp_path, ["."])
    plan = Plan("", "counted", old.experiments)
    found = Grid(design_of(plan), count)
    largest = found.sizes(8e8)[-1]
    action = Action("", "", {8e8: [largest + 8], 1.6e9: [16, 32]}, (1,))
    text = config_text(grown(raw, config, found, action, "smoke-round2"), ["made by a test"])
    assert text.startswith("# made by a test\n")
    path = tmp_path / "new.yaml"
    path.write_text(text)
    new = make_plan(load_config(path), tmp_path, ["."])
    ids = {e.experiment_id for e in old.experiments}
    assert ids < {e.experiment_id for e in new.experiments}
    assert len(new) == 2 * (len(old) + 3)
    assert {
        k: v for k, v in load_config(path).items() if k not in ("name", "budgets", "sizes", "seeds")
    } == {k: v for k, v in config.items() if k not in ("name", "budgets", "sizes", "seeds")}


def test_new_runs_have_the_seeds_of_their_budget():
    design = pd.concat([grid().design, grid().design[lambda d: d["budget"] == 1e18].assign(seed=3)])
    found = Grid(design.reset_index(drop=True), count)
    action = Action("", "", {1e18: [64], 9e18: [72], 8.1e19: [104]}, (5,))
    every = found.with_runs(action)
    added = every[every["size"].isin([64, 72, 104]) & (every["seed"] != 5)]
    new = added[~added["experiment_id"].isin(design["experiment_id"])]
    assert sorted(zip(new["budget"], new["seed"], strict=True)) == [
        *[(1e18, 0), (1e18, 3)],
        *[(9e18, 0), (8.1e19, 0)],
    ]
    cells = every.groupby(["budget", "size"])["seed"].apply(sorted)
    assert cells[1e18, 64] == [0, 3, 5]
    assert cells[8.1e19, 104] == [0, 5]
    config = {"seeds": {c: [0, 3] if c == 1e18 else [0] for c in found.budgets}}
    raw = grown({}, config, found, action, "x")
    assert raw["seeds"] == {
        number(c): [*config["seeds"].get(c, [0]), 5] for c in map(float, raw["budgets"])
    }
    assert grown({}, {"seeds": [0, 3]}, found, action, "x")["seeds"] == [0, 3, 5]


# Confirmation


def told_of(fit: Fit, width: int = 72, flops: float = 8.1e19) -> dict:
    n = params_of(width)
    return {
        "sweep": "demo",
        "fit": "0",
        "params": n,
        "tokens": flops / (6 * n),
        "blind": True,
        **predicted_loss(fit, n, flops / (6 * n)),
    }


def record_of(predicted: dict, loss: float | None, status: str = "completed") -> dict:
    return {
        "experiment_id": "gpt-x",
        "status": status,
        "reason": "loss not finite",
        "final_loss": loss,
        "final_loss_se": 0.01,
        "size_param_value": 72,
        "compute_budget": 8.1e19,
        "num_tokens": predicted["tokens"],
    }


def test_without_noise_the_prediction_is_the_law():
    fit = fit_of(grid(), bootstrap=50)
    told = told_of(fit)
    e, a, b, alpha, beta = BESIROGLU
    exact = e + a * told["params"] ** -alpha + b * told["tokens"] ** -beta
    assert told["loss"] == pytest.approx(exact, rel=1e-7)
    low, high = told[
        "law"
    ]  # what other forms of law have been worth stays, so exact runs leave a width
    assert low < exact < high


def test_the_interval_of_one_run_adds_its_noise_to_that_of_the_law(noisy):
    told = told_of(noisy)
    law, run = told["law"], told["run"]
    assert run[0] < law[0] < told["loss"] < law[1] < run[1]
    quantile = student.ppf(0.95, noisy.stack.form_error["loss"].df)
    width = math.log(law[1] / law[0]) / (2 * quantile), told["noise"]
    assert math.log(run[1] / run[0]) / (2 * quantile) == pytest.approx(math.hypot(*width), rel=1e-6)
    assert run_noise(noisy)[0] == pytest.approx(0.004, rel=0.4)


def test_without_resamples_there_is_a_prediction_but_no_interval():
    told = told_of(fit_of(grid(), noise=0.004))
    assert told["law"] is None
    assert told["run"] is None
    found = compare(record_of(told, told["loss"]), told, "demo-confirm")
    assert found["inside_run"] is None
    assert "no interval" in outcome_text(found)


@pytest.mark.slow
def test_measured_losses_fall_inside_about_as_often_as_stated():
    found, hits = grid(), []
    told = told_of(fit_of(found))
    e, a, b, alpha, beta = BESIROGLU
    smooth = e + a * told["params"] ** -alpha + b * told["tokens"] ** -beta
    losses = losses_of(found.design, truth(0.004), 100)
    luck = np.random.default_rng(7).standard_normal(len(losses))
    for loss, lucky in zip(losses, luck, strict=True):
        fit = fit_runs(
            prepare_runs(found.design.assign(loss=loss)), bootstrap=100, sensitivity=False
        )
        measured = smooth * np.exp(0.004 * lucky)
        hits.append(compare(record_of(told, measured), told_of(fit), "x")["inside_run"])
    assert 0.8 < np.mean(hits) < 0.98


def test_a_measured_loss_is_inside_or_outside_and_the_page_says_so(noisy):
    told = told_of(noisy)
    near = compare(record_of(told, told["loss"] + 1e-4), told, "demo-confirm")
    assert near["inside_law"]
    assert near["inside_run"]
    assert near["difference"] == pytest.approx(1e-4)
    assert "inside the interval for one run" in confirmation_table(near)
    far = compare(record_of(told, told["run"][1] + 0.01), told, "demo-confirm")
    assert far["inside_run"] is False
    assert "outside the interval" in confirmation_table(far)


def test_a_diverged_confirmation_is_an_outcome_too(noisy):
    told = told_of(noisy)
    found = compare(record_of(told, None, "diverged"), told, "demo-confirm")
    assert found["loss"] is None
    assert "diverged: loss not finite" in confirmation_table(found)


def test_a_run_of_another_d_than_predicted_is_refused(noisy):
    told = told_of(noisy)
    with pytest.raises(FlopsFitError, match=r"confirm\.tokens"):
        compare({**record_of(told, 2.0), "num_tokens": 5}, told, "demo-confirm")


def test_confirmations_are_found_by_the_sweep_that_predicted(tmp_path, noisy):
    for name, sweep, flops in (("b", "demo", 3.0), ("a", "demo", 9.0), ("c", "other", 1.0)):
        write_json(tmp_path / name / "confirmation.json", {"sweep": sweep, "flops": flops})
    assert [c["flops"] for c in confirmations_of(tmp_path, "demo")] == [3.0, 9.0]
    assert confirmations_of(tmp_path, "none") == []


def test_the_frozen_prediction_passes_the_schema_and_stands_for_one_run(noisy):
    raw = yaml.safe_load(SMOKE.read_text())
    raw |= {"budgets": [8e8], "sizes": {"per_budget": {"8e8": [16]}}, "confirm": told_of(noisy)}
    assert complete_config(json.loads(json.dumps(raw)))["confirm"]["sweep"] == "demo"
    with pytest.raises(FlopsFitError, match="confirm: the config must describe a single run"):
        complete_config({**raw, "sizes": {"per_budget": {"8e8": [16, 32]}}})
    with pytest.raises(FlopsFitError, match="confirm"):
        complete_config({**raw, "confirm": {"sweep": "demo"}})


def test_the_commands_write_configs_that_plan(tmp_path, capsys, monkeypatch):
    """A fit of made-up losses on the real plan of the smoke sweep: propose, and predict one run."""
    monkeypatch.setattr("flops_fit.rounds.next.TIMES", 3)
    config, paths = load_config(SMOKE), search_paths()
    plan = make_plan(config, tmp_path, paths)
    design = design_of(Plan("", "counted", plan.experiments))
    smooth = 1 + 30 * design["params"] ** -0.5 + 300 * design["tokens"] ** -0.5
    write_json(
        tmp_path / "fit.json",
        fit_runs(prepare_runs(design.assign(loss=smooth)), bootstrap=20).to_dict(),
    )
    places = [
        "--fit",
        str(tmp_path / "fit.json"),
        "--config",
        str(SMOKE),
        "--results",
        str(tmp_path),
    ]
    out = tmp_path / "next.yaml"
    assert main(["next", *places, "--out", str(out)]) == 2
    assert "not identifiable" in capsys.readouterr().err
    places.append("--force")
    assert main(["next", *places, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "adds" in said
    assert f"--configfile {out}" in said
    ids = {e.experiment_id for e in make_plan(load_config(out), tmp_path, paths).experiments}
    assert {e.experiment_id for e in plan.experiments} < ids
    out = tmp_path / "confirm.yaml"
    assert main(["confirm", *places, "--flops", "1.6e9", "--out", str(out)]) == 0
    assert "predicted loss" in capsys.readouterr().out
    frozen = load_config(out)
    (run,) = make_plan(frozen, tmp_path, paths).experiments
    assert frozen["confirm"]["tokens"] == run.num_tokens
    assert frozen["confirm"]["blind"]
    assert run.experiment_id not in ids


@pytest.mark.seconds
def test_the_sweep_of_a_script_is_extended_and_confirmed_with_its_script(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("flops_fit.rounds.next.TIMES", 3)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").touch()
    (tmp_path / "counted.py").write_text(
        "def counts(size):\n    return {'params': 48 * size, 'flops_per_token': 288 * size}\n"
    )
    raw = {
        "name": "own",
        "trainer": {"command": ["python", "train.py"], "arguments": ["--width", "{size}"]},
        "counts": {"function": "counted:counts"},
        "budgets": [1e7, 3e7, 1e8],
        "sizes": {"values": [4, 8, 16, 32]},
        "batch": {"value": 16},
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(raw))
    plan = make_plan(load_config("own.yaml"), "results", search_paths())
    design = design_of(Plan("", "counted", plan.experiments))
    smooth = 1 + 30 * design["params"] ** -0.5 + 60 * design["tokens"] ** -0.45
    fit = fit_runs(prepare_runs(design.assign(loss=smooth)), bootstrap=20)
    write_json(tmp_path / "fit.json", fit.to_dict())
    places = ["--fit", "fit.json", "--config", "own.yaml", "--force"]
    assert main(["next", *places, "--out", "next.yaml", "--json"]) == 0
    printed = capsys.readouterr()
    proposed = json.loads(printed.out)
    assert "adds" in printed.err
    assert proposed["config"] == "next.yaml"
    assert proposed["target_flops"] == pytest.approx(1e9, rel=0.05)
    assert (
        {"params_ratio", "all_bracketed"} == proposed["before"].keys() == proposed["after"].keys()
    )
    assert main(["confirm", *places, "--flops", "1e9", "--out", "confirm.yaml", "--json"]) == 0
    printed = capsys.readouterr()
    predicted = json.loads(printed.out)
    assert "predicted loss" in printed.err
    assert load_config("confirm.yaml")["confirm"].items() <= predicted.items()
    for name, runs in (("next.yaml", 13), ("confirm.yaml", 1)):
        written = yaml.safe_load((tmp_path / name).read_text())
        assert (written["trainer"], written["counts"]) == (raw["trainer"], raw["counts"])
        planned = make_plan(load_config(name), "results", search_paths()).experiments
        assert len(planned) >= runs
        if name == "next.yaml":
            assert len(planned) == len(plan.experiments) + proposed["added_runs"]
        else:
            assert planned[0].experiment_id == predicted["experiment_id"]


@pytest.mark.parametrize(("name", "key"), [("runs", "runs"), ("lr", "learning_rate_factors")])
def test_a_config_without_a_grid_is_refused(tmp_path, capsys, noisy, name, key):
    write_json(tmp_path / "fit.json", noisy.to_dict())
    config = str(SMOKE.with_name(f"{name}.yaml"))
    fit = ["--fit", str(tmp_path / "fit.json")]
    for verb in (["simulate"], ["next", *fit], ["confirm", *fit, "--flops", "1e12"]):
        assert main([*verb, "--config", config, "--results", str(tmp_path)]) == 2
        assert f"{key}: not used here" in capsys.readouterr().err


def test_the_ledger_keeps_each_confirmation_once_and_counts_those_that_held(tmp_path, noisy):
    told = told_of(noisy)
    assert ledger_text(tmp_path) == ""
    for name, off in (("a", 1.0), ("b", 1.2), ("a", 1.0)):
        enter(tmp_path, compare(record_of(told, told["loss"] * off), told, name))
    assert [e["name"] for e in entries(tmp_path)] == ["b", "a"]
    assert "Of 2 confirmation runs" in ledger_text(tmp_path)
    assert "1 fell inside" in ledger_text(tmp_path)
    (tmp_path / "confirmations.jsonl").write_text("no json")
    with pytest.raises(FlopsFitError, match="not a ledger"):
        entries(tmp_path)
