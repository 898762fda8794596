"""The commands fit and predict: what they write, what they print, what they refuse."""

import argparse
import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from plans import grid, plan_of
from simulated import LAWS, log_optimum, loss_of, small_models, sweep

from flops_fit.cli import fit, predict
from flops_fit.errors import FlopsFitError
from flops_fit.notation import count_text
from flops_fit.sweep import CountedSize, ModelCount

PARAMETRIC = {"E", "A", "B", "alpha", "beta", "a", "b", "objective", "n_runs", "status", "reason"}
BUDGET = {"flops", "params_opt", "tokens_opt", "loss_opt", "status", "reason"}


def run(command, *words):
    parser = argparse.ArgumentParser()
    verb = {"fit": fit, "predict": predict}[command]
    verb.add_arguments(parser)
    return verb.run(parser.parse_args([str(w) for w in words]))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    frame = sweep(LAWS["besiroglu"], noise=0.005, sizes=9, budgets=4).assign(outlier=False)
    frame.loc[4, ["loss", "outlier"]] = [9.0, True]
    frame.to_csv(folder / "runs.csv", index=False)
    run("fit", "--runs", folder / "runs.csv", "--out", folder / "fit.json", "--bootstrap", 100)
    return folder


def test_fit_takes_the_sizes_that_a_plan_counted_beyond_its_grid(tmp_path):
    frame = small_models()
    frame.to_csv(tmp_path / "runs.csv", index=False)
    largest = frame["params"].max()
    params = [round(largest * k) for k in (2, 4)]
    counts = [ModelCount(n, n, n // 2, 2 * n, 6.3 * n, "meta") for n in params]
    plan = replace(plan_of(grid()), beyond=[CountedSize(i, c) for i, c in enumerate(counts, 200)])
    (tmp_path / "plan.json").write_text(json.dumps(plan.to_dict()))
    words = ("--runs", tmp_path / "runs.csv", "--out", tmp_path / "fit.json", "--bootstrap", 0)
    run("fit", *words, "--sizes", tmp_path / "plan.json")
    cost = json.loads((tmp_path / "fit.json").read_text())["cost"]
    assert cost["params"][-2:] == params
    assert cost["flops_per_token"][-2:] == pytest.approx([6.3 * n for n in params])
    assert "2 of them counted beyond the runs" in cost["words"]
    (tmp_path / "plan.json").write_text(json.dumps(replace(plan, beyond=[]).to_dict()))
    run("fit", *words, "--sizes", tmp_path / "plan.json")
    assert "counted" not in json.loads((tmp_path / "fit.json").read_text())["cost"]["words"]


def test_fit_writes_the_promised_keys(fitted):
    fit = json.loads((fitted / "fit.json").read_text())
    assert set(fit["parametric"]) >= PARAMETRIC
    assert fit["parametric"]["n_runs"] == 35
    assert len(fit["isoflop"]["budgets"]) == 4
    for budget in fit["isoflop"]["budgets"]:
        assert set(budget) >= BUDGET
    assert set(fit) >= {
        "ci",
        "ci_noise",
        "delta",
        "bootstrap",
        "status",
        "excluded",
        "heldout",
        "headline",
        "stack",
        "table",
    }
    assert fit["excluded"]["by_reason"] == {"outlier": 1}
    weights = [m["weight_params"] for m in fit["stack"]["members"]]
    assert sum(weights) == pytest.approx(1)
    assert len(fit["table"]["columns"]["loss"]) == 35
    assert len(fit["table"]["sha256"]) == 64


def test_fit_ends_with_one_line_that_names_the_file_and_the_headline(fitted, capsys):
    run("fit", "--runs", fitted / "runs.csv", "--out", fitted / "again.json", "--bootstrap", 50)
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith(f"wrote {fitted / 'again.json'}: a = 0.5")
    left = json.loads((fitted / "again.json").read_text())["excluded"]["runs"][0]
    assert f"35 runs, 1 left out ({left['experiment_id']}: {left['reason']})" in last


def test_a_fit_that_identifies_nothing_prints_no_exponent(tmp_path, capsys):
    frame = sweep(LAWS["besiroglu"], sizes=4, budgets=3).assign(tokens=lambda f: 20 * f["params"])
    frame.assign(flops=6 * frame["params"] * frame["tokens"]).drop(columns="budget").to_csv(
        tmp_path / "runs.csv", index=False
    )
    run("fit", "--runs", tmp_path / "runs.csv", "--out", tmp_path / "fit.json", "--bootstrap", 0)
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert ": not identifiable from 12 runs: D follows N in all runs" in last
    assert "a = " not in last


def test_what_counts_against_trust_is_a_warning_beside_the_notes(tmp_path, capsys):
    frame = sweep(LAWS["besiroglu"], sizes=4, budgets=2).assign(
        total_tokens=lambda f: 8 * f["tokens"]
    )
    frame.to_csv(tmp_path / "runs.csv", index=False)
    words = ("--runs", tmp_path / "runs.csv", "--out", tmp_path / "fit.json", "--bootstrap", 0)
    run("fit", *words, "--method", "surface", "--cost", "6nd")
    said = capsys.readouterr().out.splitlines()
    (warning,) = (line for line in said if line.startswith("warning: "))
    assert "'total_tokens' is 8 times as much" in warning
    assert "note: flops = 6 params tokens" in said


def test_predict_prints_the_answer_readable_and_as_json(fitted, capsys):
    run("predict", "--fit", fitted / "fit.json", "--flops", 1e21)
    text = capsys.readouterr().out
    run("predict", "--fit", fitted / "fit.json", "--flops", 1e21, "--json")
    answer = json.loads(capsys.readouterr().out)
    assert re.search(rf"parameters N\* +{count_text(answer['params'])}   90% interval", text)
    assert answer["verdict"] in ("trust", "provisional")


def test_predict_at_points_adds_the_loss_of_any_run_and_keeps_the_other_columns(fitted, capsys):
    points = pd.DataFrame(
        {"name": ["a", "b", "c"], "params": [1e9, 2e9, 2e8], "tokens": [2e10, 4e10, 2e13]}
    )
    points.to_csv(fitted / "points.csv", index=False)
    run(
        "predict",
        "--fit",
        fitted / "fit.json",
        "--at",
        fitted / "points.csv",
        "--out",
        fitted / "predicted.csv",
    )
    predicted = pd.read_csv(fitted / "predicted.csv")
    assert list(predicted.columns) == [
        "name",
        "params",
        "tokens",
        "loss",
        "loss_low",
        "loss_high",
        "beyond_data",
        "verdict",
    ]
    assert predicted["loss"][0] > predicted["loss"][1]
    assert (predicted["loss_low"] < predicted["loss"]).all()
    assert (predicted["loss"] < predicted["loss_high"]).all()
    assert predicted["beyond_data"].tolist() == pytest.approx([1.2, 4.8, 240])
    assert "1 of them are not like any run; the first: 100k tokens per" in capsys.readouterr().out
    truth = loss_of(LAWS["besiroglu"], points["params"], points["tokens"])
    assert predicted["loss"].to_numpy()[:2] == pytest.approx(truth.to_numpy()[:2], rel=0.01)
    assert set(predicted["verdict"]) <= {"trust", "provisional"}


def test_a_verdict_less_than_required_ends_with_status_3(fitted, capsys):
    from flops_fit.cli.main import main

    ask = ["predict", "--fit", str(fitted / "fit.json"), "--flops"]
    assert main([*ask, "1e23", "--require", "provisional"]) == 0
    assert main([*ask, "1e23", "--require", "trust"]) == 3
    assert "--require trust: the verdict is provisional" in capsys.readouterr().err
    assert main([*ask, "1e20", "--require", "trust"]) == 0


def test_predict_at_points_needs_a_place_to_write(fitted):
    with pytest.raises(FlopsFitError, match="--at: needs --out"):
        run("predict", "--fit", fitted / "fit.json", "--at", "points.csv")


def test_predict_refuses_a_file_that_is_no_fit(fitted, tmp_path):
    other = tmp_path / "other.json"
    other.write_text("{}")
    with pytest.raises(FlopsFitError, match="not a fit"):
        run("predict", "--fit", other, "--flops", 1e20)


def test_bad_runs_leave_an_earlier_fit_untouched(fitted, tmp_path):
    out = tmp_path / "fit.json"
    out.write_text("kept")
    bad = tmp_path / "bad.csv"
    bad.write_text("params,tokens,loss\n1e8,2e9,nan\n")
    with pytest.raises(FlopsFitError, match="row 2, column 'loss'"):
        run("fit", "--runs", bad, "--out", out)
    assert out.read_text() == "kept"


@pytest.mark.seconds
def test_a_fixed_delta_fits_every_run_that_the_table_does_not_mark(tmp_path):
    frame = sweep(LAWS["besiroglu"], noise=0.003)
    frame.loc[20, "loss"] *= 1.5
    frame.to_csv(tmp_path / "runs.csv", index=False)
    for words, used in (((), 74), (("--delta", "1e-3"), 75), (("--exclude", "none"), 75)):
        run(
            "fit",
            "--runs",
            tmp_path / "runs.csv",
            "--out",
            tmp_path / "f.json",
            "--bootstrap",
            0,
            *words,
        )
        fit = json.loads((tmp_path / "f.json").read_text())
        assert fit["parametric"]["n_runs"] == used
    assert fit["excluded"]["with_them"] is None


def test_what_is_left_out_is_named_with_the_answer_it_would_give(tmp_path):
    frame = small_models()
    frame.loc[3, "loss"] *= 1.5
    frame.to_csv(tmp_path / "runs.csv", index=False)
    run("fit", "--runs", tmp_path / "runs.csv", "--out", tmp_path / "f.json", "--bootstrap", 0)
    left = json.loads((tmp_path / "f.json").read_text())["excluded"]
    assert left["count"] == 1
    assert left["runs"][0]["row"] == 5
    assert "robust scales" in left["runs"][0]["reason"]
    assert left["with_them"]["a"] > 0


def test_describing_the_commands_imports_nothing_heavy():
    code = (
        "import argparse, sys; from flops_fit.cli import fit, predict;"
        "p = argparse.ArgumentParser(); fit.add_arguments(p); p.format_help();"
        "p = argparse.ArgumentParser(); predict.add_arguments(p); p.format_help();"
        "print(sorted({'numpy', 'scipy', 'pandas', 'torch', 'matplotlib'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_fitting_imports_neither_torch_nor_matplotlib():
    code = (
        "import sys; from flops_fit.fit import fit_runs, predict, read_runs;"
        "print(sorted({'torch', 'matplotlib', 'accelerate'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_predict_tells_of_a_size_or_an_amount_of_data_of_ones_own(fitted, capsys):
    run("predict", "--fit", fitted / "fit.json", "--flops", 1e21, "--params", 1e10)
    text = capsys.readouterr().out
    run("predict", "--fit", fitted / "fit.json", "--flops", 1e21, "--params", 1e10, "--json")
    own = json.loads(capsys.readouterr().out)["own"]
    assert "with N = 10.0B, same C:" in text
    assert f"{own['loss']:.4f}" in text
    run("predict", "--fit", fitted / "fit.json", "--flops", 1e21, "--tokens", 1e9)
    assert "passes repeated data lose their value" in capsys.readouterr().out


def test_predict_tells_of_serving_and_its_verdict_counts(fitted, capsys):
    ask = ("predict", "--fit", fitted / "fit.json", "--flops", 1e20, "--serve", 1e17)
    run(*ask)
    text = capsys.readouterr().out
    assert "the same loss at the least cost, with 10¹⁷ tokens served: provisional" in text
    run(*ask, "--json")
    answer = json.loads(capsys.readouterr().out)
    assert f"{100 * answer['served']['saved']:.3g}% less than the optimum" in text
    assert answer["served"]["params"] < answer["params"]
    assert run(*ask, "--require", "trust") == 3


def test_the_help_of_predict_fits_one_screen():
    parser = argparse.ArgumentParser(prog="flops-fit predict")
    predict.add_arguments(parser)
    assert len(parser.format_help().splitlines()) <= 40


def test_a_size_of_ones_own_needs_a_budget(fitted):
    with pytest.raises(FlopsFitError, match="allowed: with --flops"):
        run("predict", "--fit", fitted / "fit.json", "--at", "p.csv", "--params", 1e9)


@pytest.mark.seconds
def test_one_command_makes_the_fit_the_figures_and_the_page(tmp_path, monkeypatch, capsys):
    from flops_fit.plots import FIGURES

    monkeypatch.chdir(tmp_path)
    frame = sweep(LAWS["besiroglu"], noise=0.003, sizes=5, budgets=4)
    named = {"params": "Model Size", "tokens": "train tokens", "loss": "val/loss"}
    frame.rename(columns=named)[list(named.values())].to_csv("my runs.csv", index=False)
    run(
        *("fit", "--runs", "my runs.csv", "--report", "a page", "--name", "My <runs>"),
        *("--bootstrap", 10, "--budgets", "1e20", "1e21"),
    )
    folder = tmp_path / "a page"
    made = {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}
    figures = {f"plots/{name}.{kind}" for name in FIGURES for kind in ("svg", "png", "csv")}
    assert made == figures | {"fit.json", "report.html", "table.md", "table.tex", "answer.txt"}
    assert "My &lt;runs&gt;" in (folder / "report.html").read_text()
    answers = (folder / "answer.txt").read_text()
    assert "| 10²⁰ |" in answers
    assert "| 10²¹ |" in answers
    capsys.readouterr()
    run("predict", "--fit", "a page/fit.json", "--flops", 1e21, "--json")
    answer = json.loads(capsys.readouterr().out)
    assert answer["params"] == pytest.approx(np.exp(log_optimum(LAWS["besiroglu"], 1e21)), rel=0.1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--out: missing; allowed: a file for the fit, or --report DIR"),
        (["--out", "f.json", "--name", "x"], "--name: allowed: with --report DIR"),
        (["--out", "f.json", "--budgets", 1e20], "--budgets: allowed: with --report DIR"),
        (["--report", "p", "--budgets", -1], "-1"),
    ],
)
def test_options_of_the_page_are_checked_before_the_fit(words, message):
    with pytest.raises(FlopsFitError, match=message):
        run("fit", "--runs", "nowhere.csv", *words)
