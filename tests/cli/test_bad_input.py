"""What every user gets wrong first: one readable message, before anything trains or is touched.

Every row is driven through the real command. `docs/bad_input.md` is the table of all rows; the last
test holds it to them, and prints it (``pytest -rP``). The same through Snakemake: ``tests/workflow``.
"""

import ctypes
import hashlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from flops_fit import workflow
from flops_fit.cli.main import main
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import run_folder, spec_file
from flops_fit.files import write_json
from flops_fit.jobs import job
from flops_fit.plan import cache
from flops_fit.plan.planner import make_plan
from flops_fit.store.records import seal

PARTS = """
import os
import signal

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


def prepare(directory, sources):
    pass


def loss(outputs, targets):
    if os.environ.pop("STOP", ""):
        os.kill(os.getpid(), signal.SIGTERM)
    return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def loss_of_each(outputs, targets):
    return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="none")


def nan_loss(outputs, targets):
    return loss(outputs, targets) * float("nan")


def negative_loss(outputs, targets):
    return loss(outputs, targets) - 100


def lost_targets():
    return [(torch.zeros(8, dtype=torch.long), torch.full((8,), float("nan")))] * 200


def number_loss(outputs, targets):
    return (outputs.mean(-1) - targets).square().mean()


def no_optimizer(model, lr):
    return "adam"


def raising_rule(params, tokens, size):
    return 1 / 0


def text_rule(params, tokens, size):
    return "0.1"
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
DONE = {**CONFIG, "name": "done", "budgets": [1e6, 2e6, 4e6], "sizes": {"values": [4, 8, 16]}}
NOISE = ("Traceback", "additionalProperties", "exclusiveMinimum", "$defs", "np.float64")
Content = str | bytes | Callable[[bytes], bytes] | None  # a function changes the file as it was


@dataclass(frozen=True)
class Row:
    """One bad input: ``files`` are written (None: deleted) before ``command`` is run.

    ``{plan}``, ``{spec}`` and the like stand for the finished sweep's files, see `names`.
    """

    group: str
    what: str
    command: str
    message: str
    files: dict[str, Content] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    status: int = 2


# ------------------------------------------------------------------------------------ configs


def with_model(**changes) -> dict:
    return {"model": {**CONFIG["model"], **changes}}


def with_data(**changes) -> dict:
    return {"dataset": {**CONFIG["dataset"], **changes}}


def text_of(change: dict) -> str:
    return yaml.safe_dump({k: v for k, v in {**CONFIG, **change}.items() if v is not None})


def config(group: str, what: str, change: dict | Content, message: str, **files: Content) -> Row:
    text = text_of(change) if isinstance(change, dict) else change
    files = {name.replace("__", "."): content for name, content in files.items()}
    return Row(group, what, "plan --config bad.yaml", message, {"bad.yaml": text, **files})


def dated(text: str) -> str:
    """The config with a model argument that YAML, but no JSON, can hold."""
    return text_of({}).replace("model:\n", f"model:\n  kwargs: {{vocabulary: {text}}}\n")


KEYS = [
    ("a misspelt key", {"bugdets": [1e6]}, "bugdets: unknown key; did you mean budgets?"),
    (
        "a misspelt key further down",
        with_model(size_parm="width"),
        "model.size_parm: unknown key; did you mean model.size_param?",
    ),
    ("an unknown key", {"colour": "red"}, "colour: unknown key; allowed here: accept_failures, "),
    (
        "a missing key",
        {"sizes": None, "model": {"size_param": "width"}},
        "model.factory: missing, and it has no default (Import path, package.module:callable, of a class",
    ),
    ("no name", {"name": None}, "name: missing, and it has no default"),
    ("a name that is a path", {"name": "../up"}, "name: '../up' is not allowed; allowed: letters"),
    ("a section left empty", {"model": {}}, "model.factory: missing, and it has no default"),
    (
        "runs together with a model",
        {"runs": "runs.csv"},
        "model: cannot be combined with runs, which trains nothing; remove one of them",
    ),
    (
        "a comparison together with a model",
        {"compare": {"reference": "a.yaml", "candidate": "b.yaml"}},
        "model: cannot be combined with compare, because each arm has its own config",
    ),
    (
        "preparation without an example",
        {"dataset": {"factory": "parts:Tokens", "prepare": "parts:prepare"}},
        "dataset.example: missing; allowed: the import path of a callable that returns one",
    ),
]
VALUES = [
    (
        "a wrong type",
        {"budgets": "many"},
        "budgets: 'many' is not allowed; allowed: a number or a list",
    ),
    (
        "a list for a rule",
        {"learning_rate": [0.1]},
        "learning_rate: [0.1] is not allowed; allowed: a number or a mapping of keys",
    ),
    (
        "text for a number",
        {"budgets": ["1e6", "lots"]},
        "budgets.1: 'lots' is not allowed; allowed: a number",
    ),
    (
        "a store for checkpoints without a protocol",
        {"resources": {"checkpoint_store": "bucket"}},
        "resources.checkpoint_store: 'bucket' is not allowed; allowed: a text such as s3://",
    ),
    ("true for a number", {"budgets": [True]}, "budgets.0: True is not allowed; allowed: a number"),
    (
        "no budgets",
        {"budgets": []},
        "budgets: [] is not allowed; allowed: a list of at least 1 entry",
    ),
    (
        "a negative budget",
        {"budgets": [-1e6]},
        "budgets.0: -1000000.0 is not allowed; allowed: more than 0",
    ),
    ("NaN", {"budgets": [float("nan")]}, "budgets.0: nan is not allowed; allowed: finite numbers"),
    (
        "a budget beyond all computers",
        {"budgets": [1e300]},
        "budgets.0: 1e+300 is not allowed; allowed: 1e+40 or less",
    ),
    (
        "a budget twice",
        {"budgets": [1e6, "1e6"]},
        "budgets: 1e+06 is given twice; allowed: each budget once",
    ),
    (
        "a negative size",
        {"sizes": {"values": [-4]}},
        "sizes.values.0: -4 is not allowed; allowed: more than 0",
    ),
    (
        "two ways to give sizes",
        {"sizes": {"values": [4], "window": {}}},
        "sizes: ['values', 'window'] given; allowed: exactly one of values, per_budget, window",
    ),
    (
        "sizes for no budget",
        {"sizes": {"per_budget": {"1e6": [4], "2e6": [4], "3e6": [4]}}},
        "sizes.per_budget.3e+06: not a budget; allowed: 1e+06, 2e+06",
    ),
    (
        "a budget without sizes",
        {"sizes": {"per_budget": {"1e6": [4]}}},
        "sizes.per_budget: no sizes for the budget 2e+06; allowed: a list of sizes",
    ),
    ("a seed twice", {"seeds": [0, 0]}, "seeds: [0, 0] is not allowed; allowed: each entry once"),
    (
        "a seed beyond 32 bits",
        {"seeds": [1 << 40]},
        "seeds.0: 1099511627776 is not allowed; allowed: 4294967295 or less",
    ),
    (
        "an unknown schedule",
        {"schedule": {"kind": "cosin"}},
        "schedule.kind: 'cosin' is not allowed; allowed: linear, cosine, wsd, constant",
    ),
    (
        "a warm-up of everything",
        {"schedule": {"warmup": 1}},
        "schedule.warmup: 1 is not allowed; allowed: less than 1",
    ),
    (
        "an unknown precision",
        {"precision": "fp8"},
        "precision: 'fp8' is not allowed; allowed: no, bf16, fp16",
    ),
    (
        "an unknown estimator",
        {"fit": {"method": "best"}},
        "fit.method: 'best' is not allowed; allowed: auto, surface, tied, isoflop, envelope",
    ),
    (
        "a figure of too few dots",
        {"plot": {"dpi": 10}},
        "plot.dpi: 10 is not allowed; allowed: 50 or more",
    ),
    (
        "a batch larger than any budget",
        {"batch": {"value": 1e9}},
        "budgets: no cell of the grid can be trained; the first: 0 steps of 1.25e+08 items",
    ),
    (
        "budgets below the floor of steps",
        {"budgets": [10, 20]},
        "budgets: no cell of the grid can be trained; the first: ",
    ),
    (
        "a date as an argument",
        dated("2020-01-01"),
        "model.kwargs.vocabulary: datetime.date(2020, 1, 1) is not allowed; allowed: numbers, text",
    ),
    (
        "a set as an argument",
        dated("!!set {a}"),
        "model.kwargs.vocabulary: {'a'} is not allowed; allowed: numbers, text",
    ),
    (
        "a number as an argument's name",
        with_model(kwargs={1: 2}),
        "model.kwargs: the key 1 is not allowed; allowed: text",
    ),
]
CONFIG_FILES = [
    ("an empty config", "", "bad.yaml: an empty file is not a config; allowed: a mapping of keys"),
    (
        "a list for a config",
        "- 1\n",
        "bad.yaml: a list is not a config; allowed: a mapping of keys",
    ),
    ("broken YAML", "budgets: [1e6\n", "bad.yaml: not valid YAML: "),
    (
        "a key given twice",
        "name: a\nseeds: [0]\nname: b\n",
        "bad.yaml: name: given twice, on lines 1 and 3; allowed: each key once",
    ),
    (
        "a key given twice further in",
        "name: a\nmodel:\n  kwargs: {a: 1,\n    a: 2}\n",
        "bad.yaml: model.kwargs.a: given twice, on lines 3 and 4; allowed: each key once",
    ),
    (
        "a budget given twice in two spellings",
        text_of({"sizes": None}) + "sizes: {per_budget: {1e6: [4], 1000000: [8], 2e6: [4]}}\n",
        "bad.yaml: sizes.per_budget: ['1e6', 1000000, '2e6'] name a budget twice; allowed: each",
    ),
    ("a tab in YAML", "model:\n\tfactory: parts:Net\n", "bad.yaml: not valid YAML: "),
    (
        "a Python object in YAML",
        "name: !!python/object:os.system [1]\n",
        "bad.yaml: not valid YAML: could not determine a constructor for the tag",
    ),
    ("a thirteenth month", "name: 2020-13-01\n", "bad.yaml: not valid YAML: month must be in"),
    (
        "a config in Latin-1",
        "name: é\n".encode("latin-1"),
        "bad.yaml: not valid YAML: 'utf-8' codec",
    ),
    ("brackets without end", "name: " + "[" * 1200, "bad.yaml: not valid YAML: "),
    (
        "a list that holds itself",
        text_of({}) + "answer: {budgets: &a [*a]}\n",
        ": nested too deep; allowed: 50 levels",
    ),
]

# ----------------------------------------------------------------------------------- plug-ins

PLUGINS = [
    (
        "no import path",
        with_model(factory="parts.Net"),
        "parts.Net: not an import path; allowed: 'package.module:callable'",
    ),
    ("no such module", with_model(factory="prats:Net"), "prats:Net: no module named 'prats' in"),
    (
        "no such name",
        with_model(factory="parts:Nett"),
        "parts:Nett: parts has no 'Nett'; did you mean 'Net'?",
    ),
    (
        "nothing that can be called",
        with_model(factory="parts:VOCABULARY"),
        "parts:VOCABULARY: cannot be called, its type is int",
    ),
    (
        "a module that cannot be imported",
        with_model(factory="broken:Net"),
        "broken:Net: broken cannot be imported: ModuleNotFoundError: No module named 'surely_missing'",
    ),
    (
        "a module that does not parse",
        with_model(factory="unparsable:model"),
        "unparsable.py: does not parse: SyntaxError",
    ),
    (
        "a module name longer than a file's may be",
        with_model(factory=f"{'m' * 300}:Net"),
        ":Net: no module named 'mmmm",
    ),
    (
        "no such size parameter",
        with_model(size_param="depth"),
        "model: Net has no argument 'depth', which flops-fit sets; allowed: width, vocabulary",
    ),
    (
        "no size parameter, and no argument that stands out",
        {"model": {"factory": "parts:Net", "kwargs": {"width": 4}}},
        "model.size_param: missing, and parts:Net requires no argument, so none stands out as the size; "
        "allowed: one of its arguments, vocabulary",
    ),
    (
        "an unknown model argument",
        with_model(kwargs={"heads": 2}),
        "model.kwargs: Net has no argument 'heads'; allowed: vocabulary",
    ),
    (
        "the size among the arguments",
        with_model(kwargs={"width": 3}),
        "model.kwargs: 'width' is set by flops-fit; leave it out",
    ),
    (
        "a model that is none",
        with_model(factory="parts:no_module"),
        "model: no_module(width=4) returned a int, not a torch.nn.Module",
    ),
    ("a model that raises", with_model(factory="parts:raising"), "RuntimeError: no such width"),
    (
        "a size that the model cannot take",
        {"sizes": {"values": [4.5]}},
        "model: Net(width=4.5) cannot be built: TypeError",
    ),
    ("a size beyond any memory", {"sizes": {"values": [10**30]}}, " cannot be built: TypeError"),
    ("a loss of each target", {"loss": {"function": "parts:loss_of_each"}}, "scalar"),
    (
        "an optimiser's argument that flops-fit sets",
        {"optimizer": {"kwargs": {"lr": 1}}},
        "optimizer.kwargs: 'lr' is set by flops-fit; leave it out",
    ),
    (
        "no such preparation",
        with_data(prepare="parts:prepair"),
        "parts:prepair: parts has no 'prepair'; did you mean 'prepare'?",
    ),
    (
        "an unknown argument of the preparation",
        with_data(prepare="parts:prepare", prepare_kwargs={"words": 3}),
        "dataset.prepare_kwargs: prepare has no argument 'words'; allowed: none",
    ),
    (
        "a tracker that is not installed",
        {"resources": {"log_with": "nowhere"}},
        "resources.log_with: 'nowhere' is not installed here, or no tracker of accelerate; allowed: ",
    ),
]
RULES = [
    (
        "a rule with two sources",
        {"batch": {"value": 64, "function": "parts:example"}},
        "batch: ['function', 'value'] given; allowed: exactly one of value, function, file",
        {},
    ),
    (
        "a power without a reference",
        {"batch": {"value": 64, "params": {"power": 2}}},
        "batch.params.reference: missing, and it has no default",
        {},
    ),
    (
        "a rule that overflows",
        {"batch": {"value": 64, "params": {"reference": 1e-300, "power": 5}}},
        "batch: the rule gave inf; allowed: a positive number",
        {},
    ),
    (
        "a rule of other arguments",
        {"learning_rate": {"function": "parts:no_optimizer"}},
        "learning_rate: no_optimizer has no argument 'params', which flops-fit sets",
        {},
    ),
    (
        "a rule that raises",
        {"learning_rate": {"function": "parts:raising_rule"}},
        "parts:raising_rule: ZeroDivisionError: division by zero (",
        {},
    ),
    (
        "a rule that gives text",
        {"learning_rate": {"function": "parts:text_rule"}},
        "learning_rate: the rule gave '0.1'; allowed: a positive number",
        {},
    ),
    (
        "a missing rule file",
        {"learning_rate": {"file": "none.json"}},
        "learning_rate.file: 'none.json' does not exist",
        {},
    ),
    (
        "a rule file without a value",
        {"learning_rate": {"file": "rule.json"}},
        "rule.json: no positive number under 'value'; allowed: a rule as learning_rate takes it",
        {"rule__json": "{}"},
    ),
    (
        "a rule file with half a power law",
        {"learning_rate": {"file": "rule.json"}},
        "rule.json: params: 3; allowed: a positive reference and a power",
        {"rule__json": '{"value": 0.1, "params": 3}'},
    ),
]

# --------------------------------------------------------------------------------------- data

DATA = [
    (
        "an unknown data argument",
        with_data(kwargs={"seq": 2}),
        "dataset.kwargs: example has no argument 'seq'; allowed: items, rare",
    ),
    (
        "a missing source",
        with_data(sources=["none.txt"]),
        "dataset.sources: 'none.txt' does not exist",
    ),
    (
        "a missing package",
        with_data(sources=["package:surely-missing"]),
        "dataset.sources: package 'surely-missing' is not installed",
    ),
    (
        "a package without a name",
        with_data(sources=["package:"]),
        "dataset.sources: package '' is not installed",
    ),
    ("an empty source", with_data(sources=[""]), "dataset.sources: '' does not exist below"),
    (
        "the results among the sources",
        with_data(sources=["."]),
        "dataset.sources, or what a plug-in uses: changed while the sweep was planned",
    ),
    (
        "items that are no pairs",
        {"dataset": {"factory": "parts:inputs_only"}},
        "allowed: a pair (inputs, targets)",
    ),
    (
        "an example that is no pair",
        with_data(example="parts:inputs_only"),
        "dataset.example: parts:inputs_only returned list; allowed: a pair (inputs, targets)",
    ),
    (
        "a missing data file",
        {"dataset": {"factory": "parts:Tokens", "kwargs": {"file": "none.txt"}}},
        "parts:Tokens: FileNotFoundError: [Errno 2] No such file or directory: 'none.txt'",
    ),
]
CHECKED = [
    (
        "a token beyond the vocabulary",
        with_data(kwargs={"rare": 16}),
        "values 0 to 16): IndexError: index out of range",
    ),
    (
        "a model with too small a vocabulary",
        with_model(kwargs={"vocabulary": 8}),
        "parts:Tokens: the model refuses a training batch (shape (",
    ),
    (
        "a loss that is not a number",
        {"loss": {"function": "parts:nan_loss"}},
        "loss.function: nan_loss is nan on a real batch before any training",
    ),
    (
        "a loss below zero",
        {"loss": {"function": "parts:negative_loss"}},
        "on a real batch before any training; allowed: a loss that stays above zero",
    ),
    (
        "targets that are not finite",
        {"dataset": {"factory": "parts:lost_targets"}, "loss": {"function": "parts:number_loss"}},
        "parts:lost_targets: training targets have values that are not finite; allowed: finite numbers",
    ),
    ("no optimiser", {"optimizer": {"factory": "parts:no_optimizer"}}, "parts:no_optimizer: "),
    (
        "a misspelt optimiser argument",
        {"optimizer": {"kwargs": {"mommentum": 1}}},
        "flops_fit.optimizer:adamw: TypeError: ",
    ),
    (
        "data shorter than a batch",
        {**with_data(kwargs={"items": 37}), "limits": {"max_epochs": 99}},
        "has 8 items, the training data 5; allowed: a batch that the data can fill",
    ),
    (
        "too few items to hold some out",
        with_data(kwargs={"items": 20}),
        "parts:Tokens: 20 items are too few to hold out 32 of them",
    ),
    (
        "more passes than allowed",
        {**with_data(kwargs={"items": 45})},
        "larger sizes or more data; `snakemake plan --cores 1` shows what each run costs",
    ),
]

# ---------------------------------------------------------------------------- tables of runs

GOOD = [f"{n},{d},{4 + n**-0.3 + d**-0.3}" for n in (10, 20, 40) for d in (100, 200)]
HEAD = "params,tokens,loss"


def table(*more: str, head: str = HEAD, good: list[str] = GOOD) -> str:
    return "\n".join([head, *good, *more]) + "\n"


def with_column(name: str, value: str) -> str:
    return table(head=f"{HEAD},{name}", good=[f"{row},{value}" for row in GOOD])


def runs_json(**changes) -> str:
    rows = [dict(zip(HEAD.split(","), map(float, row.split(",")), strict=True)) for row in GOOD]
    return json.dumps([{**row, **changes} for row in rows])


FIT = "fit --runs {} --out results/done/fit.json --bootstrap 0"
TABLES = [
    ("NaN", table("80,100,nan"), "runs.csv: row 8, column 'loss': empty, or not a number"),
    ("text", table("80,many,4"), "runs.csv: row 8, column 'tokens': 'many'"),
    ("a negative number", table("-80,100,4"), "runs.csv: row 8, column 'params': -80; allowed"),
    ("zero", table("80,0,4"), "runs.csv: row 8, column 'tokens': 0; allowed: a positive finite"),
    (
        "decimal commas beside points",
        table('80,"1,5",4', "80,1.5,4"),
        "runs.csv: row 8, column 'tokens': '1,5'; allowed",
    ),
    (
        "a loss below zero",
        table("80,100,-4"),
        "the law takes the logarithm of the loss: leave such runs out",
    ),
    (
        "params in millions beside FLOPs",
        table(head=f"{HEAD},flops", good=[f"{row},{6e9 * (i + 1)}" for i, row in enumerate(GOOD)]),
        "allowed: 1 to 100, about 6 for a transformer and tokens",
    ),
    (
        "numbers that overflow",
        table("1e308,1e308,4"),
        "runs.csv: row 8, column 'params': 1e+308; allowed: a positive finite number from",
    ),
    ("an empty cell", table("80,,4"), "runs.csv: row 8, column 'tokens': empty"),
    ("a row that is too short", table("80,100"), "runs.csv: row 8, column 'loss': empty"),
    (
        "a row that is too long",
        table("1,2,3,4,5"),
        "runs.csv: not a readable CSV table (Error tokenizing data. C error: Expected 3 fields in line 8",
    ),
    (
        "all rows longer than the header",
        table(good=[f"{row},7" for row in GOOD]),
        "runs.csv: the first row has more fields than the header; allowed: a name for each column",
    ),
    (
        "spaces between columns",
        table().replace(",", " "),
        "(fit.loss); columns must be separated by commas, semicolons or tabs",
    ),
    (
        "no column of losses",
        table(head="params,tokens,x"),
        "runs.csv: no column for the loss; found",
    ),
    (
        "no column of N",
        table(head="x,tokens,loss"),
        "runs.csv: no column for params, and no other two of params, tokens, flops to derive it from",
    ),
    ("a column twice", table(head="loss,tokens,loss"), "runs.csv: column 'loss' stands twice"),
    (
        "fewer points than unknowns",
        table(good=GOOD[:4]),
        "runs.csv: 4 runs to fit, fewer than the 5 parameters",
    ),
    ("no rows", table(good=[]), "runs.csv: no runs in it; at least one row is needed"),
    ("an empty table", "", "runs.csv: not a readable CSV table (No columns to parse from file)"),
    (
        "a workbook under the name of a CSV",
        b"PK\x03\x04",
        "runs.csv: a workbook of a spreadsheet is not read; save the table as CSV",
    ),
    (
        "a header further down",
        f"My runs,,\n{table()}",
        "runs.csv: no column for the loss; found My runs, Unnamed: 1, Unnamed: 2; allowed: loss,",
    ),
    ("a budget in dollars", with_column("budget", "20"), "runs.csv: row 2: C / (N D) ="),
    (
        "logarithms of the loss",
        table(head="params,tokens,log10_loss"),
        "(fit.loss); logarithms are not read ('log10_loss'): add columns of the numbers themselves",
    ),
    ("no table at all", bytes(range(256)), "runs.csv: not a readable CSV table ("),
    (
        "a flag that is none",
        with_column("outlier", "maybe"),
        "runs.csv: row 2, column 'outlier': 'maybe'; allowed: true or false",
    ),
    (
        "nothing but outliers",
        with_column("outlier", "true"),
        "runs.csv: all 6 runs are left out as outlier; nothing to fit",
    ),
    ("a negative budget", with_column("budget", "-1"), "runs.csv: row 2, column 'budget': -1"),
    (
        "a count that is none",
        with_column("params_total", "many"),
        "runs.csv: row 2, column 'params_total': 'many'; allowed: a positive finite number or 0",
    ),
    (
        "FLOPs of some runs only",
        table(head=f"{HEAD},flops", good=[f"{GOOD[0]},1e6", *(f"{row}," for row in GOOD[1:])]),
        "runs.csv: row 3, column 'flops': empty; fill it for every run or for none",
    ),
]
JSON_TABLES = [
    ("JSON that is no list", '{"runs": 3}', "runs.json: expected a JSON list of runs, one object"),
    ("broken JSON", "[{", "runs.json: not valid JSON ("),
    (
        "an integer beyond a float",
        runs_json(params=10**400),
        "runs.json: row 1, column 'params': 1000",
    ),
]
RATES = "size,params,tokens,budget,learning_rate,loss,status\n"
RATE = "rate --runs rates.csv --out results/done/rate.json"
OTHER_TABLES = [
    (
        "a folder without tables",
        FIT.format("notes"),
        "notes: no tables in this folder; allowed: files",
        {"notes/readme.md": "none"},
    ),
    (
        "a spreadsheet",
        FIT.format("runs.xlsx"),
        "runs.xlsx: a .xlsx file is not read; save the table as",
        {"runs.xlsx": "x"},
    ),
    (
        "broken JSON Lines",
        FIT.format("runs.jsonl"),
        "runs.jsonl: not valid JSON (",
        {"runs.jsonl": "{}\n{\n"},
    ),
    (
        "a loss column that is not there",
        FIT.format("runs.csv") + " --loss nll",
        "runs.csv: loss column 'nll' is not there; found params, tokens, loss",
        {"runs.csv": table()},
    ),
    (
        "a column to choose by that is not there",
        FIT.format("runs.csv") + " --where data=c4",
        "runs.csv: where: column 'data' is not there; found",
        {"runs.csv": table()},
    ),
    (
        "a value that no row has",
        FIT.format("runs.csv") + " --where data=c4",
        "runs.csv: where: no row has data=c4; found pile",
        {"runs.csv": with_column("data", "pile")},
    ),
    (
        "a choice without a value",
        FIT.format("runs.csv") + " --where data",
        "where: 'data'; allowed: COLUMN=VALUE",
        {"runs.csv": table()},
    ),
    (
        "no passes at all",
        FIT.format("runs.csv") + " --max-epochs 0",
        "max_epochs: 0.0; allowed: a positive number",
        {"runs.csv": table()},
    ),
    (
        "loss curves without FLOPs",
        FIT.format("runs.csv") + " --curves curves.csv",
        "curves.csv: loss curves lack the column 'flops'",
        {"curves.csv": "run_id,tokens,loss\na,1,2\n"},
    ),
    (
        "text in a loss curve",
        FIT.format("runs.csv") + " --curves curves.csv",
        "curves.csv: row 2, column 'tokens': 'x'",
        {"curves.csv": "run_id,tokens,flops,loss\na,x,1,2\n"},
    ),
    (
        "rates without a column",
        RATE,
        "rates.csv: no column 'params'; needed: params, tokens",
        {"rates.csv": "a,b\n1,2\n"},
    ),
    (
        "a learning rate of zero",
        RATE,
        "rates.csv: row 2, column 'learning_rate': 0; allowed",
        {"rates.csv": RATES + "4,10,100,1e6,0,3,completed\n"},
    ),
    (
        "one learning rate",
        RATE,
        "learning_rate_factors: no cell brackets its best rate",
        {"rates.csv": RATES + "4,10,100,1e6,0.1,3,completed\n"},
    ),
    (
        "points without D",
        "predict --fit {fit} --at points.csv --out results/done/p.csv",
        "points.csv: no column 'tokens'; needed: params, tokens",
        {"points.csv": "params\n1\n"},
    ),
    (
        "no points",
        "predict --fit {fit} --at points.csv --out results/done/p.csv",
        "points.csv: no points in it; at least one row is needed",
        {"points.csv": "params,tokens\n"},
    ),
]

# ------------------------------------------------------ files that the steps hand to each other


def changed(**changes) -> Callable[[bytes], bytes]:
    return lambda old: json.dumps({**json.loads(old), **changes}).encode()


def resealed(**changes) -> Callable[[bytes], bytes]:
    def change(old: bytes) -> bytes:
        record = {key: value for key, value in json.loads(old).items() if key != "checksum"}
        return json.dumps(seal({**record, **changes})).encode()

    return change


def without(old: bytes, key: str) -> bytes:
    record = {k: v for k, v in json.loads(old).items() if k not in (key, "checksum")}
    return json.dumps(seal(record)).encode()


def cut(old: bytes) -> bytes:
    return old[: len(old) // 2]


COLLECT = "collect --plan {plan} --json results/done/results.json --csv results/done/results.csv"
TRAIN = "train --spec {spec} --out {result}"
HANDED = [
    ("a result cut short", COLLECT, "result.json: not a whole JSON record", {"{result}": cut}),
    ("an empty result", COLLECT, "result.json: not a whole JSON record", {"{result}": b""}),
    (
        "a result edited by hand",
        COLLECT,
        "result.json: its checksum does not match its content",
        {"{result}": changed(final_loss=0.1)},
    ),
    (
        "the result of another experiment",
        COLLECT,
        "result.json: it belongs to 'other'",
        {"{result}": resealed(experiment_id="other")},
    ),
    (
        "a result under another hash",
        COLLECT,
        "result.json: its hash is not that of the planned experiment",
        {"{result}": resealed(hash="0")},
    ),
    (
        "a result of fewer tokens",
        COLLECT,
        "result.json: trained on 5 tokens, planned ",
        {"{result}": resealed(tokens_seen=5)},
    ),
    (
        "a result whose tokens are text",
        COLLECT,
        "result.json: tokens_seen: '5'; expected a number",
        {"{result}": resealed(tokens_seen="5")},
    ),
    (
        "a result without a field",
        COLLECT,
        "result.json: reason: missing; expected text",
        {"{result}": lambda old: without(old, "reason")},
    ),
    (
        "a result with a list for its identity",
        COLLECT,
        "result.json: identity: []; expected a mapping",
        {"{result}": resealed(identity=[])},
    ),
    ("a missing result", COLLECT, "result.json: no such file", {"{result}": None}),
    ("a spec cut short", TRAIN, ".json: not valid JSON (", {"{spec}": cut}),
    (
        "a spec edited by hand",
        TRAIN,
        ".json: the spec's hash is not its id; plan the sweep again",
        {"{spec}": changed(identity={"seed": 7})},
    ),
    (
        "NaN in a spec",
        TRAIN,
        ".json: the spec's hash is not its id; plan the sweep again",
        {"{spec}": changed(identity=float("nan"))},
    ),
    (
        "a plan that is none",
        "plan --plan {plan}",
        "done.json: a JSON list; allowed: a JSON object",
        {"{plan}": "[]"},
    ),
    (
        "a plan of an older version",
        "plan --plan {plan}",
        "done.json: no plan, or another version's (see resources); plan again",
        {
            "{plan}": lambda old: json.dumps(
                {k: v for k, v in json.loads(old).items() if k != "resources"}
            ).encode()
        },
    ),
    (
        "a plan without experiments",
        COLLECT,
        "done.json: no plan, or another version's (see experiments)",
        {"{plan}": changed(experiments=[])},
    ),
    (
        "a broken plan among the sweeps",
        "runs list",
        "odd.json: no plan, or another version's",
        {"results/.plan/sweeps/odd.json": "{}"},
    ),
    (
        "a broken plan while cleaning up",
        "runs prune --yes",
        "odd.json: not valid JSON (",
        {"results/.plan/sweeps/odd.json": "{"},
    ),
    (
        "a fit that is none",
        "predict --fit {fit} --flops 1e7",
        "fit.json: not a fit; expected what flops-fit fit writes",
        {"{fit}": "[]"},
    ),
    (
        "a fit of an older version",
        "predict --fit {fit} --flops 1e7",
        "fit.json: no 'sensitivity' in it; not as this version of flops-fit writes a fit, so fit again",
        {
            "{fit}": lambda old: json.dumps(
                {k: v for k, v in json.loads(old).items() if k != "sensitivity"}
            ).encode()
        },
    ),
    (
        "a fit edited by hand",
        "predict --fit {fit} --flops 1e7",
        "fit.json: laws.surface: 'x'; expected an object; not as this version of flops-fit writes a fit, so fit again",
        {"{fit}": changed(laws={"surface": "x"})},
    ),
    (
        "figures of other runs",
        "plot --runs runs.csv --fit {fit} --out-dir results/done/plots",
        "runs.csv: not the runs of ",
        {},
    ),
    (
        "records that are none",
        "plot --runs {runs} --records records.json --fit {fit} --out-dir results/done/plots",
        "records.json: expected a JSON list of records",
        {"records.json": "[3]"},
    ),
    (
        "a report without its figures",
        "report --runs {runs} --fit {fit} --plots nowhere --name done --out results/done/report.html",
        "nowhere/isoflop.svg: this figure does not exist; run `flops-fit plot` first",
        {},
    ),
    (
        "a measured rate that is none",
        "plan --config good.yaml",
        "rate-cpu.json: not a measured rate; delete it, or measure again; `snakemake plan --cores 1`",
        {
            "results/.plan/rate-cpu.json": '{"flops_per_second": "x", "step_seconds": 1, "source": ""}'
        },
    ),
    (
        "a prediction that is none",
        "confirmed --records {records} --predicted x --name c --out results/c.json --table results/c.md",
        "results.json: 9 runs; allowed: exactly one run",
        {},
    ),
    (
        "an import of nothing",
        "runs import nowhere",
        "nowhere: no record.json; allowed: a results",
        {},
    ),
    (
        "an import of a broken record",
        "runs import other",
        "other/runs/a/record.json: refused: not a record of an experiment",
        {"other/runs/a/record.json": '{"identity": {"model": {}}}'},
    ),
    (
        "an import of an edited record",
        "runs import other",
        "other/runs/a/record.json: refused: its checksum does not match its content",
        {"other/runs/a/record.json": lambda old: old.replace(b'"completed"', b'"diverged"')},
    ),
]

# ----------------------------------------------------------------------- options and devices

OPTIONS = [
    ("a missing config", "plan --config none.yaml", "none.yaml: no such config file"),
    ("a folder for a config", "plan --config results", "results: a folder, not a config file"),
    ("a missing table", FIT.format("none.csv"), "none.csv: no such file"),
    ("a missing fit", "predict --fit none.json --flops 1e9", "none.json: no such file"),
    (
        "a missing spec",
        "train --spec results/.plan/specs/none.json --out results/r.json",
        "none.json: no such file",
    ),
    (
        "a missing plan",
        "collect --plan none.json --json results/a.json --csv results/a.csv",
        "none.json: no such file",
    ),
    (
        "a folder for an output",
        "fit --runs runs.csv --out results --bootstrap 0",
        "results: cannot be read or written (",
    ),
    (
        "a file for the results",
        "plan --config good.yaml --results parts.py",
        "parts.py/.plan/seen: cannot be read or written (Not a directory)",
    ),
    (
        "a missing search path",
        "plan --config good.yaml --search-path nowhere",
        "nowhere: no such folder",
    ),
    (
        "a negative budget",
        "predict --fit {fit} --flops -1",
        "flops: -1.0; allowed: a positive finite number of FLOPs",
    ),
    (
        "a negative N",
        "predict --fit {fit} --flops 1e7 --params -5",
        "params: -5.0; allowed: a positive finite number",
    ),
    (
        "a negative number of tokens served",
        "predict --fit {fit} --flops 1e7 --serve -5",
        "serve: -5.0; allowed: a positive finite number of tokens",
    ),
    (
        "no unique tokens",
        "predict --fit {fit} --flops 1e7 --unique 0",
        "unique: 0.0; allowed: a positive finite number of tokens",
    ),
    (
        "hours of devices of unknown speed",
        "predict --fit {fit} --hours 8 --results nowhere",
        "--hours: needs the speed of a device; allowed: with --device NAME",
    ),
    (
        "money without a price",
        "predict --fit {fit} --money 8 --device H100",
        "money: needs the price of a device; allowed: with --per-hour PRICE",
    ),
    (
        "points without an output",
        "predict --fit {fit} --at points.csv",
        "--at: needs --out PRED.csv",
    ),
    (
        "a budget of NaN in a plan",
        "plan --config good.yaml --budgets nan",
        "answer.budgets.0: nan is not allowed; allowed: finite numbers",
    ),
    (
        "a speed of zero",
        "plan --config good.yaml --flops-per-second 0",
        "pricing.flops_per_second: 0.0 is not allowed; allowed: more than 0",
    ),
    (
        "a negative price",
        "plan --config good.yaml --per-hour -5",
        "pricing.per_hour: -5.0 is not allowed; allowed: 0 or more",
    ),
    (
        "an unknown GPU",
        "plan --config good.yaml --device H1000",
        "pricing.device: 'H1000' is not known with fp32; allowed: ",
    ),
    (
        "a level above 1",
        FIT.format("runs.csv") + " --level 2",
        "level: 2.0; allowed: between 0 and 1",
    ),
    (
        "a negative seed",
        FIT.format("runs.csv") + " --seed -1",
        "seed: -1; allowed: an integer of at",
    ),
    (
        "an E above the losses",
        FIT.format("runs.csv") + " --fixed-e 9",
        "fixed_e: 9.0; allowed: above 0 and below the lowest loss ",
    ),
    (
        "minima without shared budgets",
        FIT.format("runs.csv") + " --method isoflop",
        "method: 'isoflop' needs runs that share compute budgets",
    ),
    (
        "no figure's width",
        "plot --runs {runs} --fit {fit} --out-dir results/p --width nan",
        "--width: nan; allowed: a positive number",
    ),
    (
        "a law with a negative power",
        "simulate --plan {plan} --law 1 1 1 1 -1",
        "law: beta = -1.0; allowed: a positive finite number",
    ),
    (
        "a noise that is none",
        "simulate --plan {plan} --noise loud",
        "--noise: 'loud'; allowed: nats such as 0.01, or a percentage of the loss such as 0.5%",
    ),
    (
        "a confirmation without a budget",
        "confirm --fit {fit} --config good.yaml --flops -1",
        "flops: -1.0; allowed: a positive finite number of FLOPs",
    ),
    ("a sweep that is not there", "progress nope", "nope: no such sweep; allowed: done"),
    ("an unknown verb", "fitt", "fitt: no such verb; did you mean fit?"),
    (
        "an unknown option",
        "fit --runs runs.csv --out results/f.json --colour red",
        "unrecognized arguments: --colour red",
    ),
    ("a missing option", "fit --runs runs.csv", "--out: missing; allowed: a file for the fit, or"),
    (
        "text for a number",
        FIT.format("runs.csv") + " --delta huge",
        "argument --delta: 'huge'; allowed: auto or a number",
    ),
    ("no processes", TRAIN + " --processes 0", "--processes: 0; allowed: 1 or more"),
]
TOO_MANY = "resources.gpus: an experiment asks for 3, but CUDA_VISIBLE_DEVICES='' shows 0; allowed: at most 0"
DEVICES = [
    (
        "another number of processes than of GPUs",
        TRAIN + " --gpus 2",
        "resources.processes: 1, but a run has 2 GPUs (from resources.gpus, or from gpu or gres under",
        {"{record}": None},
        {"CUDA_VISIBLE_DEVICES": "0,1"},
    ),
    (
        "more GPUs than there are",
        TRAIN + " --processes 3 --gpus 3",
        TOO_MANY,
        {"{record}": None},
        {"CUDA_VISIBLE_DEVICES": ""},
    ),
    (
        "runs that share a GPU, without one",
        "plan --config bad.yaml",
        "resources.runs_per_gpu: 4, but resources.gpus: 0; allowed: 1, or runs of one process on one GPU",
        {"bad.yaml": text_of({"resources": {"runs_per_gpu": 4}})},
        {},
    ),
    (
        "runs of several processes that share a GPU",
        "plan --config bad.yaml",
        "resources.runs_per_gpu: 4, but resources.processes: 2; allowed: 1, or runs of one process on one",
        {"bad.yaml": text_of({"resources": {"runs_per_gpu": 4, "gpus": 1, "processes": 2}})},
        {},
    ),
    ("a negative number of GPUs", TRAIN + " --gpus -1", "--gpus: -1; allowed: 0 or more", {}, {}),
    (
        "more processes than items",
        "plan --config bad.yaml",
        "resources.processes: 9, more than the 8 items of the smallest global batch",
        {"bad.yaml": text_of({"resources": {"processes": 9}})},
        {},
    ),
    (
        "part of a GPU",
        "plan --config bad.yaml",
        "resources.gpus: 0.5 is not allowed; allowed: a whole number",
        {"bad.yaml": text_of({"resources": {"gpus": 0.5}})},
        {},
    ),
]
JOBS = [
    (
        "half precision on a CPU",
        {"precision": "fp16"},
        {},
        "precision: fp16 is not available on cpu; allowed: no, bf16",
    ),
    (
        "recomputation that the model lacks",
        {"resources": {"activation_checkpointing": True}},
        {},
        "resources.activation_checkpointing: Net has no method set_activation_checkpointing",
    ),
    (
        "two processes asked for, one started",
        {},
        {"FLOPS_FIT_PROCESSES": "2"},
        "resources.processes: 2 requested, but 1 running; launch with `flops-fit train`",
    ),
    (
        "a GPU given that is not there",
        {},
        {"FLOPS_FIT_GPUS": "1"},
        "resources.gpus: 1 given, but the job sees none; check the driver and CUDA_VISIBLE_DEVICES",
    ),
    (
        "a plug-in edited since the plan",
        {},
        {"EDITED": "1"},
        "parts:Net, parts:Tokens, parts:loss changed since the plan was made; plan it again",
    ),
]
CHECKPOINTS = [
    (
        "a checkpoint cut short",
        lambda folder: shrink(next(folder.glob("*.bin"))),
        "does not match its hash",
    ),
    (
        "a checkpoint with a file less",
        lambda folder: next(folder.glob("*.bin")).unlink(),
        "cannot be read (No such file or directory)",
    ),
    (
        "a checkpoint whose list is broken",
        lambda folder: shrink(folder / "manifest.json"),
        "manifest.json is broken (",
    ),
    (
        "a checkpoint edited by hand",
        lambda folder: (folder / "manifest.json").write_bytes(
            changed(processes=2)((folder / "manifest.json").read_bytes())
        ),
        "manifest.json does not match its checksum",
    ),
]


def shrink(path: Path) -> None:
    path.write_bytes(cut(path.read_bytes()))


ROWS = [
    *(config("config", *row) for row in [*KEYS, *VALUES, *CONFIG_FILES]),
    *(config("plug-in", *row) for row in PLUGINS),
    *(config("rule", *row[:3], **row[3]) for row in RULES),
    *(config("data", *row) for row in DATA),
    *(Row("table", w, FIT.format("runs.csv"), m, {"runs.csv": t}) for w, t, m in TABLES),
    *(Row("table", w, FIT.format("runs.json"), m, {"runs.json": t}) for w, t, m in JSON_TABLES),
    Row(
        "table",
        "a loss curve of unequal lists",
        FIT.format("runs.json") + " --method envelope",
        "runs.json: the loss curve of 'a'; allowed: tokens and loss, lists of as many numbers",
        {
            "runs.json": runs_json(
                run_id="a", flops_per_token=6, loss_curve={"tokens": [1, 2], "loss": [1]}
            )
        },
    ),
    *(Row("table", *row) for row in OTHER_TABLES),
    *(Row("file of a step", *row) for row in HANDED),
    *(Row("option", *row) for row in OPTIONS),
    *(Row("device", *row) for row in DEVICES),
]
# Those whose way to the message is longer: see the tests that take them.
FURTHER = [
    *(Row("data", w, "check --plan PLAN", m) for w, _, m in CHECKED),
    *(Row("device", w, "train --spec SPEC", m) for w, _, _, m in JOBS),
    *(
        Row("checkpoint", w, "train --spec SPEC", f"is not used: ... {m}", status=0)
        for w, _, m in CHECKPOINTS
    ),
]


# -------------------------------------------------------------------------------------- tests


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A user's folder with a finished sweep in it."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "parts.py").write_text(PARTS)
    (folder / "broken.py").write_text("import torch\nimport surely_missing\n")
    (folder / "unparsable.py").write_text("def model(width:\n")
    (folder / "good.yaml").write_text(yaml.safe_dump(DONE))
    (folder / "runs.csv").write_text(table())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        patch.setattr(cache, "_make_plan", make_plan)
        finish_sweep()
    return folder


def finish_sweep() -> None:
    """Plan ``DONE`` and leave what training, collect and fit would, with losses of a known law."""
    planned = workflow.Sweep(DONE, "").make_plan()
    planned.keep()
    plan = planned.plan
    for experiment in plan.experiments:
        name, params = experiment.experiment_id, experiment.count.params
        spec = json.loads(spec_file("results", name).read_text())
        record = {key: spec[key] for key in ("experiment_id", "hash", "identity")} | {
            "status": "completed",
            "reason": "",
            "tokens_seen": experiment.num_tokens,
            "final_loss": 1 + 3 * params**-0.4 + 20 * experiment.num_tokens**-0.4,
        }
        for file in ("record.json", "result.json"):
            write_json(run_folder("results", name) / file, seal(record))
    plan_file = "results/.plan/sweeps/done.json"
    assert main(shlex.split(COLLECT.format(plan=plan_file))) == 0
    assert main(shlex.split(FIT.format("results/done/results.csv"))) == 0


@pytest.fixture
def here(folder, monkeypatch) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    # The planner runs in a process of its own to keep torch out of Snakemake's; here it need not.
    monkeypatch.setattr(cache, "_make_plan", make_plan)
    return folder


def names() -> dict[str, str]:
    """What the braces in rows stand for."""
    plan = "results/.plan/sweeps/done.json"
    name = sorted(path.name for path in Path("results/runs").iterdir())[0]
    return {
        "plan": plan,
        "spec": f"results/.plan/specs/{name}.json",
        "result": f"results/runs/{name}/result.json",
        "record": f"results/runs/{name}/record.json",
        "fit": "results/done/fit.json",
        "runs": "results/done/results.csv",
        "records": "results/done/results.json",
    }


def contents(folder: Path) -> dict[str, tuple]:
    """Everything computed so far: hash and time of each file but the plan's and the locks."""
    files = [p for p in folder.rglob("[!.]*") if p.is_file() and ".plan" not in p.parts]
    return {
        str(p): (hashlib.sha256(p.read_bytes()).hexdigest(), os.stat(p).st_mtime_ns) for p in files
    }


def refused(capsys, results: Path, *arguments: str) -> str:
    """Run a command that must end with one message and status 2, and touch nothing."""
    before = contents(results)
    try:
        status = main(list(arguments))
    except SystemExit as usage:  # argparse, which shows the usage first
        status = usage.code
    printed = capsys.readouterr()
    assert status == 2
    assert contents(results) == before
    assert not [noise for noise in NOISE if noise in printed.err + printed.out]
    lines = [line for line in printed.err.splitlines() if line.startswith("flops-fit")]
    assert len([line for line in lines if ": error: " in line]) == 1, printed.err
    if not printed.err.startswith("usage: "):
        assert lines == printed.err.strip().splitlines(), printed.err
    return "\n".join(lines)


@pytest.fixture
def damaged(here, request):
    """Write the files of a row; put everything back afterwards."""
    own = names()
    before: dict[Path, bytes | None] = {}
    for name, content in request.param.files.items():
        path = Path(name.format(**own))
        before[path] = path.read_bytes() if path.is_file() else None
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content = content(before[path] or Path(own["result"]).read_bytes())
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    yield request.param, own
    for path, content in before.items():
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)


@pytest.mark.parametrize(
    "damaged", ROWS, ids=[f"{row.group}: {row.what}" for row in ROWS], indirect=True
)
def test_bad_input_ends_with_one_message_and_touches_nothing(damaged, here, capsys, monkeypatch):
    row, own = damaged
    for name, value in row.environment.items():
        monkeypatch.setenv(name, value)
    assert row.message in refused(capsys, here / "results", *shlex.split(row.command.format(**own)))


@pytest.mark.parametrize(
    ("change", "message"), [row[1:] for row in CHECKED], ids=[row[0] for row in CHECKED]
)
def test_data_that_do_not_fit_are_refused_before_any_training(here, capsys, change, message):
    plan = str(here / "results/.plan/sweeps/bad.json")
    planned = workflow.Sweep({**CONFIG, **change}, "").make_plan()
    planned.keep()
    assert planned.experiments
    assert message in refused(capsys, here / "results", "check", "--plan", plan)
    assert not Path(planned.plan.check).exists()
    Path(plan).unlink()  # the other tests know one sweep


@pytest.fixture
def planned(here, tmp_path, monkeypatch):
    """``planned(change)`` plans one small experiment of its own: (spec, folder of its run)."""
    for name, value in {"PROCESSES": "1", "GPUS": "0", "LAUNCHER": str(os.getppid())}.items():
        monkeypatch.setenv(f"FLOPS_FIT_{name}", value)
    monkeypatch.chdir(tmp_path)
    shutil.copy(here / "parts.py", tmp_path)

    def plan(change: dict) -> tuple[Path, Path]:
        one = {**CONFIG, "budgets": [1e6], "sizes": {"values": [4]}, **change}
        (name,) = workflow.Sweep(one, "").make_plan().experiments
        return spec_file("results", name), run_folder("results", name)

    yield plan
    if sys.platform == "linux":  # a job wants SIGTERM when its parent dies; the test suite does not
        ctypes.CDLL(None).prctl(1, 0)


@pytest.mark.parametrize(
    ("change", "environment", "message"), [r[1:] for r in JOBS], ids=[r[0] for r in JOBS]
)
def test_a_job_that_is_not_what_was_asked_for_ends_at_once(
    planned, capsys, monkeypatch, change, environment, message
):
    spec, run = planned(change)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if "EDITED" in environment:
        Path("parts.py").write_text(PARTS.replace("VOCABULARY = 16", "VOCABULARY = 17"))
    assert job.main([str(spec), str(run / "result.json"), "results"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert not [noise for noise in NOISE if noise in said]
    assert json.loads((run / "failure.json").read_text())["reason"] in said
    assert not (run / "record.json").exists()


@pytest.mark.parametrize(
    ("damage", "message"), [row[1:] for row in CHECKPOINTS], ids=[row[0] for row in CHECKPOINTS]
)
def test_a_checkpoint_that_cannot_be_used_is_named_and_the_run_trained_again(
    planned, caplog, monkeypatch, damage, message
):
    spec, run = planned({})
    monkeypatch.setenv("STOP", "1")
    assert job.main([str(spec), str(run / "result.json"), "results"]) == job.RETRY_STATUS
    (checkpoint,) = (run / "checkpoints").iterdir()
    damage(checkpoint)
    assert job.main([str(spec), str(run / "result.json"), "results"]) == 0
    assert f"checkpoint {checkpoint} is not used: " in caplog.text
    assert message in caplog.text
    assert json.loads((run / "record.json").read_text())["status"] == "completed"


@pytest.mark.seconds
def test_the_planner_in_its_own_process_says_the_same(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(cache, "NOTE_AFTER", 3600)  # a busy machine plans for half a minute, too
    Path("loud.py").write_text(
        "import sys\nfrom parts import Net\nsys.stderr.write('library: hi\\n')\n"
    )
    Path("bad.yaml").write_text(text_of(with_model(factory="loud:Net", size_param="depth")))
    assert main(["plan", "--config", "bad.yaml"]) == 2
    before, _, apart = capsys.readouterr().err.partition("library: hi\n")
    assert not before  # what the user's code prints is no part of the message
    from flops_fit.config.load import load_config

    with pytest.raises(FlopsFitError) as error:
        make_plan(load_config("bad.yaml"), "results", [os.getcwd()])
    assert apart == f"flops-fit: error: {error.value}\n"


# ------------------------------------------------------------------------------ the documented


PAGE = Path(__file__).parents[2] / "docs" / "bad_input.md"
HEADER = """# Bad input

This page lists what is refused, and with which message. A message names the key or file, the value and what is
allowed. The command then ends with status 2, without a traceback, before anything trains, and leaves every earlier
output as it was. (An unusable checkpoint is named in the log, and training starts from the one before it, or from the
beginning.)

Each row is a test; `python tests/cli/test_bad_input.py` writes the page. Of long messages it shows the main part.
"""
HEADINGS = {
    "config": "Configs",
    "rule": "Rules",
    "plug-in": "Plug-ins",
    "data": "Data",
    "table": "Tables of runs",
    "file of a step": "Files of a step",
    "option": "Options",
    "device": "Devices",
    "checkpoint": "Checkpoints",
}


def section(group: str) -> str:
    """The rows of a group as Markdown; only those on options show more than the verb."""
    places = {
        name: name.upper() for name in ("plan", "id", "spec", "result", "fit", "runs", "records")
    }
    lines = [f"\n## {HEADINGS[group]}\n\n| input | command | message |\n|---|---|---|\n"]
    for row in (row for row in [*ROWS, *FURTHER] if row.group == group):
        command = " ".join(row.command.format(**places).split())
        shown = command if group == "option" else command.partition(" --")[0]
        message = row.message.replace("|", "\\|").strip()
        lines.append(f"| {row.what} | `{shown}` | {message} |\n")
    return "".join(lines)


def page() -> str:
    """The rows as a Markdown page."""
    assert {row.group for row in [*ROWS, *FURTHER]} == {*HEADINGS}
    return HEADER + "".join(map(section, HEADINGS))


def test_the_table_of_bad_inputs_in_the_docs_is_the_one_tested():
    print(page())
    assert PAGE.read_text() == page(), "run python tests/cli/test_bad_input.py"
    kinds = [(row.group, row.what) for row in [*ROWS, *FURTHER]]
    assert len(set(kinds)) == len(kinds) >= 50


if __name__ == "__main__":
    PAGE.write_text(page())
