"""The built distributions: what is in them, and what the wheel does where torch is not installed."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
# What a fit needs, with what these packages import; no torch, no accelerate
PACKAGES = """
    numpy numpy.libs scipy scipy.libs pandas matplotlib mpl_toolkits contourpy cycler fontTools
    kiwisolver packaging PIL pillow.libs pyparsing dateutil six.py pytz jinja2 markupsafe yaml _yaml
    jsonschema jsonschema_specifications referencing rpds attr attrs threadpoolctl.py tqdm psutil
    typing_extensions.py
"""


def tracked_files() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return listed.stdout.splitlines()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the wheel and the source distribution of the tracked files."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for name in tracked_files():
        copy.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name, follow_symlinks=False)
    for kind in ("sdist", "wheel"):
        code = f"from setuptools import build_meta; build_meta.build_{kind}({str(out)!r})"
        subprocess.run([sys.executable, "-c", code], cwd=copy, check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def bare(built, tmp_path_factory):
    """How to run the installed command beside numpy, scipy, pandas and matplotlib alone."""
    folder = tmp_path_factory.mktemp("bare")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    wheel = next(built.glob("*.whl"))
    subprocess.run([*pip, "--target", str(folder), str(wheel)], check=True, capture_output=True)
    installed = Path(sysconfig.get_path("purelib"))
    for name in PACKAGES.split():
        if (installed / name).exists():
            folder.joinpath(name).symlink_to(installed / name)

    def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
        code = f"import sys; sys.path.insert(0, {str(folder)!r}); from flops_fit.cli.main import main; sys.exit(main())"
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        command = [sys.executable, "-S", "-c", code, *arguments]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)

    return run


def test_the_source_distribution_holds_what_its_tests_need(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert [name for name in tracked_files() if name not in inside] == []


def test_without_torch_the_wheel_fits_predicts_draws_and_reports(bare, tmp_path):
    shutil.copy(ROOT / "docs/standard/results.csv", tmp_path / "runs.csv")
    steps = [
        "fit --runs runs.csv --out fit.json --bootstrap 50",
        "predict --fit fit.json --flops 1e13",
        "plot --runs runs.csv --fit fit.json --out plots",
        "report --runs runs.csv --fit fit.json --plots plots --name mine --out mine.html",
    ]
    printed = []
    for arguments in steps:
        done = bare(*arguments.split(), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert "parameters N*" in printed[1]
    assert "<svg" in (tmp_path / "mine.html").read_text()


def test_without_torch_a_plan_says_what_it_needs(bare, tmp_path):
    results = ["--results", str(tmp_path)]
    done = bare("plan", "--config", "config/smoke.yaml", *results, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.startswith("flops-fit: error: plan needs the package torch")
