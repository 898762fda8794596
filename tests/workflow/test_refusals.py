"""Bad input through Snakemake: our own message, nothing trained, nothing touched, no traceback."""

import os
import re

import pytest
from project import SWEEP

NOISE = ("Traceback", "additionalProperties", "exclusiveMinimum", "$defs")


def contents(project) -> dict[str, int]:
    """Times of everything computed so far, outside the plan's folder."""
    files = [p for p in project.results.rglob("*") if p.is_file() and ".plan" not in p.parts]
    return {str(p): os.stat(p).st_mtime_ns for p in files}


def model(**changes) -> dict:
    return {"model": {**SWEEP["model"], **changes}}


BAD = {  # a config: (what is changed, a part of the message)
    "misspelt key": (
        {"bugdets": [1e5]},
        "flops-fit: error: bugdets: unknown key; did you mean budgets?",
    ),
    "no budgets": (
        {"budgets": []},
        "flops-fit: error: budgets: [] is not allowed; allowed: a list of",
    ),
    "no name": (model(factory="mymodel:Nett"), "mymodel has no 'Nett'; did you mean 'Net'?"),
    "no module": (model(factory="nomodel:Net"), "nomodel:Net: no module named 'nomodel' in"),
    "no size parameter": (model(size_param="depth"), "Net has no"),
    "processes without a GPU each": (
        {"seeds": [7], "resources": {"processes": 2, "gpus": 1}},
        "flops-fit: error: resources.processes: 2, but a run has 1 GPUs (from resources.gpus, or",
    ),
    "no source": (
        {"dataset": {**SWEEP["dataset"], "sources": ["none.txt"]}},
        "flops-fit: error: dataset.sources: 'none.txt' does not exist",
    ),
}
# Each in a place of its own; the others go the way of one of them, and tests/cli/test_bad_input.py
# holds what they say.
QUICK = ("misspelt key", "no size parameter", "processes without a GPU each")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(*row, id=name, marks=[] if name in QUICK else pytest.mark.slow)
        for name, row in BAD.items()
    ],
)
def test_a_bad_config_ends_snakemake_with_one_message(project, change, message):
    before = contents(project)
    project.configure(**change)
    done = project.run(succeeds=False)
    assert message in done.output
    assert done.output.count("flops-fit: error: ") == 1
    assert done.jobs == []
    assert not [noise for noise in NOISE if noise in done.output], done.output
    assert contents(project) == before


def test_a_key_given_twice_ends_snakemake_which_would_take_the_last(project):
    before = contents(project)
    path = project.work / "sweep.yaml"
    path.write_text(path.read_text() + "name: second\n")
    done = project.run(succeeds=False)
    assert re.search(
        r"flops-fit: error: \S+: name: given twice, on lines \d+ and \d+;", done.output
    )
    assert done.jobs == []
    assert contents(project) == before


def test_data_that_the_loss_refuses_end_the_sweep_before_it_trains(project):
    before = contents(project)
    table = (project.work / "points.csv").read_text()
    (project.work / "points.csv").write_text(table.replace(",3\n", ",4\n", 20))
    done = project.run(succeeds=False)
    assert "flops-fit: error: mydata:Points: the loss refuses a training batch" in done.output
    assert "values 0 to 4): IndexError: Target 4 is out of bounds" in done.output
    assert done.output.count("flops-fit: error: ") == 1
    assert done.rules <= {"check_inputs", "plan_sweep"}
    assert not [noise for noise in NOISE if noise in done.output], done.output
    after = contents(project)
    assert {p for p in after if after[p] != before.get(p)} <= {
        str(project.results / "own" / name)
        for name in ("plan.csv", "plan.html", "plan.svg", "plan.txt", "logs/plan.log")
    }


def test_a_number_from_the_command_line_is_read_as_one_and_checked_as_one(project):
    assert project.dry_run("--config", "limits={max_epochs: 2e1}").jobs == []
    done = project.run("--config", "limits={max_epochs: -1}", succeeds=False)
    assert "limits.max_epochs: -1 is not allowed; allowed: more than 0" in done.output


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("name: mine\nruns: none.csv\n", (), "flops-fit: error: runs: 'none.csv' does not exist"),
        (
            "name: mine\nruns: points.csv\n",
            ("plan",),
            "plan: there is nothing to plan, because the config names",
        ),
        pytest.param(
            "name: mine\nbudgets: [.nan]\n",
            (),
            "budgets.0: nan is not allowed; allowed: finite",
            marks=pytest.mark.slow,  # as a misspelt key
        ),
        (
            "name: mine\nruns: points.csv\n",
            ("-n", "--config", "seeds=-5"),
            "seeds: -5 is not allowed",
        ),
    ],
    ids=["missing table", "plan of a table", "NaN", "number for a list"],
)
def test_a_bad_table_target_or_number_ends_snakemake_with_one_message(
    project, text, arguments, message
):
    before = contents(project)
    (project.work / "own.yaml").write_text(text)
    done = project.run(*arguments, config="own.yaml", succeeds=False)
    assert message in done.output
    assert done.output.count("flops-fit: error: ") == 1
    assert done.jobs == []
    assert not [noise for noise in NOISE if noise in done.output], done.output
    assert contents(project) == before


def test_a_run_that_the_config_plans_no_longer_is_refused_by_its_check(project):
    old = sorted(project.results.glob("runs/*/result.json"))[0]
    project.configure(**model(kwargs={"bias": False}))
    done = project.run(str(old.relative_to(project.work)), succeeds=False)
    assert (
        "no sweep of this config has this check. What the runs asked for depend on" in done.output
    )
    assert "Traceback" not in done.output
    assert done.jobs == []
