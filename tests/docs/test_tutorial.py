"""The tutorial does what it says, from the plain script to the report."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.docs
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text()
FILES = dict(re.findall(r"<!-- test: (\S+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL))
(TEXT,) = re.findall(r"^cat .*$", PAGE, re.MULTILINE)


def run(command: str, work: Path) -> str:
    line = command.replace(
        "snakemake", f"{sys.executable} -m snakemake --snakefile {ROOT}/Snakefile"
    )
    line = re.sub(r"(^|\()python ", rf"\1{sys.executable} ", line)
    done = subprocess.run(
        line, shell=True, cwd=work, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_tutorial_ends_in_a_report_as_it_says(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    run(TEXT, tmp_path)
    text = (tmp_path / "text.txt").read_bytes()
    assert len(text) > 3_000_000  # enough for the page's largest D to be read once
    config = yaml.safe_load(FILES["nextbyte.yaml"])
    planned = run("snakemake plan --cores 1 --configfile nextbyte.yaml", tmp_path)
    assert "17 experiments, 3 budgets" in planned
    assert "never tuned for this model" in planned
    assert "warning" not in planned
    assert "17 experiments, 3 budgets" in PAGE
    config["budgets"] = [
        float(budget) / 10 for budget in config["budgets"]
    ]  # seconds instead of minutes
    config["limits"] = {"min_steps": 2}
    (tmp_path / "nextbyte.yaml").write_text(yaml.safe_dump(config))
    run("snakemake --cores all --configfile nextbyte.yaml", tmp_path)
    assert (tmp_path / "results/nextbyte/report.html").exists()
    (tmp_path / "text.txt").write_bytes(text[:200_000])
    assert 1 < float(run("python train_plain.py", tmp_path).split("(")[1].split(")")[0]) < 6
