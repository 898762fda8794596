"""The argument that sets the size, read from a model's source without importing it."""

import sys

import pytest

from flops_fit.config.complete import complete_config
from flops_fit.errors import FlopsFitError
from flops_fit.plugins.signature import live_arguments, only_required

SOURCE = """
raise SystemExit("this module must not be imported")
from dataclasses import dataclass
from torch import nn
from .elsewhere import Other as Known, far


class Net(nn.Module):
    def __init__(self, width, depth=2, *, bias=True):
        super().__init__()


class Wider(Net):
    pass


def keyword(*, width, depth=2): ...
def two(width, depth): ...
def none(width=8, depth=2): ...
def positional(width, /): ...


@dataclass
class Made(nn.Module):
    width: int


alias = Net
"""
ELSEWHERE = """
class Other:
    def __init__(self, size):
        self.size = size


from .further import far
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sizedplugin").mkdir()
    (tmp_path / "sizedplugin" / "__init__.py").write_text("")
    (tmp_path / "sizedplugin" / "net.py").write_text(SOURCE)
    (tmp_path / "sizedplugin" / "elsewhere.py").write_text(ELSEWHERE)
    (tmp_path / "sizedplugin" / "further.py").write_text("def far(near, n_embd, beta=1): ...\n")
    return str(tmp_path)


@pytest.mark.parametrize(
    ("name", "given", "size"),
    [
        ("Net", {}, "width"),
        ("Wider", {}, "width"),
        ("keyword", {}, "width"),
        ("two", {"width": 8}, "depth"),
        ("Known", {}, "size"),
        ("far", {"near": 1}, "n_embd"),
    ],
)
def test_the_only_required_argument_is_the_size(folder, name, given, size):
    assert only_required(f"sizedplugin.net:{name}", given, [folder]) == size
    assert "sizedplugin" not in sys.modules


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("two", "requires 2 arguments, .*; allowed: one of its arguments, width, depth"),
        ("none", "requires no argument, .*; allowed: one of its arguments, width, depth"),
        (
            "positional",
            "requires no argument, .*; allowed: one of its arguments, of which it has none",
        ),
        ("Made", "does not show its arguments"),
        ("alias", "does not show its arguments"),
        ("missing", "does not show its arguments"),
    ],
)
def test_where_no_argument_stands_out_the_candidates_are_named(folder, name, words):
    with pytest.raises(FlopsFitError, match=f"model.size_param: missing, and .*{words}"):
        only_required(f"sizedplugin.net:{name}", {}, [folder])


def test_a_config_without_the_name_is_the_same_as_one_with_it(folder):
    rest = {"name": "x", "dataset": "a:data", "budgets": [1e9], "sizes": [8]}
    short = {"factory": "sizedplugin.net:two", "kwargs": {"depth": 3}}
    assert complete_config({**rest, "model": "sizedplugin.net:Net"}, [folder]) == complete_config(
        {**rest, "model": {"factory": "sizedplugin.net:Net", "size_param": "width"}}
    )
    assert complete_config({**rest, "model": short}, [folder])["model"]["size_param"] == "width"


def test_a_live_function_has_the_same_arguments():
    def net(width, depth=2, *rest, bias, **more): ...

    arguments = live_arguments(net)
    assert (arguments.required, arguments.optional) == (("width", "bias"), ("depth",))
