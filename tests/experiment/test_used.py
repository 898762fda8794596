"""An edit of whatever a plug-in uses makes another experiment; what decides nothing makes none."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from flops_fit.config.complete import complete_config
from flops_fit.experiment.places import plan_folder
from flops_fit.experiment.used import note_late
from flops_fit.files import read_json
from flops_fit.plan import cache
from flops_fit.plan.planner import make_plan
from flops_fit.plugins.data_files import FileHashes
from flops_fit.plugins.uses import Uses

NET = """
from torch import nn
{imports}

class Net(nn.Module):
    def __init__(self, width{arguments}):
        super().__init__()
        {body}
        self.net = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 4))

    def forward(self, x):
        {forward}
        return self.net(x)
"""
DATA = """
import torch
from torch.utils.data import TensorDataset

def points(**kwargs):
    {body}
    return TensorDataset(torch.zeros(200, 4), torch.zeros(200, dtype=torch.long))
"""
CONFIG = {
    "name": "own",
    "model": {"factory": "mymodel:Net", "size_param": "width"},
    "dataset": {"factory": "mydata:points"},
    "budgets": [1e5],
    "sizes": {"values": [4]},
    "batch": {"value": 32},
}


class Folder:
    """A user's project: files written, planned as in a new process."""

    def __init__(self, root: Path, monkeypatch):
        self.root, self.monkeypatch = root, monkeypatch
        self.config: dict = json.loads(json.dumps(CONFIG))
        self.net()
        self.data()

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))

    def net(
        self, imports="", body="pass", forward="pass", arguments="", place="mymodel.py"
    ) -> None:
        text = NET.format(imports=imports, body=body, forward=forward, arguments=arguments)
        self.write({place: text})

    def data(self, body="pass") -> None:
        self.write({"mydata.py": DATA.format(body=body)})

    def ids(self) -> list[str]:
        self.monkeypatch.chdir(self.root)
        for path in self.root.rglob("*.py"):  # other tests have plug-ins of these names
            name = ".".join(path.relative_to(self.root).with_suffix("").parts)
            sys.modules.pop(name.removesuffix(".__init__"), None)
        before, path = {*sys.modules}, [*sys.path]
        config, paths = complete_config(self.config), [str(self.root)]
        try:
            plan = make_plan(config, "results", paths)
        finally:
            for name in {*sys.modules} - before:
                if getattr(sys.modules[name], "__file__", None) is None or str(self.root) in str(
                    sys.modules[name].__file__
                ):
                    del sys.modules[name]
            sys.path[:] = path
        known = cache._known_plan(config, "results", paths)
        assert known is not None  # a dry run comes to the same plan, without running anything
        assert known.exists()
        return [experiment.experiment_id for experiment in plan.experiments]

    def warnings(self) -> str:
        plans = (plan_folder(self.root / "results") / "plans").glob("*.json")
        return "\n".join(read_json(max(plans, key=os.path.getmtime))["warnings"])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "project").mkdir()
    return Folder(tmp_path / "project", monkeypatch)


def sibling_package(f):
    f.write({"models/__init__.py": "", "layers/__init__.py": "", "layers/act.py": "x = 1\n"})
    f.net("from layers.act import x", place="models/net.py")
    f.config["model"]["factory"] = "models.net:Net"
    return lambda: f.write({"layers/act.py": "x = 2\n"})


def package_init(f):
    f.write({"mine/__init__.py": "DEFAULT = 1\n"})
    f.net(place="mine/net.py")
    f.config["model"]["factory"] = "mine.net:Net"
    return lambda: f.write({"mine/__init__.py": "DEFAULT = 2\n"})


def top_level_module(f):
    f.write({"mine/__init__.py": "", "utils.py": "DEPTH = 1\n"})
    f.net("from utils import DEPTH", place="mine/net.py")
    f.config["model"]["factory"] = "mine.net:Net"
    return lambda: f.write({"utils.py": "DEPTH = 2\n"})


def found_by_importlib(f):
    f.write({"parts/__init__.py": "", "parts/act.py": "x = 1\n"})
    f.net("import importlib", "importlib.import_module('parts.' + 'act')")
    return lambda: f.write({"parts/act.py": "x = 2\n"})


def imported_in_forward(f):
    f.write({"lazy/late.py": "x = 1\n"})
    f.net(forward="__import__('lazy.late')")
    return lambda: f.write({"lazy/late.py": "x = 2\n"})


def search_path_extended(f):
    f.write({"vendor/extra.py": "x = 1\n"})
    f.net("import sys; sys.path.insert(0, 'vendor'); import extra")
    return lambda: f.write({"vendor/extra.py": "x = 2\n"})


def opened_by_the_model(f):
    f.write({"act.txt": "ReLU"})
    f.net("ACT = open('act.txt').read()")
    return lambda: f.write({"act.txt": "Tanh"})


def opened_through_numpy(f):
    f.write({"table.txt": "1 2 3"})
    f.data("import numpy; numpy.loadtxt('table.txt')")
    return lambda: f.write({"table.txt": "1 2 4"})


def named_deep_in_the_arguments(f):
    f.write({"deep.txt": "one"})
    f.config["model"]["kwargs"] = {"options": {"files": [{"path": "deep.txt"}]}}
    f.net(arguments=", options=None")
    return lambda: f.write({"deep.txt": "two"})


def named_folder(f):
    f.write({"data/a.txt": "1", "data/b.txt": "2"})
    f.config["dataset"]["kwargs"] = {"folder": "data"}
    f.data("import os; [open(os.path.join('data', n)).read() for n in os.listdir('data')]")
    return lambda: f.write({"data/c.txt": "3"})


def linked_folder(f):
    f.write({"real/a.txt": "1"})
    (f.root / "link").symlink_to("real")
    f.config["dataset"]["kwargs"] = {"folder": "link"}
    f.data("open('link/a.txt').read()")
    return lambda: f.write({"real/a.txt": "2"})


def same_size_and_times(f):
    f.write({"act.txt": "ReLU"})
    f.net("ACT = open('act.txt').read()")

    def edit():
        status = (f.root / "act.txt").stat()
        f.write({"other.txt": "Tanh"})
        os.utime(f.root / "other.txt", ns=(status.st_atime_ns, status.st_mtime_ns))
        (f.root / "other.txt").replace(f.root / "act.txt")

    return edit


def installed_without_metadata(f):
    f.net(place="site-packages/vendored/__init__.py")
    f.monkeypatch.syspath_prepend(str(f.root / "site-packages"))
    f.monkeypatch.setattr("flops_fit.plugins.uses.START_PATH", tuple(sys.path))
    f.config["model"]["factory"] = "vendored:Net"
    return lambda: f.net(body="x = 2", place="site-packages/vendored/__init__.py")


CHANGES = [
    sibling_package,
    package_init,
    top_level_module,
    found_by_importlib,
    imported_in_forward,
    search_path_extended,
    opened_by_the_model,
    opened_through_numpy,
    named_deep_in_the_arguments,
    named_folder,
    linked_folder,
    same_size_and_times,
    installed_without_metadata,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_an_edit_of_what_a_plug_in_uses_is_noticed_and_undone_by_undoing_it(folder, change):
    edit = change(folder)
    before = folder.ids()
    assert folder.ids() == before
    shutil.copytree(folder.root, folder.root.with_name("kept"), symlinks=True)
    edit()
    assert folder.ids() != before
    shutil.rmtree(folder.root)
    folder.root.with_name("kept").rename(folder.root)  # other inodes, the same content
    assert folder.ids() == before


def comment(f):
    f.write({"layers/__init__.py": "", "layers/act.py": "x = 1\n"})
    f.net("from layers.act import x")
    return lambda: f.write({"layers/act.py": '"""Now with words."""\n\nx = (1)  # one\n'})


def touched(f):
    f.write({"act.txt": "ReLU"})
    f.net("ACT = open('act.txt').read()")
    return lambda: os.utime(f.root / "act.txt")


def own_log(f):
    f.net("open('run.log', 'a').write('started'); open('run.log').read()")
    return lambda: f.write({"run.log": "other"})


def temporary_file(f):
    f.net("import tempfile\nwith tempfile.NamedTemporaryFile('w') as t: open(t.name).read()")
    return lambda: None


def byte_code(f):
    f.write({"layers/__init__.py": "", "layers/act.py": "x = 1\n"})
    f.net("from layers.act import x")
    return lambda: subprocess.run(
        [sys.executable, "-m", "compileall", "-q", "."], cwd=f.root, check=True
    )


def results(f):
    f.data(
        "import os; [open(os.path.join(r, n), 'rb').read() for r, _, ns in os.walk('results') for n in ns]"
    )
    return lambda: f.write({"results/runs/x/record.txt": "other"})


def a_file_nobody_opens(f):
    f.write({"notes.txt": "one", "train/readme.txt": "one"})
    f.config["dataset"]["kwargs"] = {"split": "train"}
    return lambda: f.write({"notes.txt": "two", "train/readme.txt": "two"})


def moved_folder(f):
    f.write({"act.txt": "ReLU", "layers/__init__.py": "", "layers/act.py": "x = 1\n"})
    f.net("from layers.act import x; ACT = open('act.txt').read()")

    def move():
        f.root = f.root.rename(f.root.with_name("moved here"))

    return move


NO_CHANGES = [
    comment,
    touched,
    own_log,
    temporary_file,
    byte_code,
    results,
    a_file_nobody_opens,
    moved_folder,
]


@pytest.mark.parametrize("change", NO_CHANGES, ids=lambda change: change.__name__)
def test_what_decides_no_result_retrains_nothing(folder, change):
    edit = change(folder)
    before = folder.ids()
    edit()
    assert folder.ids() == before


def test_what_only_a_job_saw_counts_once_it_changes(folder):
    folder.write({"late.txt": "one"})
    before = folder.ids()
    references = [
        "mydata:points",
        "mymodel:Net",
        "flops_fit.loss:cross_entropy",
        "flops_fit.optimizer:adamw",
    ]
    hashes = FileHashes(folder.root / "hashes.json")
    late = Uses(files={"late.txt": str(folder.root / "late.txt")})
    assert list(note_late("results", references, late, hashes)) == ["late.txt"]
    assert folder.ids() == before
    folder.write({"late.txt": "two"})
    assert folder.ids() != before
    folder.write({"late.txt": "one"})
    assert folder.ids() == before


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("import sqlite3", "changes of files that sqlite3 reads are not noticed"),
        (
            "import os; os.environ.get('MIXTURE', '')",
            "the plug-ins read the environment variables MIXTURE",
        ),
        (
            "import subprocess; subprocess.run(['true', 'k.jsonl'])",
            "the plug-ins run other programs (true k.jsonl)",
        ),
    ],
)
def test_what_cannot_be_followed_is_named_in_the_plan(folder, line, sentence):
    folder.net(line)
    folder.ids()
    assert sentence in folder.warnings()


def test_an_ordinary_plug_in_is_warned_of_nothing(folder):
    folder.ids()
    assert "not noticed" not in folder.warnings()
