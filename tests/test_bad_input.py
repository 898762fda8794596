"""What every user gets wrong first: one readable message, before anything trains or is touched.

The rows go through the command line. The same through Snakemake: ``tests/workflow``.
"""

import hashlib
import os
from pathlib import Path

import pytest
import yaml

from flops_fit import workflow
from flops_fit.cli import main
from flops_fit.errors import FlopsFitError
from flops_fit.planner import make_plan

PARTS = """
import torch
from torch import nn
from torch.utils.data import Dataset

VOCABULARY = 16


class Net(nn.Module):
    def __init__(self, width, vocabulary=VOCABULARY):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens):
        return self.head(self.embedding(tokens))


def no_module(width):
    return width


def raising(width):
    raise RuntimeError("no such width")


class Tokens(Dataset):
    def __init__(self, items=200, rare=VOCABULARY - 1, file=None):
        text = open(file).read() if file else ""
        generator = torch.Generator().manual_seed(len(text))
        self.tokens = torch.randint(VOCABULARY, (items, 9), generator=generator)
        self.tokens[items // 2, 4] = rare

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        return self.tokens[index, :-1], self.tokens[index, 1:]


def inputs_only():
    return [torch.zeros(8, dtype=torch.long)] * 200


def example(items=200, rare=0):
    return torch.zeros(8, dtype=torch.long), torch.zeros(8, dtype=torch.long)


def loss(outputs, targets):
    return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def loss_of_each(outputs, targets):
    return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="none")


def nan_loss(outputs, targets):
    return loss(outputs, targets) * float("nan")


def no_optimizer(model, lr):
    return "adam"
"""
CONFIG = {
    "name": "bad",
    "model": {"factory": "parts:Net", "size_param": "width"},
    "dataset": {"factory": "parts:Tokens", "example": "parts:example"},
    "loss": {"function": "parts:loss"},
    "budgets": [1e6, 2e6],
    "sizes": {"values": [4, 8]},
    "batch": {"value": 64},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A user's folder with results that are already there."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "parts.py").write_text(PARTS)
    (folder / "broken.py").write_text("import torch\nimport surely_missing\n")
    (folder / "unparsable.py").write_text("def model(width:\n")
    for name in ("runs/old/record.json", "runs/old/result.json", "bad/fit.json", "bad/plan.csv"):
        path = folder / "results" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    return folder


@pytest.fixture
def here(folder, monkeypatch) -> Path:
    monkeypatch.chdir(folder)
    # The planner runs in a process of its own to keep torch out of Snakemake's; here it need not.
    monkeypatch.setattr(workflow, "_make_plan", make_plan)
    return folder


def contents(folder: Path) -> dict[str, tuple]:
    """Everything computed so far: hash and time of each file outside the plan's folder."""
    files = [p for p in folder.rglob("*") if p.is_file() and ".plan" not in p.parts]
    return {
        str(p): (hashlib.sha256(p.read_bytes()).hexdigest(), os.stat(p).st_mtime_ns)
        for p in files
    }  # fmt: skip


def refused(capsys, results: Path, *arguments: str) -> str:
    """Run a command that must end with one message and status 2, and touch nothing."""
    before = contents(results)
    assert main(list(arguments)) == 2
    printed = capsys.readouterr()
    assert contents(results) == before
    lines = printed.err.strip().splitlines()
    assert len(lines) == 1, printed.err
    assert lines[0].startswith("flops-fit: error: ")
    for noise in ("Traceback", "additionalProperties", "exclusiveMinimum", "$defs"):
        assert noise not in printed.err + printed.out
    return lines[0]


def with_model(**changes) -> dict:
    return {"model": {**CONFIG["model"], **changes}}


def with_data(**changes) -> dict:
    return {"dataset": {**CONFIG["dataset"], **changes}}


PLANNED = [
    ("misspelt key", {"bugdets": [1e6]}, "bugdets: unknown key; did you mean budgets?"),
    ("misspelt key further down", with_model(size_parm="width"),
     "model.size_parm: unknown key; did you mean model.size_param?"),
    ("unknown key", {"colour": "red"}, "colour: unknown key; allowed here: accept_failures, "),
    ("missing key", {"sizes": None, "model": {"size_param": "width"}},
     "model.factory: missing, and has no default"),
    ("wrong type", {"budgets": "many"}, "budgets: 'many' is not allowed; allowed: array"),
    ("a number for a rule", {"learning_rate": 0.1},
     "learning_rate: 0.1 is not allowed; allowed: object"),
    ("text for a number", {"budgets": ["1e6", "lots"]},
     "budgets.1: 'lots' is not allowed; allowed: number"),
    ("no budgets", {"budgets": []}, "budgets: [] is not allowed; allowed: at least 1 entries"),
    ("negative budget", {"budgets": [-1e6]},
     "budgets.0: -1000000.0 is not allowed; allowed: more than 0"),
    ("negative size", {"sizes": {"values": [-4]}},
     "sizes.values.0: -4 is not allowed; allowed: more than 0"),
    ("no import path", with_model(factory="parts.Net"),
     "parts.Net: not an import path; write 'package.module:callable'"),
    ("no such module", with_model(factory="prats:Net"), "prats:Net: no module named 'prats' in"),
    ("no such name", with_model(factory="parts:Nett"),
     "parts:Nett: parts has no 'Nett'; did you mean 'Net'?"),
    ("a module that does not import", with_model(factory="broken:Net"),
     "broken:Net: broken does not import: ModuleNotFoundError: No module named 'surely_missing'"),
    ("a module that does not parse", with_model(factory="unparsable:model"),
     "unparsable.py: does not parse: SyntaxError"),
    ("no such size parameter", with_model(size_param="depth"), "Net has no"),
    ("unknown model argument", with_model(kwargs={"heads": 2}),
     "model.kwargs: Net has no argument 'heads'; allowed: vocabulary"),
    ("a model that is none", with_model(factory="parts:no_module"),
     "model: no_module(width=4) returned a int, not a torch.nn.Module"),
    ("a model that raises", with_model(factory="parts:raising"), "RuntimeError: no such width"),
    ("unknown data argument", with_data(kwargs={"seq": 2}), "dataset.kwargs: "),
    ("missing source", with_data(sources=["none.txt"]),
     "dataset.sources: 'none.txt' does not exist"),
    ("missing package", with_data(sources=["package:surely-missing"]),
     "dataset.sources: package 'surely-missing' is not installed"),
    ("missing rule file", {"learning_rate": {"file": "none.json"}},
     "learning_rate.file: 'none.json' does not exist"),
    ("items that are no pairs", {"dataset": {"factory": "parts:inputs_only"}},
     "allowed: a pair (inputs, targets)"),
    ("missing data file", {"dataset": {"factory": "parts:Tokens", "kwargs": {"file": "none.txt"}}},
     "parts:Tokens: FileNotFoundError: [Errno 2] No such file or directory: 'none.txt'"),
    ("a loss of each target", {"loss": {"function": "parts:loss_of_each"}}, "scalar"),
    ("budgets below the floor of steps", {"budgets": [10, 20]},
     "budgets: no cell of the grid can be trained; the first: "),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"), [row[1:] for row in PLANNED], ids=[row[0] for row in PLANNED]
)
def test_a_config_that_cannot_be_planned_ends_with_one_message(here, capsys, change, message):
    config = {key: value for key, value in {**CONFIG, **change}.items() if value is not None}
    Path("bad.yaml").write_text(yaml.safe_dump(config))
    assert message in refused(capsys, here / "results", "plan", "--config", "bad.yaml")


CHECKED = [
    ("a token beyond the vocabulary", with_data(kwargs={"rare": 16}),
     "values 0 to 16): IndexError: index out of range"),
    ("a model with too small a vocabulary", with_model(kwargs={"vocabulary": 8}),
     "parts:Tokens: the model refuses a training batch (shape ("),
    ("a loss that is not a number", {"loss": {"function": "parts:nan_loss"}},
     "loss.function: nan_loss is nan on a real batch before any training"),
    ("no optimiser", {"optimizer": {"factory": "parts:no_optimizer"}}, "parts:no_optimizer: "),
    ("data shorter than a batch", {**with_data(kwargs={"items": 37}), "limits": {"max_epochs": 99}},
     "has 8 items, the training data 5; allowed: a batch that the data can fill"),
    ("too few items to hold some out", with_data(kwargs={"items": 20}),
     "parts:Tokens: 20 items are too few to hold 32 of them out"),
    ("more passes than allowed", {**with_data(kwargs={"items": 45})}, "limits.max_epochs: "),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"), [row[1:] for row in CHECKED], ids=[row[0] for row in CHECKED]
)
def test_data_that_do_not_fit_are_refused_before_any_training(here, capsys, change, message):
    Path("bad.yaml").write_text(yaml.safe_dump({**CONFIG, **change}))
    plan = str(here / "results/.plan/sweeps/bad.json")
    sweep = workflow.Sweep(yaml.safe_load(Path("bad.yaml").read_text()), "", lambda: False)
    assert sweep.experiments
    assert message in refused(capsys, here / "results", "check", "--plan", plan)
    assert not Path(sweep.plan["check"]).exists()


GOOD_RUNS = [f"{n},{d},{4 + n**-0.3 + d**-0.3}" for n in (10, 20, 40) for d in (100, 200)]
RUNS = [
    ("NaN", [*GOOD_RUNS, "80,100,nan"], "runs.csv: row 8, column 'loss': "),
    ("text", [*GOOD_RUNS, "80,many,4"], "runs.csv: row 8, column 'tokens': "),
    ("negative", [*GOOD_RUNS, "-80,100,4"], "runs.csv: row 8, column 'params': "),
    ("fewer points than unknowns", GOOD_RUNS[:4], "runs.csv: 4 runs to fit, fewer than the 5 unknowns"),
    ("no rows", [], "runs.csv: "),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "message"), [row[1:] for row in RUNS], ids=[r[0] for r in RUNS])
def test_a_table_that_cannot_be_fitted_leaves_an_earlier_fit_alone(here, capsys, rows, message):
    Path("runs.csv").write_text("\n".join(["params,tokens,loss", *rows]) + "\n")
    out = str(here / "results/bad/fit.json")
    arguments = ("fit", "--runs", "runs.csv", "--out", out, "--bootstrap", "0")
    assert message in refused(capsys, here / "results", *arguments)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("plan", "--config", "none.yaml"), "none.yaml"),
        (("fit", "--runs", "none.csv", "--out", "fit.json"), "none.csv"),
        (("predict", "--fit", "none.json", "--flops", "1e9"), "none.json"),
        (("train", "--spec", "results/.plan/specs/none.json", "--out", "result.json"), "none.json"),
        (("collect", "--plan", "none.json", "--json", "a.json", "--csv", "a.csv"), "none.json"),
    ],
)
def test_a_missing_file_is_named(here, capsys, arguments, name):
    message = refused(capsys, here / "results", *arguments)
    assert name in message
    assert "no such" in message


def test_the_planner_in_its_own_process_says_the_same(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    Path("bad.yaml").write_text(yaml.safe_dump({**CONFIG, **with_model(size_param="depth")}))
    apart = refused(capsys, folder / "results", "plan", "--config", "bad.yaml")
    from flops_fit.config import load_config

    with pytest.raises(FlopsFitError) as error:
        make_plan(load_config("bad.yaml"), "results", [os.getcwd()])
    assert apart == f"flops-fit: error: {error.value}"
