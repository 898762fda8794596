"""The second round of a comparison: which runs are proposed, and that they settle it."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
import yaml
from simulated import GRIDS, LAWS, sweep

from flops_fit.cli.main import main
from flops_fit.comparison.judge import judge
from flops_fit.comparison.models import models_of
from flops_fit.comparison.pairs import Arm, joint_draws
from flops_fit.config.arms import arm_configs
from flops_fit.config.load import load_comparison, load_config
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.plan import Plan
from flops_fit.files import write_json
from flops_fit.fit import fit_runs, prepare_runs
from flops_fit.plan.cache import search_paths
from flops_fit.plan.planner import make_plan
from flops_fit.rounds.grid import Action, Grid
from flops_fit.rounds.settle import enough, proposals, question_of
from flops_fit.rounds.simulate import design_of, losses_of
from flops_fit.rounds.truth import Truth, law_of
from flops_fit.sweep import ModelCount

NOISE, GAIN = 0.004, 1.02
E, A, B, ALPHA, BETA = LAWS["besiroglu"]
FASTER = (E, A * GAIN ** (-ALPHA / 2), B * GAIN ** (-BETA / 2), ALPHA, BETA)
TRUTHS = [Truth(law_of(*law), "given", NOISE, True, "given") for law in (LAWS["besiroglu"], FASTER)]
TOP = 8.1e19


def count(sizes: list) -> dict:
    return {s: ModelCount(s, s, s, s, 6.0 * s, "stated") for s in sizes}


def design(seeds: int) -> pd.DataFrame:
    frame = sweep(LAWS["besiroglu"], GRIDS["narrow"], 5, 4, 3e18, TOP).drop(columns="loss")
    frame["size"] = frame["params"].round(-5).astype(int)
    frame["params"] = frame["size"].astype(float)
    for name in ("params_nonembedding", "params_total"):
        frame[name] = frame["params"]
    frame["flops_per_token"] = 6 * frame["params"]
    frame["tokens"] = frame["flops"] / frame["flops_per_token"]
    frame["experiment_id"] = [f"run{i}" for i in range(len(frame))]
    return pd.concat([frame.assign(seed=s) for s in range(seeds)], ignore_index=True)


def compared(designs, seed: int):
    """Both arms with simulated losses, their models, and what is believed of M at the top."""
    arms = []
    for k, (frame, truth) in enumerate(zip(designs, TRUTHS, strict=True)):
        loss = losses_of(frame, truth, 1, 2 * seed + k)[0]
        fit = fit_runs(
            prepare_runs(frame.assign(loss=loss)), bootstrap=1, sensitivity=False, method="surface"
        )
        arms.append(Arm.of(("plain", "muon")[k], fit))
    models = models_of(*arms, joint_draws(*arms, 200, np.random.default_rng(0)))
    return tuple(arms), models, judge(models, tuple(arms), np.log([TOP])).beliefs[0]


def asked(seeds: int, seed: int = 0, candidate: pd.DataFrame | None = None):
    frames = design(seeds), design(seeds) if candidate is None else candidate
    arms, models, belief = compared(frames, seed)
    grids = tuple(Grid(frame, count) for frame in frames)
    low, high = belief.interval(0.9)
    return question_of(arms, grids, models, TOP, (high - low) / 3.29), belief


def test_twice_the_runs_with_new_seeds_halve_the_variance():
    question, _ = asked(1)
    twice = tuple(grid.with_runs(Action("", "", {}, (1,))) for grid in question.grids)
    assert question.expected(question.designs()) == pytest.approx(question.sd)
    assert question.expected(twice) / question.sd == pytest.approx(np.sqrt(0.5), rel=0.01)


@pytest.fixture(scope="module")
def two_seeds():
    return asked(2)


def test_every_step_holds_the_one_before_it_and_costs_at_most_what_is_allowed(two_seeds):
    question, belief = two_seeds
    steps = proposals(question, 3e20)
    assert len(steps) > 2
    for before, after in itertools.pairwise(steps):
        assert before.flops < after.flops <= 3e20
        assert before.sd > after.sd
        assert before.shows(0.05) < after.shows(0.05)
    for action in filter(None, steps[-1].actions):
        assert action.sizes or action.seeds
    assert enough(steps, question, 0.5) is steps[0]  # so large a gain needs no more
    assert enough(steps, question, 0.0) is steps[-1]
    assert enough(steps[:0], question, belief.answer) is None


def test_a_seed_or_a_budget_of_one_arm_is_offered_to_the_other():
    question, _ = asked(2, candidate=design(1))
    assert proposals(question, 1e22)[0].last == "muon: seed 1 for every run"
    both = design(2)
    lacking = both[abs(both["budget"] / 2.7e19 - 1) > 0.1].reset_index(drop=True)
    question, _ = asked(2, candidate=lacking)
    steps = [step.last for step in proposals(question, 1e22)]
    assert any(step.startswith("muon: sizes") and "at 2.7×10¹⁹ FLOPs" in step for step in steps)


def test_the_proposed_round_is_expected_to_narrow_m_more_than_random_runs(two_seeds):
    question, _ = two_seeds
    step = proposals(question, 6e20)[-1]
    random = [
        question.expected(random_runs(question, step.flops, np.random.default_rng(i)))
        for i in range(20)
    ]
    assert question.sd - step.sd > 1.2 * (question.sd - np.mean(random))


@pytest.mark.slow
def test_the_proposed_round_narrows_m_more_than_random_runs_of_equal_cost():
    """With really simulated losses of the new runs, refitted and compared anew."""
    widths: dict[str, list[float]] = {"proposed": [], "random": []}
    for seed in range(24):
        question, _ = asked(2, seed)
        step = proposals(question, 6e20)[-1]
        added = {"proposed": question.designs(step.actions)}
        added["random"] = random_runs(question, step.flops, np.random.default_rng(seed))
        for name, designs in added.items():
            low, high = compared(designs, seed)[2].interval(0.9)
            widths[name].append(np.log(high - low))
    assert np.mean(widths["proposed"]) < np.mean(widths["random"]) - 0.05


def random_runs(question, flops: float, generator):
    """The arms with runs of random cells and further seeds, of about the cost ``flops``."""
    designs, spent = list(question.designs()), 0.0
    seed = 2
    while spent < flops:
        k = int(generator.integers(2))
        row = question.grids[k].design.sample(1, random_state=int(generator.integers(1 << 30)))
        designs[k] = pd.concat([designs[k], row.assign(seed=seed)], ignore_index=True)
        spent, seed = spent + float(row["flops"].iloc[0]), seed + 1
    return tuple(designs)


def test_an_arm_without_a_surface_is_refused(two_seeds):
    question, _ = two_seeds
    params = np.geomspace(1e8, 1e10, 12)
    frame = pd.DataFrame({"params": params, "tokens": 20 * params, "loss": 2 + 30 / params**0.2})
    along = Arm.of("along", fit_runs(frame, bootstrap=0, sensitivity=False))
    with pytest.raises(FlopsFitError, match="along: fit: no surface is identified"):
        question_of((question.arms[0], along), question.grids, question.models, TOP, 0.1)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A comparison of two sweeps of a script that differ in one argument, both fitted."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").touch()
    (tmp_path / "counted.py").write_text(
        "def counts(size):\n    return {'params': 48 * size, 'flops_per_token': 288 * size}\n"
    )
    for name, seed, gain in (("plain", 0, 1.0), ("muon", 1, 1.01)):
        raw = {
            "name": name,
            "trainer": {
                "command": ["python", "train.py"],
                "arguments": ["--width", "{size}", "--optimizer", name],
            },
            "counts": {"function": "counted:counts"},
            "budgets": [1e7, 3e7, 9e7, 2.7e8],
            "sizes": {"window": {"count": 5, "multiple": 2}},
            "batch": {"value": 16},
            "seeds": [0, 1],
        }
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(raw))
        plan = make_plan(load_config(f"{name}.yaml"), "results", search_paths())
        frame = design_of(Plan("", "counted", plan.experiments))
        per, tokens = frame["params"] * gain, frame["tokens"]
        luck = 0.004 * np.random.default_rng(seed).standard_normal(len(frame))
        loss = (1 + 9 * per**-0.5 + 40 * tokens**-0.5) * np.exp(luck)
        fit = fit_runs(prepare_runs(frame.assign(loss=loss)), bootstrap=60, sensitivity=False)
        (tmp_path / "results" / name).mkdir(parents=True, exist_ok=True)
        write_json(tmp_path / "results" / name / "fit.json", fit.to_dict())
    compared = {"reference": "plain.yaml", "candidate": "muon.yaml"}
    config = {"name": "both", "compare": compared, "answer": {"budgets": [1e9]}}
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.seconds
def test_the_command_writes_configs_of_both_arms_and_of_their_comparison(study, capsys):
    out = "next/both-round2.yaml"
    assert main(["next", "--compare", "both.yaml", "--out", out, "--json"]) == 0
    printed, text = capsys.readouterr()
    proposed = json.loads(printed)
    assert proposed["config"] == out
    assert proposed["after"]["multiplier_ratio"] < proposed["before"]["multiplier_ratio"]
    assert 0 < proposed["after"]["shown"] <= 1
    assert "No difference between " in text
    assert "--configfile next/both-round2.yaml" in text
    new = load_comparison("next/both-round2.yaml")
    assert new["name"] == "both-round2"
    assert new["answer"]["budgets"] == [1e9]
    arms = arm_configs(new, search_paths())
    assert list(arms) == ["plain-round2", "muon-round2"]
    for old, config, arm in zip(("plain", "muon"), arms.values(), proposed["arms"], strict=True):
        known, larger = (
            {e.experiment_id for e in make_plan(c, "results", search_paths()).experiments}
            for c in (load_config(f"{old}.yaml"), config)
        )
        assert known < larger
        added = len(larger) - len(known)
        assert f"{old}: adds {added} runs" in text
        assert (arm["name"], arm["added_runs"]) == (old, added)
        assert load_config(arm["config"])["name"] == config["name"]


def test_what_cannot_be_proposed_is_refused(study, capsys):
    for options, message in (
        ("", "--fit, --config: missing; allowed: both of them, or --compare"),
        ("--compare plain.yaml", "compare: missing; allowed: the config of a comparison"),
        ("--compare both.yaml --take 99", "--take: 99; allowed: 1 to"),
        ("--compare both.yaml --max-flops 1e3", "--max-flops: no runs of 10³ FLOPs"),
    ):
        assert main(["next", *options.split()]) == 2
        assert message in capsys.readouterr().err
