"""A user's own code by import path: found, checked, fingerprinted without running it."""

import ast
import json
import os
import re
import subprocess
import sys
import textwrap
from importlib.util import spec_from_file_location
from pathlib import Path

import pytest
import torch

import flops_fit
from flops_fit.errors import FlopsFitError
from flops_fit.plugins import code as plugins
from flops_fit.plugins.code import _write_tree, source_fingerprint
from flops_fit.plugins.resolve import (
    add_search_paths,
    check_arguments,
    draw_at_import,
    one_line,
    resolve,
)
from flops_fit.training.doubts import doubts_about_imports


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write files below a folder that is on the Python path; modules are forgotten afterwards."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    known = set(sys.modules)

    def write_files(files=None, **plain):
        for name, text in {**(files or {}), **plain}.items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        return tmp_path

    yield write_files
    for name in set(sys.modules) - known:
        del sys.modules[name]


# -------------------------------------------------------------------------------- resolve


def test_a_reference_resolves_to_its_callable_and_dotted_names_walk_down(write):
    write(mine="class Net:\n    @classmethod\n    def small(cls): return 7\n")
    assert resolve("mine:Net").__name__ == "Net"
    assert resolve("mine:Net.small")() == 7


@pytest.mark.parametrize("reference", ["mine", "mine.Net", "mine:", ":Net", "a:b:c", ".mine:Net"])
def test_a_reference_of_another_form_is_refused_with_the_right_one(reference):
    with pytest.raises(FlopsFitError, match=re.escape(reference) + ".*'package.module:callable'"):
        resolve(reference)


def test_a_missing_module_is_told_from_a_module_that_misses_one(write):
    write(needs_more="import no_such_thing\n")
    with pytest.raises(FlopsFitError, match=r"absent\.deep:f: no module named 'absent'"):
        resolve("absent.deep:f")
    with pytest.raises(FlopsFitError) as error:
        resolve("needs_more:f")
    assert (
        "needs_more cannot be imported: ModuleNotFoundError: No module named 'no_such_thing'"
        in (str(error.value))
    )
    assert str(error.value).endswith("needs_more.py:1)")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\ny = x / 0\n", r"ZeroDivisionError: division by zero \(.*broken\.py:2\)"),
        ("raise ValueError('first\\nsecond')", r"ValueError: first \(.*broken\.py:1\)"),
        ("import sys\nsys.exit(3)\n", r"SystemExit: 3 \(.*broken\.py:2\); keep what reads .*:`"),
        ("x = 1\ndef f(:\n", r"SyntaxError: .*\(.*broken\.py:2\)"),
        ("import json\njson.loads('{')\n", r"JSONDecodeError: .*\(.*broken\.py:2\)"),
    ],
)
def test_a_module_that_fails_on_import_is_reported_in_one_line_of_the_users_own(
    write, text, expected
):
    write(broken=text)
    with pytest.raises(FlopsFitError) as error:
        resolve("broken:f")
    assert re.fullmatch(f"broken:f: broken cannot be imported: {expected}", str(error.value))


def test_a_module_that_changes_the_working_directory_is_refused_and_the_change_undone(write):
    folder = os.getcwd()
    write(moves="import os\nos.chdir('/')\ndef f(): pass\n")
    with pytest.raises(
        FlopsFitError, match="moves changes the working directory to / when it is imp"
    ):
        resolve("moves:f")
    assert os.getcwd() == folder


@pytest.mark.parametrize(
    ("line", "noted"),
    [
        ("torch.manual_seed(12345)", True),
        ("random.random()", True),
        ("numpy.random.rand()", True),
        ("torch.Generator().manual_seed(0)", False),
    ],
)
def test_a_module_that_seeds_or_draws_when_it_is_imported_is_noted(write, line, noted):
    write(drawing=f"import random, numpy, torch\n{line}\ndef f(): pass\n")
    draw_at_import.discard("drawing")
    with torch.random.fork_rng():
        resolve("drawing:f")
    assert [note[:8] for note in doubts_about_imports(["drawing:f"])] == ["drawing:"] * noted


def test_a_misspelt_name_brings_close_matches_and_a_constant_is_no_callable(write):
    write(mine="class MiniGPT: pass\nwidth = 3\n")
    with pytest.raises(FlopsFitError, match="mine has no 'MinGPT'; did you mean 'MiniGPT'"):
        resolve("mine:MinGPT")
    with pytest.raises(FlopsFitError, match="mine:width: cannot be called, its type is int"):
        resolve("mine:width")


def test_search_paths_go_to_the_front_in_order_and_only_once(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", ["/elsewhere", str(tmp_path / "b")])
    for _ in range(2):
        add_search_paths([tmp_path / "a", str(tmp_path / "b")])
        assert sys.path == [str(tmp_path / "a"), str(tmp_path / "b"), "/elsewhere"]


def test_one_line_points_at_the_users_frame_not_at_the_library_that_raised(write):
    write(mine="import json\ndef parse():\n    return json.loads('nonsense')\n")
    parse = resolve("mine:parse")
    with pytest.raises(ValueError) as error:  # noqa: PT011
        parse()
    assert one_line(error.value).endswith("mine.py:3)")


# ------------------------------------------------------------------------ check_arguments


def gpt(d_model, *, n_layers=2, vocab_size):
    """A factory with a required and an optional keyword."""


def test_an_unknown_argument_names_the_key_the_allowed_and_the_likely_one():
    with pytest.raises(FlopsFitError) as error:
        check_arguments(gpt, "mine:gpt", {"n_layer": 3}, "model.kwargs", supplied=["d_model"])
    assert str(error.value) == (
        "model.kwargs: gpt has no argument 'n_layer'; allowed: n_layers, vocab_size; "
        "did you mean 'n_layers'?"
    )


def test_a_missing_argument_is_named_unless_we_supply_it():
    with pytest.raises(FlopsFitError, match=r"model.kwargs: gpt needs 'd_model', 'vocab_size'$"):
        check_arguments(gpt, "mine:gpt", {}, "model.kwargs")
    with pytest.raises(FlopsFitError, match=r"needs 'vocab_size'$"):
        check_arguments(gpt, "mine:gpt", {}, "model.kwargs", positional=1)
    check_arguments(gpt, "mine:gpt", {"vocab_size": 5}, "model.kwargs", positional=1)
    check_arguments(gpt, "mine:gpt", {"vocab_size": 5}, "model.kwargs", supplied=("d_model",))


def test_a_function_that_cannot_take_what_we_supply_is_refused():
    with pytest.raises(FlopsFitError) as error:
        check_arguments(gpt, "mine:gpt", {"vocab_size": 5}, "model.kwargs", supplied=("d_modle",))
    assert str(error.value) == (
        "model: gpt has no argument 'd_modle', which flops-fit sets; "
        "allowed: d_model, n_layers, vocab_size; did you mean 'd_model'?"
    )


def test_an_argument_that_we_set_cannot_be_given_twice():
    for ours in ({"positional": 1}, {"supplied": ("d_model",)}):
        with pytest.raises(FlopsFitError, match="'d_model' is set by flops-fit"):
            check_arguments(gpt, "mine:gpt", {"d_model": 1, "vocab_size": 5}, "key", **ours)


def test_open_and_unreadable_signatures_accept_any_name():
    def open_factory(needed, **kwargs): ...

    check_arguments(open_factory, "m:f", {"needed": 1, "anything": 2}, "key")
    with pytest.raises(FlopsFitError, match="needs 'needed'"):
        check_arguments(open_factory, "m:f", {"anything": 2}, "key")
    check_arguments(dict, "m:f", {"what": 1}, "key")


# --------------------------------------------------------------------- source_fingerprint

MODEL = """
    # a comment
    from .layers import Block
    def build(width):
        'What it does.'
        return Block(width * 2)
"""
LAYERS = "class Block:\n    def __init__(self, n):\n        self.n = n\n"


def test_comments_docstrings_and_layout_leave_the_fingerprint_alone(write):
    folder = write({"pkg/model": MODEL, "pkg/layers": LAYERS})
    before = source_fingerprint("pkg.model:build")
    write(
        {
            "pkg/model": """
        'A module docstring.'
        from .layers import (
            Block,
        )
        def build(width):
            return Block(width
                         * 2)  # another comment
        """,
            "pkg/layers": "class Block:\n    'Now documented.'\n" + LAYERS.split("\n", 1)[1],
        }
    )
    assert source_fingerprint("pkg.model:build", [folder]) == before


@pytest.mark.parametrize(
    "change",
    [
        {"pkg/model": MODEL.replace("* 2", "* 3")},
        {"pkg/model": MODEL.replace("* 2", "* 2.0")},
        {"pkg/model": MODEL.replace("return Block(width * 2)", "return None")},
        {"pkg/layers": LAYERS.replace("= n", "= n + 1")},
        {"pkg/layers": LAYERS + "    'not a docstring'\n"},
    ],
)
def test_any_change_of_the_code_changes_the_fingerprint(write, change):
    write({"pkg/model": MODEL, "pkg/layers": LAYERS})
    before = source_fingerprint("pkg.model:build")
    write(change)
    assert source_fingerprint("pkg.model:build") != before


@pytest.mark.parametrize(
    "statement",
    [
        "import pkg.part",
        "import pkg.part as p",
        "from pkg import part",
        "from . import part",
        "from .part import thing",
        "from pkg.part import thing",
        "def f():\n    from .part import thing",
        "from .middle import x",
        "from .sub.deep import y",
    ],
)
def test_every_way_to_import_from_the_own_package_is_followed(write, statement):
    write(
        {
            "pkg/model": statement + "\ndef build(): ...\n",
            "pkg/part": "thing = 1\n",
            "pkg/middle": "from .part import thing as x\n",
            "pkg/sub/deep": "from ..part import thing as y\n",
            "pkg/__init__": "",
        }
    )
    before = source_fingerprint("pkg.model:build")
    write({"pkg/part": "thing = 2\n"})
    assert source_fingerprint("pkg.model:build") != before


def test_an_unimported_module_and_a_package_passed_through_do_not_count(write):
    write({"pkg/__init__": "from . import api\n", "pkg/api": "x = 1\n", "pkg/model": "x = 1\n"})
    before = source_fingerprint("pkg.model:build")
    write({"pkg/__init__": "from . import api, other\n", "pkg/api": "x = 2\n", "pkg/other": ""})
    assert source_fingerprint("pkg.model:build") == before


def test_a_name_taken_from_a_package_brings_its_init_and_what_that_imports(write):
    write({"pkg/__init__": "from .deep import build\n", "pkg/deep": "def build(): return 1\n"})
    before = source_fingerprint("pkg:build")
    write({"pkg/deep": "def build(): return 2\n"})
    assert source_fingerprint("pkg:build") != before


def test_a_plain_module_brings_its_neighbours_but_no_other_folder(write, tmp_path, monkeypatch):
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    elsewhere.mkdir()
    (elsewhere / "far.py").write_text("x = 1\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(elsewhere)])
    write(model="import near, far\ndef build(): ...\n", near="x = 1\n")
    before = source_fingerprint("model:build")
    (elsewhere / "far.py").write_text("x = 22\n")
    assert source_fingerprint("model:build") == before
    write(near="x = 22\n")
    assert source_fingerprint("model:build") != before


def test_the_fingerprint_does_not_depend_on_where_the_files_lie(write, tmp_path):
    write({"one/pkg/model": MODEL, "one/pkg/layers": LAYERS})
    write({"two/pkg/model": MODEL, "two/pkg/layers": LAYERS})
    one, two = (source_fingerprint("pkg.model:build", [tmp_path / n]) for n in ("one", "two"))
    assert one == two


def test_search_paths_come_before_the_python_path(write, tmp_path):
    write({"model": "def build(): return 1\n", "first/model": "def build(): return 2\n"})
    assert source_fingerprint("model:build", [tmp_path / "first"]) != (
        source_fingerprint("model:build")
    )


def test_nothing_is_imported_and_no_parent_package_is_run(write):
    write(
        {
            "pkg/__init__": "raise RuntimeError('ran')\n",
            "pkg/sub/__init__": "raise RuntimeError('ran')\n",
            "pkg/sub/model": "import pkg.other\nraise RuntimeError('ran')\n",
            "pkg/other": "raise RuntimeError('ran')\n",
        }
    )
    before = set(sys.modules)
    assert len(source_fingerprint("pkg.sub.model:build")) == 64
    assert set(sys.modules) == before


def test_modules_that_import_each_other_end(write):
    write({"pkg/a": "from . import b\n", "pkg/b": "from . import a\n"})
    assert source_fingerprint("pkg.a:f") == source_fingerprint("pkg.a:f")


def test_installed_code_is_known_by_its_reference_alone(tmp_path):
    for version in ("x = 1\n", "x = 2\n"):
        folder = tmp_path / "site-packages" / "other"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").write_text(version)
        found = source_fingerprint("other:f", [tmp_path / "site-packages"])
        assert found == source_fingerprint("other:f", [tmp_path / "site-packages"])
    assert found != source_fingerprint("other:g", [tmp_path / "site-packages"])
    assert source_fingerprint("torch.nn:Linear") != source_fingerprint("torch.nn:GELU")
    assert source_fingerprint("math:sqrt") != source_fingerprint("json:loads")


def test_our_own_examples_are_known_by_their_source_also_when_installed(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "flops_fit"
    (package / "examples").mkdir(parents=True)
    (package / "examples" / "toy.py").write_text("def build(): return 1\n")
    monkeypatch.setattr("flops_fit.plugins.origin.OWN_FOLDER", package)
    reference, paths = "flops_fit.examples.toy:build", [tmp_path / "site-packages"]
    (package / "__init__.py").write_text("")
    before = source_fingerprint(reference, paths)
    (package / "__init__.py").write_text("import everything\n")
    assert source_fingerprint(reference, paths) == before
    (package / "examples" / "toy.py").write_text("def build(): return 22\n")
    assert source_fingerprint(reference, paths) != before


def test_a_package_that_only_an_import_hook_finds_is_known_by_its_source(tmp_path, monkeypatch):
    """Some editable installs work so: nothing on the path, a finder that knows the folder."""
    source = tmp_path / "src" / "hooked" / "model.py"
    source.parent.mkdir(parents=True)
    (source.parent / "__init__.py").write_text("")

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "hooked":
                return spec_from_file_location(name, source.parent / "__init__.py")

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    source.write_text("def build(): return 1\n")
    before = source_fingerprint("hooked.model:build")
    source.write_text("def build(): return 22\n")
    assert source_fingerprint("hooked.model:build") != before
    assert "hooked" not in sys.modules


def test_an_edit_within_one_process_is_seen(write):
    write(model="def build(): return 1\n")
    before = source_fingerprint("model:build")
    write(model="def build(): return 2\n")
    assert source_fingerprint("model:build") != before


def test_a_missing_module_and_one_that_does_not_parse_are_named(write):
    with pytest.raises(FlopsFitError, match=r"absent\.part:f: no module named 'absent\.part'"):
        source_fingerprint("absent.part:f")
    write({"pkg/__init__": "", "broken": "x = (\n"})
    with pytest.raises(FlopsFitError, match=r"pkg.part:f: no module named 'pkg.part'"):
        source_fingerprint("pkg.part:f")
    with pytest.raises(FlopsFitError, match=r"broken\.py: does not parse: SyntaxError"):
        source_fingerprint("broken:f")


def test_what_newer_pythons_add_to_syntax_trees_is_left_out():
    def spelling(tree):
        parts = []
        _write_tree(tree, parts, [])
        return "".join(parts)

    tree = ast.parse("def f(a, *, b=None):\n    return f'{a:{b}}', None\nclass C: pass\n")
    before = spelling(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            node.type_params, node._fields = [], (*node._fields, "type_params")  # since 3.12
        if isinstance(node, ast.FormattedValue) and node.format_spec:
            node.format_spec.values.append(ast.Constant(""))  # 3.12 alone
    assert spelling(tree) == before
    assert before.count("NoneType None") == 2  # a None in the code is no missing field


def test_fingerprints_need_no_torch():
    code = (
        "import sys; from flops_fit.plugins.code import source_fingerprint as f;"
        "f('torch.nn:Linear'); f('flops_fit.examples.gpt:GPT'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_example_model_is_followed_from_its_own_folder():
    folder = Path(flops_fit.__file__).parent.parent
    assert source_fingerprint("flops_fit.examples.gpt:GPT", [folder]) == (
        source_fingerprint("flops_fit.examples.gpt:GPT")
    )


def test_remembered_sources_are_not_parsed_again_and_changed_ones_are(write, tmp_path, monkeypatch):
    folder = write({"mine": "import helper\nx = 1\n", "helper": "y = 1\n"})
    cache, parsed = tmp_path / "sources.json", []

    def fingerprint() -> str:
        parsed.clear()
        plugins._remembered.clear()  # as in a new process
        plugins._read_source.cache_clear()
        with plugins.remembered_sources(cache):
            return source_fingerprint("mine:x", [folder])

    monkeypatch.setattr("flops_fit.plugins.file_state.SETTLED_SECONDS", -1)  # files are new here
    parse = ast.parse
    monkeypatch.setattr(ast, "parse", lambda *a, **k: parsed.append(1) or parse(*a, **k))
    first = fingerprint()
    assert len(parsed) == 2
    assert (fingerprint(), len(parsed)) == (first, 0)
    write({"helper": "y = 22\n"})
    assert fingerprint() != first
    assert len(parsed) == 1
    content = json.loads(cache.read_text())
    cache.write_text(json.dumps({**content, "reader": [0, 0]}))  # by another version of ours
    fingerprint()
    assert len(parsed) == 2
