"""An edit of whatever a plug-in uses makes another experiment; what decides nothing makes none."""

import json
import os
import py_compile
import shutil
import subprocess
import sys
import textwrap
import zipfile
import zipimport
from pathlib import Path

import pytest

from flops_fit.config.complete import complete_config
from flops_fit.experiment.places import plan_folder
from flops_fit.experiment.unfollowed import changed_folders, say_unfollowed
from flops_fit.experiment.used import note_late
from flops_fit.files import read_json
from flops_fit.plan import cache
from flops_fit.plan.planner import make_plan
from flops_fit.plugins.data_files import FileHashes
from flops_fit.plugins.uses import Uses
from flops_fit.store.plan_file import read_plan
from flops_fit.training.prepare import prepare_data

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
        zipimport._zip_directory_cache.clear()
        sys.path_importer_cache.clear()
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
        known = self.known()
        assert known is not None  # a dry run comes to the same plan, without running anything
        assert known.exists()
        return [experiment.experiment_id for experiment in plan.experiments]

    def known(self) -> Path | None:
        return cache._known_plan(complete_config(self.config), "results", [str(self.root)])

    def told(self, capsys) -> str:
        """What a start of the workflow says of the plan that it finds."""
        capsys.readouterr()
        say_unfollowed(read_plan(self.known()), "results")
        return capsys.readouterr().err

    def warnings(self) -> str:
        plans = (plan_folder(self.root / "results") / "plans").glob("*.json")
        return "\n".join(read_json(max(plans, key=os.path.getmtime))["warnings"])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "all/project").mkdir(parents=True)
    return Folder(tmp_path / "all/project", monkeypatch)


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


def equal_names_outside(f):
    f.write({"../temporary/a.txt": ""})
    f.monkeypatch.setattr("tempfile.tempdir", str(f.root.parent / "temporary"))
    f.write({"../outside/a/meta.txt": "1", "../outside/b/meta.txt": "1"})
    f.data("[open(f'../outside/{x}/meta.txt').read() for x in 'ab']")
    return lambda: f.write({"../outside/a/meta.txt": "2"})


def loaded_by_its_place(f):
    f.monkeypatch.setattr(sys, "dont_write_bytecode", False)
    f.write({"parts/act.py": "x = 1\n"})
    f.net(
        "import importlib.util as u\ns = u.spec_from_file_location('act', 'parts/act.py')\n"
        "s.loader.exec_module(u.module_from_spec(s))"
    )
    return lambda: f.write({"parts/act.py": "x = 2\n"})


def compiled_without_source(f):
    def build(value):
        f.write({"source.py": f"x = {value}\n"})
        py_compile.compile(str(f.root / "source.py"), cfile=str(f.root / "helper.pyc"))
        (f.root / "source.py").unlink()

    build(1)
    f.net("import helper")
    return lambda: (sys.modules.pop("helper", None), build(2))


def library_of_c_code(f):
    f.write({"fast.so": "one"})
    f.net("import ctypes, contextlib\nwith contextlib.suppress(OSError): ctypes.CDLL('./fast.so')")
    return lambda: f.write({"fast.so": "two"})


def module_of_an_archive(f):
    def pack(value):
        with zipfile.ZipFile(f.root / "lib.zip", "w") as archive:
            archive.writestr("packed.py", f"x = {value}\n")

    pack(1)
    f.net(
        "import sys; sys.path.insert(0, __file__.replace('mymodel.py', 'lib.zip')); import packed"
    )
    return lambda: pack(2)


def plug_in_in_an_archive(f):
    def pack(body):
        f.net(body=body)
        with zipfile.ZipFile(f.root / "lib.zip", "w") as archive:
            archive.writestr("packed.py", (f.root / "mymodel.py").read_text())

    pack("pass")
    f.monkeypatch.syspath_prepend(str(f.root / "lib.zip"))
    f.monkeypatch.setattr("flops_fit.plugins.uses.START_PATH", tuple(sys.path))
    f.config["model"]["factory"] = "packed:Net"
    return lambda: pack("self.other = 1")


def read_in_a_thread(f):
    f.write({"a.txt": "1"})
    f.data(
        "import numpy; from concurrent.futures import ThreadPoolExecutor as Pool\n"
        "    list(Pool(1).map(numpy.loadtxt, ['a.txt']))"
    )
    return lambda: f.write({"a.txt": "2"})


def read_in_a_forked_process(f):
    f.write({"a.txt": "1"})
    f.data(
        "import numpy, multiprocessing as m\n"
        "    with m.get_context('fork').Pool(1) as pool: pool.map(numpy.loadtxt, ['a.txt'])"
    )
    return lambda: f.write({"a.txt": "2"})


def folder_read_by_c_code(f):
    f.write({"tables/a.parquet": "1"})
    f.config["dataset"]["kwargs"] = {"folder": "tables"}
    f.data("import pyarrow.parquet")
    return lambda: f.write({"tables/a.parquet": "2"})


def linked_folder_in_a_source(f):
    f.write({"../elsewhere/a.txt": "1", "data/readme.txt": ""})
    (f.root / "data/shards").symlink_to("../../elsewhere")
    f.config["dataset"]["sources"] = ["data"]
    return lambda: f.write({"../elsewhere/a.txt": "2"})


def installed_from_a_folder(f, package="helper", **files):
    """A distribution as pip installs it from a folder; returns how to install a new state of it."""
    at = f"site-packages/{package}-1.0.dist-info"
    f.monkeypatch.syspath_prepend(str(f.root / "site-packages"))
    f.monkeypatch.setattr("flops_fit.plugins.uses.START_PATH", tuple(sys.path))

    def install(value):
        f.write(
            {
                f"{at}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n",
                f"{at}/direct_url.json": '{"url": "file:///x", "dir_info": {}}',
                f"{at}/RECORD": "".join(f"{name},sha256={value},1\n" for name in files["names"]),
            }
        )

    return install


def helper_installed_from_a_folder(f):
    install = installed_from_a_folder(f, names=["helper/__init__.py"])
    f.write({"site-packages/helper/__init__.py": "x = 1\n"})
    install(1)
    f.net("import helper")
    return lambda: install(2)


def data_of_a_package_installed_from_a_folder(f):
    install = installed_from_a_folder(f, "mylib", names=["mylib/net.yaml"])
    f.net(place="site-packages/mylib/__init__.py")
    f.config["model"]["factory"] = "mylib:Net"
    install(1)
    return lambda: install(2)


CHANGES = [
    equal_names_outside,
    loaded_by_its_place,
    compiled_without_source,
    library_of_c_code,
    module_of_an_archive,
    plug_in_in_an_archive,
    read_in_a_thread,
    read_in_a_forked_process,
    folder_read_by_c_code,
    linked_folder_in_a_source,
    helper_installed_from_a_folder,
    data_of_a_package_installed_from_a_folder,
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
    planned = folder.known()
    above, kept = folder.root.parent, folder.root.parent.with_name("kept")
    shutil.copytree(above, kept, symlinks=True)
    edit()
    assert folder.known() != planned  # a dry run plans again
    assert folder.ids() != before
    shutil.rmtree(above)
    kept.rename(above)  # other inodes, the same content
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
    copy = folder.root.with_name("copy")
    shutil.copytree(folder.root, copy)
    folder.root = copy
    assert folder.ids() == before
    folder.write({"late.txt": "two"})  # of the copy, where the jobs have never been
    assert folder.ids() != before


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


def test_an_ordinary_plug_in_is_warned_of_nothing(folder, capsys):
    folder.ids()
    assert "not noticed" not in folder.warnings()
    assert folder.told(capsys) == ""


def variable(f):
    f.monkeypatch.setenv("MIXTURE", "one")
    f.data("from os import environ as settings; settings['MIX' + 'TURE']")
    return lambda: f.monkeypatch.setenv("MIXTURE", "two")


def variable_that_was_not_set(f):
    f.monkeypatch.delenv("MIXTURE", raising=False)
    f.data("import os; os.getenv('MIXTURE')")
    return lambda: f.monkeypatch.setenv("MIXTURE", "two")


def precision(f):
    f.monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    return lambda: f.monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")


def file_in_a_folder_that_is_searched(f):
    f.write({"shards/a.txt": "1", "shards/cache.lock": ""})
    f.data("import glob; [open(name).read() for name in glob.glob('shards/*.txt')]")
    return lambda: f.write({"shards/b.txt": "2"})


def file_in_the_folder_of_the_project(f):
    f.write({"a.dat": "1"})
    f.data("import pathlib; [path.read_text() for path in pathlib.Path().glob('*.dat')]")
    return lambda: f.write({"b.dat": "2"})


def version_of_a_library(f):
    install = installed_from_a_folder(f, "library", names=[])
    f.write({"site-packages/library/__init__.py": ""})
    install(1)
    (f.root / "site-packages/library-1.0.dist-info/direct_url.json").unlink()
    f.write({"site-packages/library-1.0.dist-info/top_level.txt": "library\n"})
    f.net("import library")
    return lambda: f.write(
        {"site-packages/library-1.0.dist-info/METADATA": "Name: library\nVersion: 2.0\n"}
    )


@pytest.mark.parametrize(
    ("change", "clause"),
    [
        (variable, "the environment variable MIXTURE, which the code reads, has another value"),
        (variable_that_was_not_set, "the environment variable MIXTURE"),
        (precision, "the environment variable NVIDIA_TF32_OVERRIDE"),
        (version_of_a_library, "library 1.0 is now 2.0"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_change_that_is_not_followed_is_said_at_each_start(folder, capsys, change, clause):
    edit = change(folder)
    before = folder.ids()
    assert folder.told(capsys) == ""
    edit()
    assert f"flops-fit: warning: since these runs were first planned, {clause}" in folder.told(
        capsys
    )
    assert folder.ids() == before
    assert clause in folder.told(capsys)  # planned again, and still said


@pytest.mark.parametrize(
    ("change", "name"),
    [(file_in_a_folder_that_is_searched, "shards"), (file_in_the_folder_of_the_project, "./*.dat")],
)
def test_a_new_file_where_the_code_searches_makes_another_plan(folder, change, name):
    def changed():
        return changed_folders(read_plan(folder.known()), "results", [str(folder.root)])

    edit = change(folder)
    before = folder.ids()
    assert changed() == []
    edit()
    assert changed() == [name]
    assert folder.ids() != before
    assert changed() == []


@pytest.mark.parametrize(
    "edit",
    [
        lambda f: f.write({"shards/b.log": "", "shards/.hidden": "", "shards/cache.lock": ""}),
        lambda f: f.write({"other/b.txt": ""}),
        lambda f: f.monkeypatch.setenv("SLURM_JOB_ID", "2"),
    ],
)
def test_what_differs_between_machines_and_jobs_is_not_said(folder, capsys, edit):
    f = folder
    f.write({"shards/a.txt": "1", "shards/cache.lock": ""})
    f.data("import glob, os; glob.glob('shards/*'); os.environ.get('SLURM_JOB_ID')")
    f.ids()
    edit(f)
    assert f.told(capsys) == ""
    assert changed_folders(read_plan(f.known()), "results", [str(f.root)]) == []


def test_what_cannot_be_compared_is_said_at_each_start(folder, capsys):
    folder.net("import sqlite3")
    folder.ids()
    assert "warning: not followed: changes of files that sqlite3 reads" in folder.told(capsys)


def test_data_among_temporary_files_are_named_and_followed_once_they_are_arguments(folder, capsys):
    folder.write({"../outside/a.txt": "1"})
    path = folder.root.parent / "outside/a.txt"
    folder.data(f"open('{path}').read()")
    folder.ids()
    assert f"read {path} in a folder for temporary or cached files" in folder.told(capsys)
    folder.config["dataset"]["kwargs"] = {"file": str(path)}
    before = folder.ids()
    assert folder.told(capsys) == ""
    path.write_text("2")
    assert folder.ids() != before


def prepared(folder):
    """Plan a sweep whose data a package of the user prepares; returns its plan."""
    files = {
        "prep/__init__.py": "",
        "prep/make.py": """
            from clean.text import WORD

            def make(directory, sources):
                with open(directory + "/words.txt", "w") as file:
                    file.write(WORD + open("stop.txt").read())
        """,
        "clean/__init__.py": "",
        "clean/text.py": "WORD = 'one '\n",
        "stop.txt": "the",
        "mydata.py": DATA.format(body="pass")
        + "\ndef example(**kwargs):\n    return torch.zeros(4), torch.tensor(0)\n",
    }
    folder.write(files)
    folder.config["dataset"] |= {"prepare": "prep.make:make", "example": "mydata:example"}
    folder.ids()
    return read_plan(folder.known())


def test_data_are_prepared_anew_where_the_code_or_a_file_of_their_preparation_changed(
    folder, monkeypatch, capsys
):
    first = prepared(folder)
    monkeypatch.setattr(sys, "path", [str(folder.root), *sys.path])
    manifest = prepare_data(first, "results")
    assert (manifest.parent / "words.txt").read_text() == "one the"
    assert "used by the preparation, but not by the plan: stop.txt" in capsys.readouterr().err

    def planned():
        ids = folder.ids()
        return ids, read_plan(folder.known()).data_dir

    before = planned()
    assert before[1] == first.data_dir
    for file, text in {"clean/text.py": "WORD = 'two '\n", "stop.txt": "a"}.items():
        kept = (folder.root / file).read_text()
        folder.write({file: text})
        ids, data = planned()
        assert ids != before[0]
        assert data != before[1]
        folder.write({file: kept})
        assert planned() == before
