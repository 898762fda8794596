"""What reruns with a user's own script is exactly what changed, through the real workflow.

Each row starts from the same trained sweep, and asks Snakemake what it would do (``-n``).
"""

import json
import shutil

import pytest
import yaml
from project import TABLES, Project, copy, label

pytestmark = pytest.mark.scripts
FILES = {
    "train.py": """\
from flops_fit.run import current_experiment

from curve import loss_at

run = current_experiment()
scale = float(open("late.txt").read())
run.finish(loss=scale * loss_at(run.size, run.tokens), tokens=run.tokens, params=100 * run.size)
""",
    "curve.py": "def loss_at(size, tokens):\n    return 1 + 1 / size + 1 / tokens\n",
    "counts.py": "def counts(size):\n    return {'params': 100 * size, 'flops_per_token': 600 * size}\n",
    "data.csv": "1,2\n",
    "late.txt": "1.0\n",
    "accelerate.yaml": "mixed_precision: 'no'\nnum_processes: 3\n",
}
TRAINER = {
    "script": "train.py",
    "arguments": ["--width", "{size}"],
    "sources": ["data.csv"],
    "accelerate": "accelerate.yaml",
}
CONFIG = {
    "name": "own",
    "trainer": TRAINER,
    "counts": {"function": "counts:counts"},
    "budgets": [1e6, 2e6],
    "sizes": {"values": [4, 8]},
    "batch": {"value": 16},
    "learning_rate": {"value": 0.003},
    "fit": {"bootstrap": 0},
}
CELLS = {"size4-D416-s0", "size8-D208-s0", "size4-D832-s0", "size8-D416-s0"}
COLLECT = {"collect_runs"}
RECHECK = {"check_inputs", "train_run", *COLLECT}
# The change of a config: what trains, and the rules that run with ``--until collect_runs``.
CONFIGS = {
    "nothing": ({}, set(), set()),
    "a seed": ({"seeds": [0, 1]}, {cell.replace("-s0", "-s1") for cell in CELLS}, RECHECK),
    "a budget": ({"budgets": [1e6, 2e6, 4e6]}, {"size4-D1.66e3-s0", "size8-D832-s0"}, RECHECK),
    "a budget fewer": ({"budgets": [2e6]}, set(), COLLECT),
    "the learning rate": ({"learning_rate": {"value": 0.01}}, CELLS, RECHECK),
    "an argument": ({"trainer": TRAINER | {"arguments": ["--w", "{size}"]}}, CELLS, RECHECK),
    "a source fewer": ({"trainer": TRAINER | {"sources": []}}, CELLS, RECHECK),
    "threads": ({"resources": {"threads": 2}}, set(), set()),
    "processes": ({"resources": {"processes": 2}}, set(), set()),
    "no trial": ({"trainer": TRAINER | {"trial": False}}, set(), set()),
}
# The edit of a file: what trains.
EDITS = {
    "the script": ("train.py", "loss=scale", "loss=2 * scale", CELLS),
    "a comment": ("train.py", "scale =", "# A remark.\nscale =", set()),
    "a module that it imports": ("curve.py", "1 + 1 / size", "2 + 1 / size", CELLS),
    "a comment there": ("curve.py", "    return", "    # A remark.\n    return", set()),
    "a source": ("data.csv", "2", "3", CELLS),
    "a file that only runs read": ("late.txt", "1.0", "1.5", CELLS),
    "accelerate's precision": ("accelerate.yaml", "'no'", "bf16", CELLS),
    "accelerate's processes": ("accelerate.yaml", "3", "4", set()),
    "other params by counts": (
        "counts.py",
        "'params': 100",
        "'params_total': 9, 'params': 100",
        set(),
    ),
    "other FLOPs by counts": (
        "counts.py",
        "600 * size",
        "300 * size",
        {"size4-D1.66e3-s0", "size8-D832-s0"},
    ),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Project:
    """The trained sweep, and beside it an exact copy of the user's folder, named ``kept``."""
    project = Project.create(tmp_path_factory.mktemp("script") / "root")
    for name, text in FILES.items():
        (project.work / name).write_text(text)
    (project.work / "sweep.yaml").write_text(yaml.safe_dump(CONFIG))
    first = project.run(*TABLES)
    assert first.trained == CELLS
    assert first.rules == RECHECK
    copy(project.work, project.work.with_name("kept"))
    return project


@pytest.fixture
def project(trained) -> Project:
    shutil.rmtree(trained.work)
    copy(trained.work.with_name("kept"), trained.work)
    return trained


@pytest.mark.parametrize("change", CONFIGS)
def test_a_changed_config_reruns_what_it_touches(project, change):
    changes, new, rules = CONFIGS[change]
    (project.work / "sweep.yaml").write_text(yaml.safe_dump({**CONFIG, **changes}))
    planned = project.dry_run(*TABLES)
    assert (planned.trained, planned.restored) == (new, set())
    assert planned.rules - {"check_inputs"} == rules - {"check_inputs"}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_retrains_what_it_decides_and_undoing_it_nothing(project, edit):
    name, old, new, trains = EDITS[edit]
    project.edit(project.work / name, old, new)
    planned = project.dry_run(*TABLES)
    assert (planned.trained, planned.restored) == (trains, set())
    project.edit(project.work / name, new, old)
    assert project.dry_run(*TABLES).jobs == []


def test_a_lost_result_is_restored_and_a_lost_run_trained_again(project):
    (project.run_folder("size4-D416-s0") / "result.json").unlink()
    record = project.run_folder("size8-D416-s0") / "record.json"
    loss = json.loads(record.read_text())["final_loss"]
    shutil.rmtree(record.parent)
    done = project.run(*TABLES)
    assert (done.trained, done.restored) == ({"size8-D416-s0"}, {"size4-D416-s0"})
    again = json.loads((project.run_folder("size8-D416-s0") / "record.json").read_text())
    assert again["final_loss"] == loss
    assert {label(name) for name in project.ids()} == CELLS
