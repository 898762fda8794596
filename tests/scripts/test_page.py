"""The page on a user's own script does what it says, from its files to the report."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flops_fit.config.complete import complete_config

pytestmark = pytest.mark.scripts
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "own_script.md").read_text()
FILES = dict(re.findall(r"<!-- test: (\S+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL))


def snakemake(work: Path, *options: str) -> str:
    line = [sys.executable, "-m", "snakemake", *options, "--cores", "2", "--configfile", "own.yaml"]
    line += ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(work)]
    done = subprocess.run(line, cwd=work, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_script_of_the_page_is_planned_trained_and_reported(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    assert "15 experiments, 3 budgets" in snakemake(tmp_path, "plan")
    snakemake(tmp_path)
    page = (tmp_path / "results/own/report.html").read_text()
    assert "decided by the script" in page
    assert " parameters (size " in page
    assert "not identifiable" not in (tmp_path / "results/own/answer.txt").read_text()
    (tmp_path / "train.py").write_text("# mine\n" + FILES["train.py"])
    assert "train_run" not in snakemake(tmp_path, "-n")


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
def test_the_other_configs_of_the_page_are_accepted(text):
    for part in re.split(r"^(?=trainer:)", text, flags=re.MULTILINE)[1:]:
        trainer = yaml.safe_load(part)["trainer"]
        raw = yaml.safe_load(FILES["own.yaml"]) | {"trainer": trainer}
        assert complete_config(raw)["trainer"]["tokens_per_item"] >= 1
