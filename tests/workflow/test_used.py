"""What plug-ins use beside their own modules, driven through the real workflow.

One sweep uses a sibling package, the ``__init__.py`` above its model, a file that the model opens, a
folder that the dataset's arguments name, and a file that only a job opens. Each edit retrains both
runs; undoing it retrains nothing.
"""

import os
import shutil

import pytest
from project import SWEEP, TABLES, Project, copy

pytestmark = pytest.mark.staleness

MODEL = """\
import json

from torch import nn

from layers.act import ACT


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        bias = json.load(open("model.json"))["bias"]
        self.layers = nn.Sequential(nn.Linear(4, width, bias), getattr(nn, ACT)(), nn.Linear(width, 4))

    def forward(self, x):
        return self.layers(x)
"""
DATA = """\
import os

import numpy
import torch
from torch.utils.data import Dataset


class Points(Dataset):
    def __init__(self, folder):
        parts = [numpy.loadtxt(os.path.join(folder, n), delimiter=",", dtype="float32", ndmin=2)
                 for n in sorted(os.listdir(folder))]
        table = torch.from_numpy(numpy.concatenate(parts))
        self.inputs, self.targets = table[:, :-1], table[:, -1].long()

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        if index > 150:  # behind the items that a plan looks at
            open("late.txt").read()
        return self.inputs[index], self.targets[index]
"""
CHANGES = {
    "a module of a sibling package": ("layers/act.py", "ReLU", "Tanh"),
    "the __init__.py above the model": ("mine/__init__.py", "DEFAULT = 1", "DEFAULT = 2"),
    "a file that the model opens": ("model.json", "true", "false"),
    "a file of a folder that is named": ("parts/b.csv", "0.5", "0.6"),
    "a file that only a job opens": ("late.txt", "one", "two"),
}


def write(project: Project) -> None:
    files = {
        "mine/__init__.py": "DEFAULT = 1\n",
        "mine/net.py": MODEL,
        "mydata.py": DATA,
        "layers/__init__.py": "",
        "layers/act.py": 'ACT = "ReLU"\n',
        "model.json": '{"bias": true}',
        "late.txt": "one",
        "parts/b.csv": "0.5,1.0,0.0,0.0,1\n",
    }
    for name, text in files.items():
        path = project.work / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    shutil.move(project.work / "points.csv", project.work / "parts/a.csv")
    project.configure(
        model={"factory": "mine.net:Net", "size_param": "width"},
        dataset={"factory": "mydata:Points", "kwargs": {"folder": "parts"}},
        budgets=[1e5],
        sizes={"values": [4, 8]},
        loss=SWEEP["loss"],
    )


@pytest.fixture(scope="module")
def used(tmp_path_factory) -> Project:
    """The trained sweep, and beside it an exact copy of the user's folder, named ``kept``."""
    project = Project.create(tmp_path_factory.mktemp("used") / "root")
    write(project)
    project.run(*TABLES)
    copy(project.work, project.work.with_name("kept"))
    return project


QUICK = ("a module of a sibling package", "a file that only a job opens")  # the others take longer


@pytest.mark.parametrize(
    "change", [pytest.param(c, marks=[] if c in QUICK else pytest.mark.slow) for c in CHANGES]
)
def test_an_edit_retrains_all_and_undoing_it_nothing(used, change):
    shutil.rmtree(used.work)
    copy(used.work.with_name("kept"), used.work)
    name, old, new = CHANGES[change]
    used.edit(used.work / name, old, new)
    before = {path.name for path in used.runs.iterdir()}
    planned = used.dry_run(*TABLES)
    assert len(planned.trained) == 2, planned.output
    assert planned.restored == set()
    used.edit(used.work / name, new, old)
    assert used.dry_run(*TABLES).trained == set()
    assert {path.name for path in used.runs.iterdir()} == before


@pytest.mark.slow
def test_an_edit_that_keeps_the_size_and_the_times_of_a_file_is_seen(used):
    shutil.rmtree(used.work)
    copy(used.work.with_name("kept"), used.work)
    path = used.work / "layers/act.py"
    status = path.stat()
    used.edit(path, "ReLU", "GELU")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert len(used.dry_run(*TABLES).trained) == 2
