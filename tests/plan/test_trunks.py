"""Plans of sweeps whose runs of one size share their first steps."""

import json
import math
import shutil
import sys
from dataclasses import replace

import pytest
from plans import plan_of
from published_schemas import problems
from small_module import small_module

from flops_fit.cli.main import main
from flops_fit.config.complete import complete_config
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import run_folder, state_folder, trunk_folder
from flops_fit.experiment.plan import Plan
from flops_fit.experiment.recipe import read_recipe
from flops_fit.experiment.spec import read_spec
from flops_fit.files import write_json
from flops_fit.notation import count_text, flops_text
from flops_fit.plan.planner import make_plan
from flops_fit.plan.price import START_UP, Rate, work_of, work_of_spec
from flops_fit.plan.table import plan_rows
from flops_fit.plan.trunks import before_on_trunk, branches_of, flops_to_train
from flops_fit.report.health import _spent
from flops_fit.store.plan_file import read_plan, read_plan_use
from flops_fit.store.records import finish_run
from flops_fit.store.runs import read_sweeps, unused
from flops_fit.store.trunks import spent_states
from flops_fit.sweep import Experiment, ModelCount

MODULE = (
    small_module(240)
    + """

def of_tokens(params, tokens, size):
    return 1e-5 * tokens
"""
)


@pytest.fixture
def plan_in(tmp_path, monkeypatch):
    """Plans a sweep of a tiny model in a folder of its own; ``changes`` replace keys of its config."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "trunkplugin", raising=False)
    (tmp_path / "trunkplugin.py").write_text(MODULE)

    def plan(**changes):
        config = {
            "name": "trunks",
            "model": {"factory": "trunkplugin:Net", "size_param": "width"},
            "dataset": {"factory": "trunkplugin:data"},
            "budgets": [1e5, 2e5, 4e5],
            "sizes": {"values": [8, 16]},
            "batch": {"value": 8},
            "learning_rate": {"value": 0.01},
            "schedule": {"kind": "trunk", "warmup_tokens": 16},
            "evaluation": {"tokens": 32},
            "limits": {"max_epochs": 100},
            **changes,
        }
        return make_plan(complete_config(config), tmp_path / "results", [str(tmp_path)])

    return plan


def test_a_warmup_that_reaches_the_cooldown_is_refused(plan_in):
    shortest = min(e.num_tokens for e in plan_in().experiments)
    cooldown = int(0.8 * shortest)
    plan_in(schedule={"kind": "trunk", "warmup_tokens": cooldown - 1})
    with pytest.raises(
        FlopsFitError, match=f"cooldown of net-width16-.* begins after {cooldown} t"
    ):
        plan_in(schedule={"kind": "trunk", "warmup_tokens": cooldown})


@pytest.mark.parametrize("key", ["batch", "learning_rate"])
def test_a_rule_that_gives_another_value_at_another_d_is_refused(plan_in, key):
    with pytest.raises(FlopsFitError, match=f"{key}: the rule gave .* at D = .* allowed with"):
        plan_in(**{key: {"function": "trunkplugin:of_tokens"}})


def test_the_rate_of_a_trunk_is_probed_at_the_ends_of_the_largest_budget(plan_in):
    plan = plan_in(learning_rate_factors=[0.5, 1, 2])
    assert {e.compute_budget for e in plan.experiments} == {4e5}
    assert len(plan) == 6
    reasons = {(s.compute_budget, s.size_param_value): s.reason for s in plan.skipped}
    assert set(reasons) == {(c, size) for c in (1e5, 2e5) for size in (8, 16)}
    assert "tuned at the ends of the largest budget" in reasons[1e5, 8]


GROWING = {"value": 8, "seen": {"reference": 300, "power": 0.5}}


def test_runs_whose_batch_grows_share_a_trunk_and_count_their_steps_by_stage(plan_in, tmp_path):
    experiments = plan_in(batch=GROWING).experiments
    (path,) = (tmp_path / "results/.plan/plans").iterdir()
    plan = read_plan(path)
    assert [e.batch_growth for e in plan.experiments] == [e.batch_growth for e in experiments]
    assert len({branch.trunk for branch in plan.branches.values()}) == 2
    for experiment in plan.experiments:
        branch = plan.branches[experiment.experiment_id]
        assert (
            experiment.batches.floor(branch.tokens) == branch.tokens <= 0.8 * experiment.num_tokens
        )
        assert experiment.batches.floor(branch.start) == branch.start
        here = experiment.steps - experiment.batches.steps(branch.start)
        work = work_of(experiment, branch.start)
        assert (work.steps, work.batch_items) == (here, experiment.batches.last)
        file = tmp_path / f"results/.plan/specs/{experiment.experiment_id}.json"
        spec = read_spec(file)
        assert problems("spec", json.loads(file.read_text())) == []
        assert work_of_spec(spec, branch.start) == work
        assert spec.recipe.to_dict()["batch_growth"] == experiment.batch_growth
        assert spec.recipe == read_recipe(spec.recipe.to_dict())
    assert problems("plan", json.loads(path.read_text())) == []
    row = plan_rows(plan, RATE, None, None)[0]
    last = plan.experiments[0]
    assert row.batch_text == f"1-{last.batches.last}"
    assert row.to_dict()["batch_items"] == round(last.num_tokens / last.steps)
    late = {"value": 1, "seen": {"reference": 1e9, "power": 0.5}}  # no run lasts until it grows
    ids = [[e.experiment_id for e in plan_in(batch=b).experiments] for b in (late, {"value": 1})]
    assert ids[0] == ids[1]


RATE = Rate(1e9, 0.01, "measured by nobody")
COUNT = ModelCount(10, 10, 5, 20, 60.0, "meta")
SCHEDULE = {"kind": "trunk", "warmup_tokens": 16, "cooldown": 0.2, "shape": "sqrt", "final": 0.0}


def ends(*steps: int, cooldown=0.2) -> Plan:
    """A plan of runs of one trunk, of so many steps of 8 items of 3 tokens."""
    made = [
        Experiment(
            experiment_id=f"net-{s}",
            compute_budget=1e9 * s,
            size_param_value=8,
            num_params=10,
            num_tokens=24 * s,
            batch_items=8,
            tokens_per_item=3,
            steps=s,
            count=COUNT,
            hash=f"hash{s}",
        )
        for s in steps
    ]
    branches = branches_of(made, ["a" * 64] * len(made), SCHEDULE | {"cooldown": cooldown})
    return replace(plan_of(made), branches=branches)


def test_each_end_starts_where_the_next_shorter_one_begins_its_cooldown():
    plan = ends(11, 40, 20)  # in any order
    branches = [plan.branches[f"net-{s}"] for s in (11, 20, 40)]
    assert [b.tokens / 24 for b in branches] == [8, 16, 32]
    assert [b.start / 24 for b in branches] == [0, 8, 16]
    assert [b.after for b in branches] == ["", "net-11", "net-20"]
    assert plan.flops_here(plan.experiments[1]) == pytest.approx(60 * 24 * 24)
    assert Plan.from_dict(plan.to_dict()) == plan
    assert "branches" not in replace(plan, branches={}).to_dict()


def test_the_cost_on_the_page_counts_shared_steps_once():
    plan = ends(10, 20, 40)
    records = [
        {
            "status": "completed",
            "tokens_seen": e.num_tokens,
            "tokens_here": round(e.num_tokens * plan.share_here(e)),
            "flops_counted": e.flops_counted,
            "wall_seconds": 1.0,
        }
        for e in plan.experiments
    ]
    rows = {label: (planned, spent) for label, planned, spent in _spent(records, plan)}
    flops = flops_text(60 * 24 * (10 + 12 + 24))
    assert rows["Training FLOPs"] == (flops, flops)
    assert rows["Tokens"] == (count_text(24 * 46), count_text(24 * 46))


@pytest.mark.parametrize("cooldown", [0.1, 0.2, 0.3])
def test_the_flops_of_a_factor_two_ladder_follow_the_formula(cooldown):
    """Shared over separate tokens: the longest run, and the cooldown of every shorter one."""
    plan = ends(*(1000 * 2**i for i in range(5)), cooldown=cooldown)
    separate = sum(e.flops_counted for e in plan.experiments)
    expected = (16 + cooldown * (1 + 2 + 4 + 8)) / 31
    shared = sum(map(plan.flops_here, plan.experiments))
    assert shared / separate == pytest.approx(expected, rel=1e-3)


def test_a_failed_run_is_passed_over():
    branches = ends(10, 20, 40, 80).branches
    chain = {"net-20": "net-10", "net-40": "net-20", "net-80": "net-40"}
    assert before_on_trunk(branches, []) == chain
    assert before_on_trunk(branches, ["net-20"]) == chain | {"net-40": "net-10"}
    assert before_on_trunk(branches, ["net-10", "net-20"]) == {"net-80": "net-40"}


def record_of(experiment: Experiment, results) -> None:
    folder = run_folder(results, experiment.experiment_id)
    folder.mkdir(parents=True)
    record = {
        "format": 1,
        "experiment_id": experiment.experiment_id,
        "hash": experiment.hash,
        "status": "completed",
        "reason": "",
        "final_loss": 1.0,
        "tokens_seen": experiment.num_tokens,
    }
    finish_run(folder, record, folder / "result.json")


def state_of(plan: Plan, experiment: Experiment, results, tokens=None) -> None:
    branch = plan.branches[experiment.experiment_id]
    state_folder(trunk_folder(results, branch.trunk), tokens or branch.tokens).mkdir(parents=True)


def test_what_is_left_to_train_counts_records_and_states(tmp_path):
    plan = ends(10, 20, 40)
    first, second, third = plan.experiments
    of_steps = 60 * 24

    def left():
        return flops_to_train(plan, tmp_path) / of_steps

    assert left() == pytest.approx(10 + 12 + 24)
    record_of(first, tmp_path)  # without its state
    assert left() == pytest.approx(20 + 24)
    state_of(plan, first, tmp_path)
    assert left() == pytest.approx(12 + 24)
    record_of(third, tmp_path)
    assert left() == pytest.approx(12)
    state_of(plan, third, tmp_path)  # lies beyond the branch of what is left
    assert left() == pytest.approx(12)
    state_of(plan, second, tmp_path)
    assert left() == pytest.approx(4)
    record_of(second, tmp_path)
    assert left() == 0


def test_states_go_once_every_run_beyond_them_has_a_record_but_for_the_last(tmp_path):
    plan = ends(10, 20, 40)
    runs, sweep = plan.experiments, tmp_path / ".plan" / "sweeps" / "s.json"
    write_json(sweep, plan.to_dict())

    def spent():
        return [state.name for state in spent_states(tmp_path, read_sweeps(tmp_path))]

    assert read_plan_use(sweep).branches["net-20"] == ("a" * 64, 16 * 24)
    for run in runs:
        state_of(plan, run, tmp_path)
    names = [state_folder(tmp_path, b.tokens).name for b in plan.branches.values()]
    assert spent() == []
    record_of(runs[2], tmp_path)
    assert spent() == []  # the run of 20 steps may still start from the first
    record_of(runs[0], tmp_path)
    record_of(runs[1], tmp_path)
    assert spent() == names[:2]
    state_of(plan, runs[0], tmp_path, tokens=50 * 24)  # of a run that no plan has
    assert spent() == names
    stray = trunk_folder(tmp_path, "c" * 64)
    stray.mkdir(parents=True)
    assert unused(tmp_path)["states"] == [stray, *spent_states(tmp_path, read_sweeps(tmp_path))]


def test_a_plan_holds_the_branches_and_prices_what_each_run_trains(plan_in, tmp_path):
    plan_in()
    (path,) = (tmp_path / "results/.plan/plans").iterdir()
    plan = read_plan(path)
    by_size = {}
    for e in plan.experiments:
        by_size.setdefault(e.size_param_value, []).append(e)
    assert len({b.trunk for b in plan.branches.values()}) == 2
    prices = {row.experiment.experiment_id: row for row in plan_rows(plan, RATE, None, None)}
    for runs in by_size.values():
        first, second, third = sorted(runs, key=lambda e: e.num_tokens)
        branches = [plan.branches[e.experiment_id] for e in (first, second, third)]
        assert [b.after for b in branches] == ["", first.experiment_id, second.experiment_id]
        batch = third.batch_items * third.tokens_per_item
        assert branches[1].tokens == math.floor(0.8 * second.num_tokens / batch) * batch
        assert branches[2].start == branches[1].tokens
        steps = third.steps - branches[1].tokens / batch
        assert work_of(third, branches[2].start).steps == steps
        flops = third.flops_counted * (1 - branches[1].tokens / third.num_tokens)
        seconds = START_UP + steps * RATE.step_seconds + flops / RATE.flops_per_second
        assert prices[third.experiment_id].price.seconds == pytest.approx(seconds)


def test_the_plan_says_what_sharing_saves_as_text_and_as_json(plan_in, tmp_path, capsys):
    plan_in()
    (path,) = (tmp_path / "results/.plan/plans").iterdir()
    plan, options = read_plan(path), ["--plan", str(path), "--results", str(tmp_path / "results")]
    assert main(["plan", *options]) == 0
    text = capsys.readouterr().out
    separate = sum(e.flops_counted for e in plan.experiments)
    total = sum(map(plan.flops_here, plan.experiments))
    assert f"2 trunks: {total / separate:.2f} of the {flops_text(separate)} FLOPs" in text
    assert f"6 experiments, 3 budgets, {flops_text(total)} FLOPs" in text

    shortest = min(plan.experiments, key=lambda e: e.num_tokens)
    record_of(shortest, tmp_path / "results")
    state_of(plan, shortest, tmp_path / "results")
    assert main(["plan", *options, "--json"]) == 0
    said = capsys.readouterr()
    value = json.loads(said.out)
    assert "warning: " in said.err
    assert value["total_flops"] == pytest.approx(total)
    assert value["separate_flops"] == pytest.approx(separate)
    assert value["to_train_flops"] == pytest.approx(total - shortest.flops_counted)
    rows = {row["experiment_id"]: row for row in value["experiments"]}
    assert {e.experiment_id for e in plan.experiments} == set(rows)
    for e in plan.experiments:
        branch = plan.branches[e.experiment_id]
        assert rows[e.experiment_id]["after"] == (branch.after or None)
        assert rows[e.experiment_id]["start_tokens"] == branch.start


def test_the_trunk_of_a_run_does_not_know_its_end_its_cooldown_or_its_evaluation(plan_in, tmp_path):
    def trunks(**changes):
        shutil.rmtree(tmp_path / "results", ignore_errors=True)
        plan_in(**changes)
        (path,) = (tmp_path / "results/.plan/plans").iterdir()
        return {branch.trunk for branch in read_plan(path).branches.values()}

    usual = trunks()
    assert trunks(budgets=[8e5]) == usual
    assert trunks(evaluation={"tokens": 16}) == usual
    cooled = {
        "kind": "trunk",
        "warmup_tokens": 16,
        "cooldown": 0.4,
        "shape": "linear",
        "final": 0.1,
    }
    assert trunks(schedule=cooled) == usual
    assert not trunks(schedule={"kind": "trunk", "warmup_tokens": 17}) & usual
    assert not trunks(learning_rate={"value": 0.02}) & usual
    assert not trunks(seeds=[1]) & usual
