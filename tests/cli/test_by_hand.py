"""The whole path by hand, without Snakemake, as the help of each verb describes it."""

import csv
import json
import os
import sys
from pathlib import Path

import pytest
import yaml

from flops_fit.cli.main import main
from flops_fit.jobs import job
from flops_fit.plan import cache
from flops_fit.plan.planner import make_plan

MODULE = """\
import torch
from pathlib import Path
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset


class LM(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embedding, self.head = nn.Embedding(16, width), nn.Linear(width, 16)

    def forward(self, tokens):
        return self.head(self.embedding(tokens))


class Noisy(LM):
    def forward(self, tokens):
        x = self.embedding(tokens)
        return self.head(x + 0.1 * torch.randn_like(x))


def texts(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 16, (1500, 8), generator=generator)
    return x, torch.where(torch.rand(x.shape, generator=generator) < 0.25, x, -100)


def prepare(directory, sources):
    torch.save(texts(), Path(directory, "texts.pt"))


def example():
    x, _ = texts()
    return x[0], x[0]


def prepared(data_dir):
    return TensorDataset(*torch.load(Path(data_dir, "texts.pt")))


def masked():
    return TensorDataset(*texts())


def whole():
    x, _ = texts()
    return TensorDataset(x, x)


class Stream(IterableDataset):
    def __init__(self, make, count):
        self.x, self.y = make().tensors
        self.count = count

    def __iter__(self):
        return iter([(self.x[i], self.y[i]) for i in range(self.count)])


def stream(make="whole", count=700):
    return Stream(globals()[make], count), whole()
"""
PREPARED = {"factory": "byhand:prepared", "prepare": "byhand:prepare", "example": "byhand:example"}


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    (tmp_path / "byhand.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(cache, "_make_plan", make_plan)  # in this process instead of its own
    monkeypatch.delitem(sys.modules, "byhand", raising=False)
    for name, value in {"PROCESSES": 1, "GPUS": 0, "LAUNCHER": os.getppid()}.items():
        monkeypatch.setenv(f"FLOPS_FIT_{name}", str(value))
    return tmp_path


def sweep(dataset, **changes) -> str:
    config = {
        "name": "hand",
        "model": {"factory": "byhand:LM", "size_param": "width"},
        "dataset": dataset,
        "budgets": [3e6, 6e6],
        "sizes": {"values": [4, 8, 16]},
        "batch": {"value": 16},
        "learning_rate": {"value": 0.1},
        "evaluation": {"tokens": 64},
        "limits": {"max_epochs": 20},
        **changes,
    }
    Path("sweep.yaml").write_text(yaml.safe_dump(config))
    return "sweep.yaml"


def table(path: str) -> list[dict]:
    return list(csv.DictReader(Path(path).read_text().splitlines()))


def plan() -> dict:
    return json.loads(Path("results/.plan/sweeps/hand.json").read_text())


def test_prepare_check_train_collect_and_fit_take_what_plan_wrote(here, capsys):
    """On masked targets that prepare makes: what they keep is stated, or the check says it."""
    assert main(["plan", "--config", sweep(PREPARED)]) == 0
    kept = "results/.plan/sweeps/hand.json"
    assert f"wrote {kept}" in capsys.readouterr().out
    for verb in ("prepare", "check"):
        other = next(Path("results/.plan", {"prepare": "data", "check": "checks"}[verb]).iterdir())
        status = main([verb, "--plan", str(other)])
        assert status == (0 if verb == "prepare" else 2)
    error = capsys.readouterr().err
    assert "brings 1.992 kept targets on average" in error
    stated = PREPARED | {"per_item": {"targets": 1.992}}
    assert main(["plan", "--config", sweep(stated)]) == 0
    for verb in ("prepare", "check"):
        assert main([verb, "--plan", kept]) == 0
    for row in plan()["experiments"]:
        assert row["flops_counted"] == pytest.approx(row["compute_budget"], rel=0.02)
        assert row["batch_items"] == 8
        spec = f"results/.plan/specs/{row['experiment_id']}.json"
        assert job.main([spec, f"results/runs/{row['experiment_id']}/result.json", "results"]) == 0
    assert main(["collect", "--plan", kept, "--json", "r.json", "--csv", "r.csv"]) == 0
    assert main(["fit", "--runs", "r.csv", "--out", "fit.json", "--bootstrap", "0"]) == 0
    rows, records = table("r.csv"), json.loads(Path("r.json").read_text())
    assert len({row["experiment_id"] for row in rows}) == len(rows) == 6
    for row, record in zip(rows, records, strict=True):
        width = record["size_param_value"]
        spent = 8 * record["epochs"] * 1425 * 6 * 16 * width  # positions of all items, one matrix
        assert float(row["flops"]) == pytest.approx(spent)
        assert record["flops_counted"] == pytest.approx(spent)
        assert float(row["flops"]) == pytest.approx(float(row["budget"]), rel=0.08)
        assert record["flops_expected"] == pytest.approx(float(row["budget"]), rel=0.02)
        assert float(row["flops_per_token"]) == pytest.approx(spent / record["tokens_seen"])


@pytest.mark.parametrize(
    "dataset",
    [{"factory": "byhand:masked"}, {"factory": "byhand:stream", "kwargs": {"make": "masked"}}],
    ids=["a dataset", "a stream"],
)
def test_what_is_ignored_enters_the_identity_and_is_absent_elsewhere(here, dataset):
    for data, ignored in ((dataset, True), ({"factory": "byhand:whole"}, False)):
        made = make_plan_of(data)
        for row in made["experiments"]:
            spec = json.loads(Path(f"results/.plan/specs/{row['experiment_id']}.json").read_text())
            expected = spec["identity"].get("expected_items")
            assert expected == (row["steps"] * row["batch_items"] if ignored else None)
            assert ("flops_per_position" in spec["counts"]) is ignored
            assert not {"draws_when_evaluated"} & spec["identity"].keys()
            assert ("flops_per_position" in row) is ignored


def test_a_model_that_draws_when_it_is_evaluated_is_another_experiment_than_before(here):
    model = {"factory": "byhand:Noisy", "size_param": "width"}
    made = make_plan_of({"factory": "byhand:whole"}, model=model)
    for row in made["experiments"]:
        spec = json.loads(Path(f"results/.plan/specs/{row['experiment_id']}.json").read_text())
        assert spec["identity"]["draws_when_evaluated"] == "fixed"


def make_plan_of(dataset, **changes) -> dict:
    assert main(["plan", "--config", sweep(dataset, **changes)]) == 0
    return plan()


@pytest.mark.parametrize(
    ("dataset", "unique"),
    [
        ({"factory": "byhand:whole"}, 1425 * 8),
        ({"factory": "byhand:stream", "kwargs": {"count": 300}}, 300 * 8),
    ],
    ids=["a dataset", "a stream that ends"],
)
def test_the_plan_says_that_data_are_far_too_few(here, capsys, dataset, unique):
    made = make_plan_of(dataset, budgets=[1e9], sizes={"values": [16]})
    said = capsys.readouterr().out
    passes = made["experiments"][0]["num_tokens"] / unique
    assert f"needs {passes:.2f} passes over {unique} unique tokens" in said
    assert f" {passes:.2g} " in said  # in the column of epochs
    assert "`flops-fit check` refuses it" in said
    assert main(["check", "--plan", "results/.plan/sweeps/hand.json"]) == 2
    assert f"needs {passes:.2f} passes" in capsys.readouterr().err


def test_a_stream_longer_than_a_look_is_counted_by_the_check(here, capsys):
    made = make_plan_of({"factory": "byhand:stream"}, limits={"max_epochs": 2})
    assert "max_epochs" not in capsys.readouterr().out  # not known yet
    assert main(["check", "--plan", "results/.plan/sweeps/hand.json"]) == 2
    longest = max(row["num_tokens"] for row in made["experiments"])
    assert f"needs {longest / 5600:.2f} passes over 5600" in capsys.readouterr().err


@pytest.mark.parametrize("convention", ["counted", "6nd"])
def test_six_n_d_is_warned_of_where_budgets_mean_it(here, capsys, convention):
    make_plan_of({"factory": "byhand:masked"}, convention=convention)
    warned = "let budgets mean counted FLOPs" in capsys.readouterr().out
    assert warned is (convention == "6nd")


@pytest.mark.parametrize(("processes", "gpus", "priced"), [(1, 0, 1), (2, 0, 2), (2, 1, 1)])
def test_a_named_gpu_is_priced_as_one_for_each_process(here, capsys, processes, gpus, priced):
    resources = {"processes": processes, "gpus": gpus, "threads": 4}
    config = sweep({"factory": "byhand:whole"}, resources=resources)
    assert main(["plan", "--config", config, "--device", "H100", "--per-hour", "3"]) == 0
    said = capsys.readouterr().out
    assert "GPU hours" in said
    assert "FLOP/s per GPU" in said
    assert main(["plan", "--config", config, "--out", "plan.csv", "--device", "H100"]) == 0
    (row, *_) = table("plan.csv")
    assert float(row["device_hours"]) == pytest.approx(priced * float(row["seconds"]) / 3600)
