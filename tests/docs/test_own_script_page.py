"""The blocks of docs/own_script.md that need no training; tests/scripts/test_page.py trains the others."""

import re
from pathlib import Path

import yaml

from flops_fit.config.complete import complete_config
from flops_fit.experiment.places import spec_file
from flops_fit.experiment.spec import read_spec
from flops_fit.jobs.script import command_line, script_spec_of
from flops_fit.plan.planner import make_plan

PAGE = (Path(__file__).parents[2] / "docs" / "own_script.md").read_text()
FILES = dict(re.findall(r"<!-- test: (\S+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL))


def test_a_script_with_options_is_planned_and_started_with_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("my_nano.py", "nano.yaml"):
        (tmp_path / name).write_text(FILES[name])
    (tmp_path / "train.py").touch()
    (tmp_path / "data").mkdir()
    for part in ("train", "val"):
        (tmp_path / "data" / f"{part}.bin").touch()
    config = complete_config(yaml.safe_load(FILES["nano.yaml"]))
    plan = make_plan(config, tmp_path / "results", [str(tmp_path)])
    assert len(plan.experiments) == 18
    assert min(e.steps for e in plan.experiments) > 100
    first = plan.experiments[0]
    assert first.count.params == 3 * 12 * 8**2 + 96 * 8
    assert first.num_tokens == first.steps * first.batch_items * 64
    spec = read_spec(spec_file(tmp_path / "results", first.experiment_id))
    assert {*spec.uses.files} == {"data/train.bin", "data/val.bin"}
    given = script_spec_of(spec, "out", processes=1, threads=1, gpus=0)
    line = command_line(spec, given, tmp_path)
    assert line[line.index("--n_layer") :] == [
        *("--n_layer", "3", "--n_head", "1", "--n_embd", "8", "--out_dir", "out"),
        *("--batch_size", "4", "--max_iters", str(first.steps), "--learning_rate", "0.003"),
    ]
