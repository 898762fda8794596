"""benchmarks/gpu: every part that a CPU can do, at a tiny size, and the page that it writes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks" / "gpu"


def page_of(lines: list[dict]) -> str:
    """The page as the benchmark writes it for ``lines``."""
    code = "import json, sys; from page import page; print(page(json.load(sys.stdin)), end='')"
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=FOLDER,
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_the_page_says_that_nothing_was_measured_until_something_is():
    kept = ROOT / "docs" / "gpu" / "lines.jsonl"
    lines = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    assert (ROOT / "docs" / "gpu.md").read_text() == page_of(lines)
    assert "Nothing has been measured yet" in page_of([])


def test_a_measured_line_stands_on_the_page_with_its_machine():
    line = {"part": 3, "what": "a | b", "figure": "1.00", "command": "do it", "holds": False}
    text = page_of([line | {"card": "NVIDIA H100", "driver": "580.1", "torch": "2.13.0"}])
    assert "| 3 | a / b | 1.00 | **no** | NVIDIA H100, 580.1, 2.13.0 | `do it` |" in text
    assert "Nothing has been measured" not in text


@pytest.mark.slow
def test_every_part_that_a_cpu_can_do_is_done_at_a_tiny_size(tmp_path):
    line = [sys.executable, str(FOLDER), "--device", "cpu", "--work", str(tmp_path)]
    line += ["--minutes", "30"]  # on a busy machine
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    for part in range(1, 9):
        lines = [json.loads(x) for x in (tmp_path / f"part{part}.jsonl").read_text().splitlines()]
        assert lines, part
        assert not [x for x in lines if x["holds"] is False], done.stdout
        assert [x for x in lines if x["figure"] != "needs a GPU"], part
    assert "tiny size" in (tmp_path / "gpu.md").read_text()


@pytest.mark.slow
def test_a_part_that_fails_or_takes_too_long_says_so_and_the_next_one_starts(tmp_path):
    late = ["--device", "cpu", "--only", "3,8", "--minutes", "0.0001", "--work", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(FOLDER), *late], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    for part in (3, 8):
        assert f"part {part}: failed: not done after 0.0001 minutes" in done.stdout
    refused = subprocess.run(
        [sys.executable, str(FOLDER), "--only", "9"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "--only: '9'; allowed: parts 1 to 8" in refused.stderr
