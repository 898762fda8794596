"""Objects by content: pairs that differ in what they do, and pairs that only look different.

Each pair is a notebook cell, run in a module of its own that calls itself ``__main__``, and the same
cell after an edit; compared is what the cell leaves as ``it``.
"""

import functools
import importlib
import os
import random
import subprocess
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Subset, TensorDataset

from flops_fit.plugins import arrays, content
from flops_fit.plugins.content import Contents
from flops_fit.plugins.data_files import FileHashes
from flops_fit.plugins.randomness import fixed_seeds

MODEL = '''
import torch
from torch import nn
import torch.nn.functional as F

SCALE, UNUSED = 2.0, 1

def helper(x):
    """Say nothing."""
    return x * SCALE

class Base(nn.Module):
    def forward(self, x):
        return helper(self.layer(x))

class Net(Base):
    """A model."""
    slope = 0.1

    def __init__(self, width, bias=True):
        super().__init__()
        self.layer = nn.Linear(4, width, bias)

    def forward(self, x):
        y = super().forward(x)
        return F.leaky_relu(y, self.slope) if self.slope else F.relu(y)

    @property
    def gain(self):
        return 1

    @staticmethod
    def mix(x):
        return [i + 1 for i in x]

it = Net
'''
LOSSES = '''
import enum, functools
import torch.nn.functional as F
from dataclasses import dataclass, field
from types import SimpleNamespace
from argparse import Namespace

POWER = 2

class Kind(enum.Enum):
    SUM = "sum"
    MEAN = "mean"

@dataclass
class Config:
    smoothing: float = 0.1
    names: list = field(default_factory=lambda: ["a", "b"])

def weigh(outputs, targets, weight=1.0, *, power=2):
    return (outputs - targets).abs() ** power * weight

def closing_over(weight):
    def loss(outputs, targets):
        return weight * outputs

    return loss

class Loss:
    __slots__ = ("weight", "config")

    def __init__(self, weight, config=None):
        self.weight, self.config = weight, config

    def __call__(self, outputs, targets):
        return self.weight * F.mse_loss(outputs, targets)

    def method(self, outputs, targets):
        def inner(x):
            """A docstring within."""
            return x ** POWER

        return inner(outputs) * self.weight

class Record(dict):
    pass
'''

# name: (cell, what is replaced, by what)
CHANGED = {
    "a layer": (MODEL, "nn.Linear(4, width, bias)", "nn.Linear(4, width, False)"),
    "a called function": (MODEL, "F.relu(y)", "F.gelu(y)"),
    "a helper's code": (MODEL, "x * SCALE", "x + SCALE"),
    "the order of operands": (MODEL, "x * SCALE", "SCALE * x"),
    "a global of a helper": (MODEL, "SCALE, UNUSED = 2.0", "SCALE, UNUSED = 3.0"),
    "the base class": (MODEL, "helper(self.layer(x))", "self.layer(x)"),
    "an attribute of the class": (MODEL, "slope = 0.1", "slope = 0.2"),
    "a default": (MODEL, "bias=True", "bias=False"),
    "a property": (MODEL, "return 1", "return 2"),
    "a static method": (MODEL, "i + 1", "i + 2"),
    "a condition": (MODEL, "if self.slope", "if not self.slope"),
    "a method more": (MODEL, "it = Net", "Net.extra_repr = lambda self: ''\nit = Net"),
    "a lambda": (LOSSES + "it = lambda o, t: o - t", "o - t", "t - o"),
    "a partial's argument": (LOSSES + "it = functools.partial(weigh, weight=2.0)", "2.0)", "3.0)"),
    "a partial's function": (LOSSES + "it = functools.partial(weigh)", ".abs()", ".abs().abs()"),
    "a keyword default": (LOSSES + "it = weigh", "power=2", "power=3"),
    "a closure": (LOSSES + "it = closing_over(2)", "closing_over(2)", "closing_over(3)"),
    "a callable object's state": (LOSSES + "it = Loss(1.0)", "Loss(1.0)", "Loss(2.0)"),
    "a bound method's object": (LOSSES + "it = Loss(1.0).method", "Loss(1.0)", "Loss(2.0)"),
    "a bound method's code": (
        LOSSES + "it = Loss(1.0).method",
        "inner(outputs) *",
        "inner(outputs) +",
    ),
    "a global of a nested function": (LOSSES + "it = Loss(1).method", "POWER = 2", "POWER = 3"),
    "a dataclass's field": (LOSSES + "it = Loss(1, Config())", "float = 0.1", "float = 0.2"),
    "a default factory": (LOSSES + "it = Loss(1, Config())", '["a", "b"]', '["a", "c"]'),
    "a namespace": (LOSSES + "it = SimpleNamespace(a=[1])", "a=[1]", "a=[2]"),
    "argparse's namespace": (LOSSES + "it = Namespace(rate=1)", "rate=1", "rate=2"),
    "a dictionary's subclass": (LOSSES + "it = Record(a=1)", "Record(a=1)", "Record(a=2)"),
    "a member of an enum": (LOSSES + "it = Kind.SUM", "it = Kind.SUM", "it = Kind.MEAN"),
    "the value of a member": (LOSSES + "it = Kind.SUM", '"sum"', '"total"'),
    "an attribute of a function": (
        LOSSES + "weigh.ignore_index = 0\nit = weigh",
        "index = 0",
        "index = 1",
    ),
    "a cached function": (LOSSES + "it = functools.lru_cache(weigh)", "** power", "* power"),
    "a decorated function": (
        LOSSES + "import torch\nit = torch.no_grad()(weigh)",
        "** power",
        "* power",
    ),
    "an exception's handler": (
        "def it(x):\n    try:\n        return f(x)\n    except KeyError:\n        return 1",
        "KeyError",
        "ValueError",
    ),
    "what a try covers": (
        "def it(x):\n    try:\n        f(x)\n    except KeyError:\n        pass\n    g(x)",
        "    except KeyError:\n        pass\n    g(x)",
        "        g(x)\n    except KeyError:\n        pass",
    ),
    "a label smoothing": (
        "from torch import nn\nit = nn.CrossEntropyLoss(label_smoothing=0.1)",
        "0.1",
        "0.2",
    ),
    "a weight of the loss": (
        "import torch\nfrom torch import nn\nit = nn.CrossEntropyLoss(weight=torch.ones(3))",
        "torch.ones(3)",
        "torch.ones(3) / 2",
    ),
    "an element of a tensor": (
        "import torch\nit = torch.arange(1000)",
        "it = ",
        "it = torch.ones(1000)\nit[523] = 2\nit *= ",
    ),
    "a tensor's shape": ("import torch\nit = torch.zeros(2, 3)", "2, 3", "3, 2"),
    "a tensor's type": (
        "import torch\nit = torch.zeros(2)",
        "zeros(2)",
        "zeros(2, dtype=torch.int32)",
    ),
    "an array in a list": (
        "import numpy\nit = [numpy.arange(5), 'a']",
        "arange(5)",
        "arange(5)[::-1]",
    ),
    "a nested class": ("def it():\n    class A:\n        x = 1\n    return A", "x = 1", "x = 2"),
    "a generator's seed": ("import numpy\nit = numpy.random.default_rng(1)", "rng(1)", "rng(2)"),
    "the kind of a number": ("it = {'a': 1}", "1", "True"),
}
AUTOGRAD = """
import torch
class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x
    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient
it = Double.apply
"""
NORMED = """
import torch
from torch import nn
torch.manual_seed(0)
it = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
"""
CHANGED |= {
    "an autograd function": (AUTOGRAD, "2 * gradient", "3 * gradient"),
    "a parametrized module": (NORMED, "seed(0)", "seed(1)"),
    "a regular expression": ("import re\nit = re.compile('a')", "'a'", "'b'"),
    "a decorator's argument": (
        "import functools\ndef twice(k):\n    def wrap(f):\n        @functools.wraps(f)\n"
        "        def g(*a):\n            return k * f(*a)\n        return g\n    return wrap\n"
        "@twice(2)\ndef it(x):\n    return x",
        "twice(2)",
        "twice(3)",
    ),
    "one of several dispatched functions": (
        "import functools\n@functools.singledispatch\ndef it(x):\n    return 1\n"
        "@it.register\ndef _(x: int):\n    return 2",
        "return 2",
        "return 3",
    ),
    "a compiled function": (
        "import torch\ndef f(x):\n    return x + 1\nit = torch.compile(f)",
        "x + 1",
        "x + 2",
    ),
    "a slotted dataclass": (
        "from dataclasses import dataclass\n@dataclass(slots=True)\nclass C:\n    a: int = 1\n"
        "    def copy(self):\n        return C()\nit = C()",
        "= 1",
        "= 2",
    ),
}
EQUAL = {
    "the same cell": (MODEL, "", ""),
    "losses of the same cell": (
        LOSSES + "it = [Loss(1, Config()), Kind.SUM, closing_over(1)]",
        "",
        "",
    ),
    "a comment": (MODEL, "    slope = 0.1", "    # as in the paper\n    slope = 0.1  # small"),
    "a docstring": (MODEL, '"""Say nothing."""', '"""Multiply."""'),
    "no docstring": (MODEL, '    """Say nothing."""\n', ""),
    "a class's docstring": (MODEL, '"""A model."""', '"""Another text."""'),
    "a nested docstring": (
        LOSSES + "it = Loss(1).method",
        '"""A docstring within."""',
        '"""Other."""',
    ),
    "a nested class's docstring": (
        "def it():\n    class A:\n        'a'\n        x = 1\n    return A",
        "'a'",
        "'b'",
    ),
    "an unrelated global": (MODEL, "UNUSED = 2.0, 1", "UNUSED = 2.0, 2"),
    "an unrelated function": (MODEL, "class Base", "def unused():\n    pass\n\nclass Base"),
    "other lines": (MODEL, "def helper", "\n\n\n\ndef helper"),
    "a statement over two lines": (
        MODEL,
        "nn.Linear(4, width, bias)",
        "nn.Linear(\n            4, width, bias)",
    ),
    "a pass": (MODEL, "        super().__init__()", "        pass\n        super().__init__()"),
    "an annotation": (
        MODEL,
        "def forward(self, x):\n        y",
        "def forward(self, x: torch.Tensor):\n        y",
    ),
    "the order of members": (MODEL, "slope = 0.1", "gain = None\n    slope = 0.1"),
    "the order of a dictionary": (
        "it = {'a': 1, 'b': [2]}",
        "'a': 1, 'b': [2]",
        "'b': [2], 'a': 1",
    ),
    "the order of a set": ("it = {'a', 'b', 'c'}", "'a', 'b', 'c'", "'c', 'b', 'a'"),
    "a view of the same numbers": (
        "import torch\nit = torch.arange(6)",
        "arange(6)",
        "arange(12)[::2] // 2",
    ),
    "a copy in place of the same object": (
        "a = [[1], 2]\nit = [a, a]",
        "it = [a, a]",
        "it = [a, [[1], 2]]",
    ),
    "an autograd function made again": (AUTOGRAD, "", ""),
    "a parametrized module made again": (NORMED, "", ""),
    "a slotted dataclass made again": (CHANGED["a slotted dataclass"][0], "", ""),
    "a compiled function made again": (CHANGED["a compiled function"][0], "", ""),
    "logging": (
        "import logging\nlog = logging.getLogger('a')\ndef it(x):\n    log.info(x)",
        "log = ",
        "logging.getLogger('b')\nlog = ",
    ),
    "another length of a loop of objects": (
        "a = []\na.append(a)\nit = a",
        "a.append(a)",
        "a.append([a])",
    ),
}


def cell(source: str, name: str = "__main__"):
    module = types.ModuleType(name)
    exec(compile(source, "<a cell>", "exec"), vars(module))
    return module.it


def digest(value, tmp_path=Path("."), name="it") -> str:
    found, refused = Contents(FileHashes(tmp_path / "hashes.json"), pytest.fail).digest(value, name)
    assert not refused
    return found


@pytest.mark.parametrize("name", CHANGED)
def test_an_edit_that_counts_changes_the_digest(name):
    source, old, new = CHANGED[name]
    assert old in source
    assert digest(cell(source)) != digest(cell(source.replace(old, new)))


@pytest.mark.parametrize("name", EQUAL)
def test_an_edit_that_does_not_count_leaves_the_digest(name):
    source, old, new = EQUAL[name]
    assert old in source
    assert digest(cell(source)) == digest(cell(source.replace(old, new) if old else source))


def test_a_class_that_was_run_again_equals_an_object_of_before():
    """Half of the notebook is run again: old objects then refer to new globals."""
    source = (
        "class Loss:\n    def __call__(self, x):\n        return super(Loss, self)\nit = Loss()"
    )
    module = types.ModuleType("__main__")
    exec(source, vars(module))
    before, old = digest(module.it), module.it
    exec(source, vars(module))
    assert digest(old) == digest(module.it) == before


class TestModulesOfTheUser:
    @pytest.fixture
    def imported(self, tmp_path, monkeypatch):
        """Writes modules, imports them anew and gives a function of one of them."""
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)

        def read(name: str, **sources: str):
            for module, source in sources.items():
                (tmp_path / f"{module}.py").write_text(source)
            for module in [m for m in sys.modules if m.startswith("mine_")]:
                monkeypatch.delitem(sys.modules, module)
            importlib.invalidate_caches()
            module, _, attribute = name.partition(".")
            return getattr(importlib.import_module(module), attribute)

        return read

    @pytest.mark.parametrize(
        "use",
        [
            "import mine_helper\ndef f(x):\n    return mine_helper.act(x)",
            "from mine_helper import act\ndef f(x):\n    return act(x)",
            "def f(x):\n    from mine_helper import act\n    return act(x)",
            "def f(x):\n    import mine_helper\n    return mine_helper.act(x)",
            "import mine_helper\ndef f(x):\n    return getattr(mine_helper, 'act')(x)",
        ],
    )
    def test_a_helper_in_another_module(self, imported, use):
        helper = "def act(x):\n    return x + 1\n\ndef other():\n    return 1\n"
        before = digest(imported("mine_net.f", mine_net=use, mine_helper=helper))
        comment = digest(imported("mine_net.f", mine_helper=helper.replace("\n\n", "\n# why\n")))
        edited = digest(imported("mine_net.f", mine_helper=helper.replace("x + 1", "x + 2")))
        assert comment == before
        assert edited != before

    def test_what_is_not_read_of_a_module_does_not_count(self, imported):
        use = "import mine_helper\ndef f(x):\n    return mine_helper.act(x)"
        before = digest(imported("mine_net.f", mine_net=use, mine_helper="act, other = 1, 2"))
        assert digest(imported("mine_net.f", mine_helper="act, other = 1, 3")) == before

    @pytest.mark.parametrize("from_a_folder", [True, False])
    def test_an_installed_package_counts_by_content_if_it_came_from_a_folder(
        self, tmp_path, monkeypatch, from_a_folder
    ):
        site = tmp_path / "site-packages"
        installed = site / "mine_plugin-1.dist-info"
        installed.mkdir(parents=True)
        (installed / "RECORD").write_text("mine_plugin.py,,\n")
        if from_a_folder:
            (installed / "direct_url.json").write_text('{"dir_info": {}, "url": "file:///a"}')
        monkeypatch.syspath_prepend(site)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)

        def installed_function(addend: int):
            (site / "mine_plugin.py").write_text(f"def f(x):\n    return x + {addend}\n")
            importlib.invalidate_caches()
            monkeypatch.delitem(sys.modules, "mine_plugin", raising=False)
            return importlib.import_module("mine_plugin").f

        changed = digest(installed_function(1)) != digest(installed_function(22))
        monkeypatch.delitem(sys.modules, "mine_plugin")
        assert changed == from_a_folder


class TestData:
    def test_memory_maps_of_any_size_count_by_their_bytes(self, tmp_path, monkeypatch):
        path = tmp_path / "tokens.npy"
        tokens = np.arange(100, dtype=np.int32)
        np.save(path, tokens)
        in_memory = digest(tokens, tmp_path)
        assert digest(np.load(path, mmap_mode="r"), tmp_path) == in_memory
        monkeypatch.setattr(arrays, "BY_FILE", 0)
        by_file = digest(np.load(path, mmap_mode="r"), tmp_path)
        assert digest(np.load(path, mmap_mode="r"), tmp_path) == by_file
        assert digest(np.load(path, mmap_mode="r")[1:], tmp_path) != by_file
        tokens[50] = 0
        np.save(path, tokens)
        assert digest(np.load(path, mmap_mode="r"), tmp_path) != by_file

    def test_a_file_that_an_argument_names(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for folder in ("a", "b"):
            Path(folder).mkdir()
            Path(folder, "labels.csv").write_text("1,2")
        arguments = {"nested": [{"file": "a/labels.csv"}]}
        before = digest(arguments)
        assert digest({"nested": [{"file": "b/labels.csv"}]}) == before
        assert digest({"nested": [{"file": str(tmp_path / "a/labels.csv")}]}) == before
        assert digest(Path("a/labels.csv")) == digest(Path("b/labels.csv"))
        Path("a/labels.csv").write_text("1,3 ")
        assert digest(arguments) != before

    def test_subsets_and_tensor_datasets(self):
        def data(order, label):
            labels = torch.arange(2000) % 4
            labels[52] = label
            return Subset(TensorDataset(torch.ones(2000, 4), labels), order)

        assert digest(data([1, 2], 0)) == digest(data([1, 2], 0))
        assert digest(data([1, 2], 0)) != digest(data([2, 1], 0))
        assert digest(data([1, 2], 0)) != digest(data([1, 2], 1))

    @pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
    def test_sparse_tensors(self, layout):
        def sparse(value):
            return torch.tensor([[0.0, value], [0.0, 1.0]]).to_sparse(layout=layout)

        assert digest(sparse(2.0)) == digest(sparse(2.0)) != digest(sparse(3.0))

    def test_a_hugging_face_data_set_by_its_data_and_not_by_its_random_fingerprint(self):
        datasets = pytest.importorskip("datasets")

        def data(last):
            made = datasets.Dataset.from_dict({"x": [1, 2, 3], "y": ["a", "b", last]})
            made._fingerprint = str(random.random())  # as some ways to make one leave it
            return made

        assert digest(data("c")) == digest(data("c")) != digest(data("d"))
        assert digest(data("c").with_format("numpy")) != digest(data("c"))
        assert digest(data("c").select([2, 0])) == digest(data("c").select([2, 0]))
        assert digest(data("c").select([2, 0])) != digest(data("c").select([0, 2]))

    def test_tables(self):
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame({"x": [1, 2], "y": ["a", "b"]})
        assert digest(frame) == digest(frame.copy())
        assert digest(frame) != digest(frame.assign(x=[1, 3]))
        assert digest(frame) != digest(frame.assign(y=["a", "c"]))


class TestModules:
    def test_a_module_by_its_weights_and_attributes(self):
        def scorer(seed=0, factor=1.0):
            torch.manual_seed(seed)
            module = nn.Sequential(nn.Linear(2, 2))
            module.factor = factor
            return module

        assert digest(scorer()) == digest(scorer())
        assert digest(scorer()) != digest(scorer(seed=1))
        assert digest(scorer()) != digest(scorer(factor=2.0))

    def test_hooks_by_what_they_do_and_not_by_their_running_number(self):
        def hooked(addend):
            module = nn.Identity()
            module.register_forward_hook(lambda module, inputs, output: output + addend)
            return module

        assert digest(hooked(1)) == digest(hooked(1)) != digest(hooked(2))

    def test_a_cached_property_is_no_state(self):
        class Cached:
            @functools.cached_property
            def length(self):
                return 3

        it = Cached()
        before = digest(it)
        assert it.length == 3
        assert digest(it) == before


class TestRandomness:
    @pytest.mark.parametrize(
        "make",
        [
            np.random.default_rng,
            random.Random,
            np.random.RandomState,
            lambda seed: torch.Generator().manual_seed(seed),
        ],
    )
    def test_a_seed_counts(self, make):
        assert digest(make(1)) == digest(make(1)) != digest(make(2))

    @pytest.mark.parametrize("make", [np.random.default_rng, torch.Generator])
    def test_what_was_drawn_and_what_the_system_seeded_does_not_count(self, make):
        first, second = make(), make()
        before = digest(first)
        first.random() if isinstance(first, np.random.Generator) else torch.rand(1, generator=first)
        assert digest(first) == digest(second) == before

    def test_the_process_shares_of_its_generators_do_not_count(self):
        before = digest([random.shuffle, np.random.rand, torch.default_generator])
        random.random(), np.random.rand(), torch.rand(1)
        assert digest([random.shuffle, np.random.rand, torch.default_generator]) == before

    def test_fixed_seeds_repeat_and_are_taken_back(self):
        mine = [np.random.default_rng().bit_generator, random.Random(), torch.Generator()]

        def draw():
            return [
                random.random(),
                np.random.rand(),
                torch.rand(1).item(),
                mine[1].random(),
                np.random.Generator(mine[0]).random(),
                torch.rand(1, generator=mine[2]).item(),
            ]

        def state():
            return str(
                [
                    random.getstate(),
                    np.random.get_state()[1].tolist(),
                    torch.get_rng_state().tolist(),
                    mine[0].state,
                    mine[1].getstate(),
                    mine[2].get_state().tolist(),
                ]
            )

        before = state()
        with fixed_seeds(mine):
            first = draw()
        draw_between = state()
        with fixed_seeds(mine):
            assert draw() == first
        assert state() == draw_between == before


UNHASHABLE = {
    "a lock": threading.Lock,
    "an open file": lambda: open(__file__),  # noqa: SIM115
    "a generator": lambda: (i for i in "a"),
}


@pytest.mark.parametrize("kind", UNHASHABLE)
def test_what_cannot_be_hashed_is_named_by_the_way_to_it(kind, tmp_path):
    class Loss:
        def __init__(self):
            self.tables = [{"of": UNHASHABLE[kind]()}]

    contents = Contents(FileHashes(tmp_path / "hashes.json"), pytest.fail)
    first, refused = contents.digest(Loss(), "loss_fn")
    assert refused == [f"loss_fn.tables[0]['of'] is {kind}"]
    assert contents.digest(Loss(), "loss_fn") == (first, refused)


def test_a_global_that_cannot_be_hashed_is_named(tmp_path):
    source = (
        "import threading\nguard = threading.Lock()\ndef it(x):\n    with guard:\n        return x"
    )
    _, refused = Contents(FileHashes(tmp_path / "h.json"), pytest.fail).digest(
        cell(source), "loss_fn"
    )
    assert refused == ["loss_fn -> guard is a lock"]


def test_an_object_that_raises_when_it_is_looked_at_cannot_be_hashed(tmp_path):
    class Hostile:
        def __reduce_ex__(self, protocol):
            raise RuntimeError("no")

    _, refused = Contents(FileHashes(tmp_path / "h.json"), pytest.fail).digest([Hostile()], "it")
    assert len(refused) == 1
    assert refused[0].startswith("it[0] is a ")


def test_hashing_that_takes_long_is_said_with_its_amount(tmp_path, monkeypatch):
    monkeypatch.setattr(content, "PATIENCE_SECONDS", -1.0)
    said = []
    Contents(FileHashes(tmp_path / "h.json"), said.append).digest(torch.zeros(25_000_000), "it")
    assert said == ["hashing 0.1 GB of data, to see whether they changed"]


def test_very_deep_and_very_many_objects(tmp_path):
    deep: list = []
    for _ in range(20_000):
        deep = [deep]
    assert digest(deep) == digest([deep[0]])
    assert digest(list(range(100_000))) != digest(list(range(1, 100_001)))


def test_the_python_that_compiled_is_named_where_bytecode_counts():
    assert digest(lambda x: x).endswith(f"-py{content.PYTHON}")
    assert "-py" not in digest(
        [torch.zeros(2), nn.CrossEntropyLoss, functools.partial(torch.add, 1)]
    )


def test_every_process_finds_the_same_digest(tmp_path):
    """Neither the randomisation of hashes nor addresses may reach it: ranks must agree."""
    script = tmp_path / "script.py"
    script.write_text(
        "from flops_fit.plugins.content import Contents\n"
        "from flops_fit.plugins.data_files import FileHashes\n"
        "names = {'a', 'b', 'c', ('d', 1)}\n"
        "class Net:\n    kinds = frozenset(['x', 'y', 'z'])\n"
        "    def f(self, x):\n        return [x in {'p', 'q', 'r'} for _ in names], Net\n"
        f"print(Contents(FileHashes({str(tmp_path / 'h.json')!r}), print).digest(Net(), 'net'))\n"
    )
    found = {
        subprocess.run(
            [sys.executable, script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1
