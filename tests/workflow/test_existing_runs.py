"""A table of runs that exist already is fitted, drawn and reported, and nothing is trained."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]


def run(folder: Path, *arguments: str) -> str:
    line = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(ROOT / "Snakefile"),
        "--directory",
        str(folder),
        "--cores",
        "2",
        *arguments,
    ]
    done = subprocess.run(line, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.docs  # a command of the README
def test_the_shipped_table_gives_an_answer_without_training(tmp_path):
    out = run(tmp_path, "--configfile", str(ROOT / "config" / "runs.yaml"))
    fit = json.loads((tmp_path / "results/existing/fit.json").read_text())
    assert fit["data"]["n_runs"] == 50
    assert fit["parametric"]["a"] == pytest.approx(0.465, abs=0.002)
    assert {b["status"] for b in fit["isoflop"]["budgets"]} == {"bracketed"}
    assert (tmp_path / "results/existing/report.html").exists()
    drawn = pd.read_csv(tmp_path / "results/existing/plots/sensitivity.csv")
    assert set(drawn["flops"]) == {7.29e12, 7.29e13, 7.29e14}  # as the config asks
    assert not any(word in out for word in ("train_run", "prepare_data", "check_inputs"))
    again = run(tmp_path, "-n", "--configfile", str(ROOT / "config" / "runs.yaml"))
    assert "Nothing to be done" in again


@pytest.mark.slow
def test_an_older_table_in_the_place_of_a_fitted_one_is_fitted(tmp_path):
    config, table = tmp_path / "own.yaml", tmp_path / "runs.csv"
    config.write_text("name: own\nruns: runs.csv\nfit: {bootstrap: 0}\n")
    lines = (ROOT / "docs/standard/results.csv").read_text().splitlines(keepends=True)
    table.write_text("".join(lines))
    line = ("results/own/fit.json", "--configfile", str(config))
    run(tmp_path, *line)
    assert "Nothing to be done" in run(tmp_path, "-n", *line)
    older = tmp_path / "older.csv"
    older.write_text("".join(lines[:-1]))
    os.utime(older, (0, 0))
    older.replace(table)
    assert "rule fit_law" in run(tmp_path, "-n", *line)


@pytest.mark.slow
@pytest.mark.skipif(
    "FLOPS_FIT_PUBLISHED_RUNS" not in os.environ, reason="FLOPS_FIT_PUBLISHED_RUNS is not set"
)
def test_a_published_table_gives_its_published_law(tmp_path):
    table = Path(os.environ["FLOPS_FIT_PUBLISHED_RUNS"], "hoffmann_epoch.csv").resolve()
    config = tmp_path / "published.yaml"
    config.write_text(
        f"name: published\nruns: {table}\nfit: {{delta: 1e-3, exclude: none, bootstrap: 100}}\n"
    )
    run(tmp_path, "--configfile", str(config))
    surface = json.loads((tmp_path / "results/published/fit.json").read_text())["parametric"]
    assert surface["objective"] == pytest.approx(1018.2740e-6, rel=1e-6)
    assert surface["n_runs"] == 240
