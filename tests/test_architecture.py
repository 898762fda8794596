"""The page on architecture, the folders and the contracts of import-linter say the same."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "flops_fit"
PAGE = (ROOT / "docs" / "architecture.md").read_text()
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
LAYERS, *FORBIDDEN = CONTRACTS["contracts"]
ROW = re.compile(r"^\| `(\w+)` \| .+? \| (.*?) ?\|$", re.MULTILINE)
LONG = re.compile(r"^\| `([\w/]+\.py)(?:: (\w+))?` \| .+ \|$", re.MULTILINE)
MOST_LINES, LONGEST_FUNCTION = 400, 80


def test_the_rooms_of_the_page_are_the_folders_and_modules():
    here = {path.stem for path in PACKAGE.glob("*.py")} | {
        path.parent.name for path in PACKAGE.glob("*/__init__.py")
    }
    assert sorted(room for room, _ in ROW.findall(PAGE)) == sorted(here - {"__init__"})


def test_the_page_names_the_rooms_in_the_order_of_their_layers():
    named = [room for room, _ in ROW.findall(PAGE)]
    assert named == [room for layer in LAYERS["layers"] for room in re.findall(r"\w+", layer)]
    assert LAYERS["exhaustive"] is True


def test_the_page_names_what_is_forbidden_below_a_room():
    layer = {
        room: i for i, line in enumerate(LAYERS["layers"]) for room in re.findall(r"\w+", line)
    }
    forbidden = {room: set() for room in layer}
    for contract in FORBIDDEN:
        targets = {module.removeprefix("flops_fit.") for module in contract["forbidden_modules"]}
        for source in (module.removeprefix("flops_fit.") for module in contract["source_modules"]):
            if source in layer:  # and no single file of a room
                forbidden[source] |= {room for room in targets if layer[room] > layer[source]}
    assert {room: set(re.findall(r"\w+", text)) for room, text in ROW.findall(PAGE)} == forbidden


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("fit/core.py", "from flops_fit.plan import warnings"),
        ("fit/answer.py", "from flops_fit.notation import count_text"),
        ("report/page.py", "from flops_fit.training import curve"),
        ("store/records.py", "from flops_fit.plan.price import price"),
        ("plan/table.py", "from flops_fit.fit.runs import COUNTS"),
    ],
)
def test_a_forbidden_import_fails_the_lint(tmp_path, file, line):
    shutil.copytree(PACKAGE, tmp_path / "flops_fit")
    with (tmp_path / "flops_fit" / file).open("a") as code:
        code.write(f"\n{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout
    assert "BROKEN" in done.stdout


def test_the_imports_of_the_package_keep_the_contracts():
    done = lint_imports(ROOT / "src")
    assert done.returncode == 0, done.stdout


def lint_imports(source: Path) -> subprocess.CompletedProcess:
    """import-linter under the contracts of this checkout, on the package below ``source``."""
    code = f"import sys; sys.path.insert(0, {str(source)!r}); from importlinter.cli import "
    return subprocess.run(
        [
            sys.executable,
            "-c",
            code + "lint_imports_command as lint; lint()",
            "--no-cache",
            "--no-logo",
            str(ROOT / "pyproject.toml"),
        ],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_is_too_long_is_named_on_the_page_and_nothing_else():
    found = set()
    for path in PACKAGE.rglob("*.py"):
        name, text = str(path.relative_to(PACKAGE)), path.read_text()
        if len(text.splitlines()) > MOST_LINES:
            found.add((name, ""))
        functions = (f for f in ast.walk(ast.parse(text)) if isinstance(f, ast.FunctionDef))
        found |= {
            (name, f.name) for f in functions if f.end_lineno - f.lineno + 1 > LONGEST_FUNCTION
        }
    assert set(LONG.findall(PAGE)) == found
