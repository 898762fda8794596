"""``config/smoke.yaml`` from an empty folder to the report, and what a workflow owes its readers."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from project import REPOSITORY

FIGURES = ("isoflop", "optima", "loss_curves", "surface")


def snakemake(work: Path, *arguments: str, config: Path, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "snakemake",
            *arguments,
            "--snakefile",
            str(REPOSITORY / "Snakefile"),
            "--directory",
            str(work),
            "--configfile",
            str(config),
        ],
        cwd=work,
        text=True,
        timeout=900,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        **options,
    )


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> Path:
    """A folder in which the smoke sweep has run; the text is found in the checkout."""
    work = tmp_path_factory.mktemp("smoke")
    done = snakemake(work, "--cores", "2", config=REPOSITORY / "config/smoke.yaml")
    assert done.returncode == 0, done.stdout
    return work


def test_the_smoke_sweep_leaves_every_promised_file(smoke):
    sweep = smoke / "results/smoke"
    for name in (
        "plan.csv",
        "plan.html",
        "plan.txt",
        "answer.txt",
        "results.json",
        "results.csv",
        "fit.json",
        "table.md",
        "table.tex",
        "report.html",
    ):
        assert (sweep / name).stat().st_size > 0, name
    for figure in FIGURES:
        for kind in ("svg", "png", "csv"):
            assert (sweep / "plots" / f"{figure}.{kind}").stat().st_size > 0, figure


def test_the_target_plan_prices_the_sweep_and_trains_nothing(tmp_path):
    done = snakemake(tmp_path, "plan", "--cores", "2", config=REPOSITORY / "config/smoke.yaml")
    assert done.returncode == 0, done.stdout
    assert "warning: 2 budgets: a power law" in done.stdout
    assert "CPU thread hours" in done.stdout
    made = {path.name for path in (tmp_path / "results/smoke").iterdir()}
    assert made == {"plan.csv", "plan.html", "plan.svg", "plan.txt", "logs"}
    assert (tmp_path / "results/smoke/plan.txt").read_text() in done.stdout
    assert not (tmp_path / "results/runs").exists()
    assert not (tmp_path / "results/data").exists()


def test_the_plan_of_a_trained_sweep_knows_the_passes_over_its_data(smoke):
    with (smoke / "results/smoke/plan.csv").open() as file:
        assert all(float(row["epochs"]) > 0 for row in csv.DictReader(file))


def test_plan_records_and_table_speak_of_the_same_experiments(smoke):
    sweep = smoke / "results/smoke"
    with (sweep / "plan.csv").open() as file:
        planned = {row["experiment_id"]: row for row in csv.DictReader(file)}
    records = {r["experiment_id"]: r for r in json.loads((sweep / "results.json").read_text())}
    with (sweep / "results.csv").open() as file:
        table = {row["experiment_id"]: row for row in csv.DictReader(file)}
    assert set(planned) == set(records) == set(table)
    assert len(planned) == 6
    for name, record in records.items():
        assert record["status"] == "completed"
        assert record["tokens_seen"] == int(planned[name]["tokens"])
        assert record["flops_counted"] == pytest.approx(float(planned[name]["flops_counted"]))
        assert float(table[name]["loss"]) == record["final_loss"]
        own = smoke / "results/runs" / name
        assert (own / "result.json").read_bytes() == (own / "record.json").read_bytes()
        assert (own / "train.log").exists()
        assert (own / "benchmark.tsv").exists()


def test_the_fit_is_of_all_runs_and_finite(smoke):
    fit = json.loads((smoke / "results/smoke/fit.json").read_text(), parse_constant=pytest.fail)
    assert fit["parametric"]["n_runs"] == 6
    assert fit["parametric"]["status"] in {"converged", "at_bound", "not_identifiable"}
    assert [b["flops"] for b in fit["isoflop"]["budgets"]] == pytest.approx([4e8, 8e8], rel=0.05)


def test_the_report_of_snakemake_is_one_file_with_the_figures(smoke):
    done = snakemake(smoke, "--report", "all.html", config=REPOSITORY / "config/smoke.yaml")
    assert done.returncode == 0, done.stdout
    page = (smoke / "all.html").read_text()
    for figure in FIGURES:
        assert f"results/smoke/plots/{figure}.svg" in page
    for table in ("report.html", "table.md", "plan.html", "plan.csv", "results.csv"):
        assert f"results/smoke/{table}" in page
    assert not re.search(r'<(?:script|link|img)[^>]+(?:src|href)="https?://', page)


def test_a_dry_run_of_a_planned_sweep_needs_no_torch(smoke, tmp_path):
    (smoke / "results/smoke/fit.json").rename(smoke / "fit.json")
    try:
        done = snakemake(
            smoke, "-n", config=REPOSITORY / "config/smoke.yaml", env=without_torch(tmp_path)
        )
    finally:
        (smoke / "fit.json").rename(smoke / "results/smoke/fit.json")
    assert done.returncode == 0, done.stdout
    assert re.search(r"^fit_law +1$", done.stdout, re.MULTILINE)
    assert not re.search(r"^train_run", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    "arguments", [["--lint"], ["--unlock"], pytest.param(["--list-rules"], marks=pytest.mark.slow)]
)
def test_a_broken_plug_in_keeps_nobody_from_looking_at_the_workflow(tmp_path, arguments):
    config = tmp_path / "broken.yaml"
    text = (REPOSITORY / "config/smoke.yaml").read_text()
    config.write_text(text.replace("flops_fit.examples.gpt:GPT", "surely_missing:Model"))
    done = snakemake(tmp_path, *arguments, config=config, env=without_torch(tmp_path))
    assert done.returncode == 0, done.stdout
    assert not (tmp_path / "results").exists()


CONFIRM = {
    "sweep": "demo",
    "fit": "0",
    "params": 1e4,
    "tokens": 1000,
    "loss": 2.0,
    "law": None,
    "run": None,
    "level": 0.9,
    "noise": 0.01,
    "noise_words": "",
    "method": "surface",
    "forecast": 2.0,
    "blind": True,
}
KINDS = {  # changes to the smoke sweep, and the rule that only such a sweep has
    "law": ({}, None),
    "rate": ({"learning_rate_factors": [0.5, 1, 2]}, "fit_learning_rate"),
    "rates": (
        {"learning_rate_factors": [0.5, 1, 2], "batch_factors": [0.5, 1, 2]},
        "fit_learning_rate",
    ),
    "confirmation": (
        {"confirm": CONFIRM, "budgets": [4e8], "sizes": {"per_budget": {4e8: [8]}}},
        "compare_confirmation",
    ),
}


@pytest.mark.parametrize(
    "kind",
    [
        "rates",
        "confirmation",
        pytest.param("law", marks=pytest.mark.slow),  # `make lint` lints the demo
        pytest.param("rate", marks=pytest.mark.slow),
    ],
)
def test_a_sweep_has_the_rules_of_its_kind_and_they_are_lint_clean(tmp_path, kind):
    change, rule = KINDS[kind]
    config = tmp_path / "sweep.yaml"
    known = yaml.safe_load((REPOSITORY / "config/smoke.yaml").read_text())
    config.write_text(yaml.safe_dump({**known, **change}))
    listed = snakemake(REPOSITORY, "--list-rules", config=config).stdout.split()
    special = {"fit_learning_rate", "compare_confirmation"} & {*listed}
    assert special == ({rule} if rule else set())
    done = snakemake(REPOSITORY, "--lint", config=config)
    assert done.returncode == 0
    assert "Congratulations, your workflow is in a good condition!" in done.stdout


def test_the_environment_of_the_rules_holds_every_dependency_of_the_package():
    metadata = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[<>=]", spec)[0] for spec in metadata["dependencies"]}
    conda = yaml.safe_load((REPOSITORY / "envs/flops-fit.yaml").read_text())["dependencies"]
    names = {"pytorch": "torch", "matplotlib-base": "matplotlib"}
    found = {re.split(r"[<>=]", spec)[0] for spec in conda}
    assert {names.get(name, name) for name in found} >= wanted


@pytest.mark.skipif(
    shutil.which("snakefmt", path=str(Path(sys.executable).parent)) is None,
    reason="snakefmt is not installed",
)
def test_the_workflow_is_formatted():
    snakefmt = Path(sys.executable).with_name("snakefmt")
    subprocess.run([snakefmt, "--check", "Snakefile", "workflow"], cwd=REPOSITORY, check=True)


def without_torch(folder: Path) -> dict[str, str]:
    """An environment in which an import of torch fails; ``folder`` takes what sees to it.

    No file of that name, which would be one that the plug-ins use, and the plan another.
    """
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}
