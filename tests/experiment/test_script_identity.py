"""What enters the identity of a run that a user's own script trains, and what must not."""

import ast
import re
import sys
from pathlib import Path

import pytest
import yaml

from flops_fit.config.complete import complete_config
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.kinds import kind_of, script_recipe
from flops_fit.experiment.placeholders import filled
from flops_fit.experiment.places import spec_file
from flops_fit.experiment.recipe import read_recipe
from flops_fit.experiment.script_config import launching
from flops_fit.experiment.spec import read_spec
from flops_fit.jobs.script_trial import try_script
from flops_fit.plan.cache import _known_plan
from flops_fit.plan.planner import make_plan
from flops_fit.plan.script_costs import script_costs, size_arguments
from flops_fit.plugins.data_files import FileHashes
from flops_fit.plugins.uses import uses_identity
from flops_fit.sweep import Experiment

ROOT = Path(__file__).parents[2]
FILES = {
    "train.py": "import model\nfrom flops_fit.run import current_experiment\nprint(1)\n",
    "model.py": "from parts import layers\nWIDTH = 4\n",
    "parts/__init__.py": "",
    "parts/layers.py": "DEPTH = 2\n",
    "configs/base.json": "{}",
    "configs/tool.py": "A = 1\n",
    "settings.yaml": "a: 1\n",
    "accelerate.yaml": "mixed_precision: bf16\nnum_processes: 4\ngpu_ids: 2,3\n",
    "my.py": "def counts(size):\n    return {'params': 100 * size, 'flops_per_token': 600 * size}\n",
}
RAW = {
    "name": "own",
    "trainer": {
        "script": "train.py",
        "arguments": ["--lr", "{learning_rate}", "--config=settings.yaml"],
        "sources": ["configs"],
        "accelerate": "accelerate.yaml",
    },
    "counts": {"function": "my:counts"},
    "budgets": [1e9],
    "sizes": {"values": [64]},
}
EXPERIMENT = Experiment("", 1e9, 64, 1, 120_000, batch_items=4, steps=9, learning_rate=0.1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def identify(folder, experiment=EXPERIMENT, trainer=(), arguments=None, **changes):
    given = {**RAW["trainer"], **dict(trainer)}
    raw = {**RAW, "trainer": {k: v for k, v in given.items() if v is not None}, **changes}
    config, hashes = complete_config(raw), FileHashes(folder / "hashes.json")
    kind = kind_of(config)
    shared = kind.shared(config, [str(folder)], hashes)
    uses = uses_identity(kind.named_uses(config, [str(folder)]), hashes)
    return script_recipe(type(shared)(shared.program, uses), experiment, arguments or {})


def test_an_id_begins_with_the_script_and_follows_from_its_content(folder):
    recipe = identify(folder)
    assert re.fullmatch(r"train-size64-D1\.2e5-s0-[0-9a-f]{8}", recipe.experiment_id)
    assert read_recipe(recipe.to_dict()).experiment_id == recipe.experiment_id
    assert {*recipe.shared.uses["code"]} == {"train.py", "model.py", "parts/layers.py"}


@pytest.mark.parametrize(
    ("file", "text", "retrains"),
    [
        ("train.py", FILES["train.py"].replace("1", "2"), True),
        ("train.py", FILES["train.py"] + "# a comment\n", False),
        ("model.py", "from parts import layers\nWIDTH = 8\n", True),
        ("parts/layers.py", "DEPTH = 3\n", True),
        ("parts/layers.py", '"""Says more."""\nDEPTH = 2  # two\n', False),
        ("configs/base.json", "{ }", True),
        ("configs/tool.py", "A = 1  # a comment\n", False),
        ("configs/new.json", "{}", True),
        ("settings.yaml", "a: 2\n", True),
        ("accelerate.yaml", FILES["accelerate.yaml"].replace("bf16", "fp16"), True),
        ("accelerate.yaml", "# placed\nmixed_precision: bf16\nnum_processes: 8\n", False),
        ("accelerate.yaml", FILES["accelerate.yaml"] + "main_process_port: 29501\n", False),
        ("accelerate.yaml", FILES["accelerate.yaml"] + "fsdp_config: {fsdp_version: 2}\n", True),
        ("my.py", FILES["my.py"].replace("100", "101"), False),
        ("notes.txt", "mine", False),
    ],
)
def test_an_edit_retrains_where_it_may_change_a_result(folder, file, text, retrains):
    before = identify(folder).hash
    (folder / file).write_text(text)
    assert (identify(folder).hash != before) == retrains


@pytest.mark.parametrize(
    ("changes", "retrains"),
    [
        ({"trainer": {"arguments": ["--lr", "{size}", "--config=settings.yaml"]}}, True),
        ({"trainer": {"tokens_per_item": 2}}, True),
        ({"trainer": {"accelerate": None}}, True),
        ({"trainer": {"trial": False}}, False),
        ({"arguments": {"n_layer": 3}}, True),
        ({"resources": {"processes": 2}}, False),
        ({"counts": {"table": {64: {"params": 9, "flops_per_token": 9}}}}, False),
        ({"budgets": [2e9]}, False),
    ],
)
def test_a_setting_retrains_where_it_may_change_a_result(folder, changes, retrains):
    assert (identify(folder, **changes).hash != identify(folder).hash) == retrains


def test_ids_are_equal_on_every_machine(folder, tmp_path_factory, monkeypatch):
    other = tmp_path_factory.mktemp("elsewhere") / "copied here"
    other.mkdir()
    for name, text in FILES.items():
        (other / name).parent.mkdir(exist_ok=True)
        (other / name).write_text(text)
    here = identify(folder, trainer={"script": str(folder / "train.py")})
    monkeypatch.chdir(other)
    assert identify(other).hash == here.hash == identify(other).hash


def test_a_program_that_is_no_python_counts_with_its_bytes(folder):
    (folder / "program.sh").write_text("echo 1")
    command = {"script": None, "command": ["sh", "program.sh"], "accelerate": None}
    before = identify(folder, trainer=command)
    assert before.experiment_id.startswith("sh-size64")
    assert "program.sh" in before.shared.uses["files"]
    (folder / "program.sh").write_text("echo 2")
    assert identify(folder, trainer=command).hash != before.hash


@pytest.mark.parametrize(
    ("command", "file"),
    [
        (["python", "-m", "tool"], "tool/__main__.py"),
        (["python", "tool"], "tool/__main__.py"),
        (["bash", "-c", "python train.py --lr 1 && echo done"], "train.py"),
        (["bash", "-c", "python train.py --config=settings.yaml"], "settings.yaml"),
        (["my-tool", "--size", "{size}"], "tool/cli.py"),
    ],
)
def test_a_program_is_known_however_it_is_started(folder, monkeypatch, command, file):
    files = {
        "tool/__init__.py": "",
        "tool/__main__.py": "x = 1\n",
        "tool/cli.py": "def main(): pass\n",
        "tool-1.0.dist-info/METADATA": "Name: tool\nVersion: 1.0\n",
        "tool-1.0.dist-info/entry_points.txt": "[console_scripts]\nmy-tool = tool.cli:main\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    given = {"script": None, "command": command, "arguments": [], "accelerate": None, "sources": []}
    before = identify(folder, trainer=given).hash
    (folder / file).write_text("other = 2\n")
    assert identify(folder, trainer=given).hash != before


def test_a_file_of_the_counts_makes_another_plan_and_the_same_runs(folder):
    (folder / "my.py").write_text(
        "import json\ndef counts(size):\n    total = json.load(open('total.json'))\n"
        "    return {'params': 100, 'flops_per_token': 600, 'params_total': total}\n"
    )
    (folder / "total.json").write_text("110")
    config = complete_config({**RAW, "budgets": [1e7], "batch": {"value": 10}})

    def planned():
        (experiment,) = make_plan(config, "results", [str(folder)]).experiments
        return experiment.experiment_id, _known_plan(config, "results", [str(folder)])

    id_before, plan_before = planned()
    (folder / "total.json").write_text("120")
    assert _known_plan(config, "results", [str(folder)]) != plan_before
    assert planned()[0] == id_before


REFUSED = [
    ({"loss": {"function": "a:b"}}, "loss: cannot be combined with trainer, because the script"),
    ({"schedule": {"kind": "wsd"}}, "schedule: cannot be combined with trainer"),
    ({"precision": "bf16"}, "precision: cannot be combined with trainer"),
    ({"dataset": {"factory": "a:b"}}, "dataset: cannot be combined with trainer"),
    ({"trainer": {"command": ["a"]}}, r"trainer: \['command', 'script'\] given; allowed: exactly"),
    ({"counts": None}, "counts: None is not allowed"),
    ({"counts": {}}, r"counts: \[\] given; allowed: exactly one of function, table"),
    ({"model": {"factory": "a:B"}}, "counts: .* exactly one of counts and model.factory"),
    ({"runs": "a.csv"}, "trainer: cannot be combined with runs"),
    ({"trainer": {"script": "no.py"}}, "trainer.script: 'no.py' does not exist below"),
    ({"trainer": {"sources": ["no"]}}, "trainer.sources: 'no' does not exist below"),
    ({"trainer": {"accelerate": "no"}}, "trainer.accelerate: 'no' does not exist below"),
    ({"trainer": {"speed": 1}}, "trainer.speed: unknown key"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_a_script_decides_or_lacks_is_refused(folder, changes, message):
    with pytest.raises(FlopsFitError, match=message):
        identify(folder, **changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("deepspeed_config: {deepspeed_multinode_launcher: pdsh}", "no lock"),
        ("compute_environment: AMAZON_SAGEMAKER", "allowed: LOCAL_MACHINE"),
        ("- a", "no mapping; allowed: a config file of accelerate"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_config_of_accelerate_that_leaves_the_job_is_refused(folder, content, message):
    (folder / "accelerate.yaml").write_text(content)
    with pytest.raises(FlopsFitError, match=message):
        identify(folder)


def test_counts_need_a_trainer():
    raw = {**RAW, "trainer": None, "model": {"factory": "a:B", "size_param": "d"}}
    with pytest.raises(FlopsFitError, match="counts: cannot be used without trainer"):
        complete_config({**raw, "dataset": {"factory": "a:b"}})


def test_without_a_trainer_and_a_dataset_a_sweep_is_planned_alone(tmp_path):
    table = {2: {"params": 200, "flops_per_token": 1200}}
    raw = {"name": "own", "counts": {"table": table}, "budgets": [1e6], "sizes": {"values": [2]}}
    config = complete_config(raw | {"batch": {"value": 16}})
    assert complete_config(yaml.safe_load(yaml.safe_dump(config))) == config
    (experiment,) = make_plan(config, tmp_path, []).experiments
    assert experiment.experiment_id.startswith("planned-size2-D")
    spec = read_spec(spec_file(tmp_path, experiment.experiment_id))
    with pytest.raises(FlopsFitError, match="trainer: missing, so that runs are planned and not"):
        try_script(spec)
    assert "flops-fit fit --runs plan.csv" in "".join(make_plan(config, tmp_path, []).warnings)


def test_placeholders_are_filled_and_unknown_ones_refused(folder):
    trainer = complete_config(RAW)["trainer"]
    assert filled("--x={size}/{{b}} }", {"size": 8}) == "--x=8/{b} }"
    ready = launching(trainer | {"arguments": ["{n_layer}"]}, [str(folder)], ["n_layer"])
    assert ready["line"] == [str(folder / "train.py"), "{n_layer}"]
    with pytest.raises(FlopsFitError, match=r"\{width\} in '--w=\{width\}' is no placeholder"):
        launching(trainer | {"arguments": ["--w={width}"]}, [str(folder)], [])


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"params": 5}, "counts: size 8: flops_per_token: missing; allowed: a number above zero"),
        ({"params": 0, "flops_per_token": 1}, "params: 0"),
        ({"params": 1, "flops_per_token": float("nan")}, "flops_per_token: nan"),
        ({"params": 1, "flops_per_token": 1, "width": 2}, "width; allowed: params"),
        (7, "7; allowed: a mapping"),
    ],
)
def test_counts_that_no_model_has_are_refused(stated, message):
    config = {"trainer": {"tokens_per_item": 1}, "counts": {"table": {8: stated}}}
    with pytest.raises(FlopsFitError, match=re.escape(message)):
        script_costs(config, lambda size: {}).of([8])


def test_a_size_that_a_table_lacks_is_named():
    config = {"trainer": {"tokens_per_item": 1}, "counts": {"table": {8: {}}}}
    with pytest.raises(FlopsFitError, match=r"counts\.table: the size 4 is missing; it has 8"):
        script_costs(config, lambda size: {}).of([4])
    with pytest.raises(FlopsFitError, match=r"model\.size_map\.4: seed is a placeholder already"):
        size_arguments({"size_map": {4: {"seed": 1}}})(4)


def test_a_model_of_several_dials_is_counted_by_its_factory(folder):
    (folder / "dials.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def net(depth, width):\n"
        "    return nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(depth)))\n"
        "def item():\n    return torch.zeros(4), torch.zeros(4)\n"
    )
    model = {"factory": "dials:net", "size_map": {"2": {"depth": 2, "width": 4}}}
    raw = {**RAW, "counts": None, "model": model | {"example": "dials:item"}}
    del raw["counts"]
    sys.path.insert(0, str(folder))
    try:
        config = complete_config(raw)
        count = script_costs(config, size_arguments(config["model"])).of([2])[2]
    finally:
        sys.path.remove(str(folder))
    assert (count.params, count.flops_per_token) == (32, 2 * 32 * 2 + 2 * 16)


def test_a_complete_config_is_completed_to_itself(folder):
    config = complete_config(RAW | {"sizes": {"values": [2]}})
    assert complete_config(yaml.safe_load(yaml.safe_dump(config))) == config
    assert not {"loss", "schedule", "optimizer", "evaluation"} & {*config}


def test_only_the_classes_of_a_kind_know_it():
    """No condition on the kind of trainer outside of the two functions that tell it."""
    allowed = {("config/check.py", "kind_of_sweep"), ("experiment/recipe.py", "recipe_kind")}
    section = ("experiment/script_config.py", "plan/script_costs.py", "config/check.py")
    asked = set()
    for path in (ROOT / "src" / "flops_fit").rglob("*.py"):
        name = str(path.relative_to(ROOT / "src" / "flops_fit"))
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                for node in ast.walk(function):
                    tests = [node.test] if isinstance(node, ast.If | ast.IfExp | ast.While) else []
                    text = " ".join(ast.unparse(test) for test in tests)
                    if re.search(
                        r"trainer'\]?|trained_by|(Script|Plugin)(Recipe|Kind|Trainer)", text
                    ):
                        asked.add((name, function.name))
    assert {place for place in asked if place[0] not in section} <= allowed
    assert ("experiment/recipe.py", "recipe_kind") in asked
