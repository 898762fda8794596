"""The lock, the ranges and the conda file speak of the same environment."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {normal(name): version for name, version in pairs}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_lock_pins_every_dependency_within_its_range():
    pins = locked()
    wanted = [*PROJECT["dependencies"], *sum(PROJECT["optional-dependencies"].values(), [])]  # noqa: RUF017
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pins[normal(requirement.name)]), requirement


def test_accelerate_is_required_from_1_0_on():
    assert "accelerate>=1.0.0" in PROJECT["dependencies"]


def test_everything_that_the_package_imports_is_a_dependency():
    distributions = {"yaml": "pyyaml"}
    extras = PROJECT["optional-dependencies"]
    optional = [*extras["demo"], *extras["hf"]]  # of the examples, checked where used
    declared = {normal(Requirement(text).name) for text in [*PROJECT["dependencies"], *optional]}
    imported = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    foreign = imported - set(sys.stdlib_module_names) - {"flops_fit"}
    assert {normal(distributions.get(name, name)) for name in foreign} <= declared


def test_the_conda_file_asks_for_the_same_ranges():
    conda = yaml.safe_load((ROOT / "envs" / "flops-fit.yaml").read_text())["dependencies"]
    found = {Requirement(text) for text in conda if not text.startswith("python")}
    ours = {normal(r.name): r.specifier for r in map(Requirement, PROJECT["dependencies"])}
    for requirement in found:
        name = normal(CONDA_NAMES.get(requirement.name, requirement.name))
        if name in ours:
            assert requirement.specifier == ours[name], requirement
    assert set(ours) <= {normal(CONDA_NAMES.get(r.name, r.name)) for r in found}
