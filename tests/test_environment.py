"""The lock, the ranges, the conda files and the images speak of the same environment."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import flops_fit

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}


def locked(lock: str = "requirements.lock") -> dict[str, str]:
    lines = (ROOT / lock).read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {normal(name): version for name, version in pairs}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_locks_pin_every_dependency_within_its_range():
    pins, extras = locked(), dict(PROJECT["optional-dependencies"])
    site = extras.pop("docs")  # has an environment of its own
    listed = [*PROJECT["dependencies"], *sum(extras.values(), [])]  # noqa: RUF017
    for packages, versions in ((listed, pins), (site, locked("envs/docs.lock"))):
        for requirement in map(Requirement, packages):
            assert requirement.specifier.contains(versions[normal(requirement.name)]), requirement


@pytest.mark.parametrize("build", ["cpu", "cu126", "cu128", "cu130", "rocm7.0"])
def test_the_lock_takes_every_build_of_its_torch(build):
    pin = locked()["torch"]
    assert "+" not in pin
    assert Requirement(f"torch=={pin}").specifier.contains(f"{pin}+{build}")


def test_make_installs_a_named_build_of_torch_before_the_lock(tmp_path):
    line = ["make", "-n", f"VENV={tmp_path}", "TORCH=cu126", f"{tmp_path}/.ready"]
    printed = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    installs = [
        line.partition("-check ")[2] for line in printed.splitlines() if " pip install " in line
    ]
    assert installs == [
        f"torch=={locked()['torch']} --index-url https://download.pytorch.org/whl/cu126",
        "-r requirements.lock",
        "--no-deps -e .",
    ]


def test_accelerate_is_required_from_1_0_on():
    assert "accelerate>=1.0.0" in PROJECT["dependencies"]


def test_everything_that_the_package_imports_is_a_dependency():
    distributions = {"yaml": "pyyaml"}
    extras = PROJECT["optional-dependencies"]
    # Of the examples, checked where used; and of the plugin, which Snakemake alone imports
    optional = [*extras["demo"], *extras["hf"], *extras["workflow"]]
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


def test_the_conda_file_pins_what_the_lock_pins():
    conda = yaml.safe_load((ROOT / "envs" / "flops-fit.yaml").read_text())
    assert set(conda) <= {"name", "channels", "dependencies"}
    python, *found = [text.split("=") for text in conda["dependencies"]]
    assert python == ["python", locked_python()]
    assert {normal(CONDA_NAMES.get(name, name)): version for name, version in found} == {
        name: locked()[name] for name in map(own_name, PROJECT["dependencies"])
    }


def own_name(requirement: str) -> str:
    return normal(Requirement(requirement).name)


def test_the_complete_conda_file_installs_the_lock():
    conda = yaml.safe_load((ROOT / "envs" / "complete.yaml").read_text())
    assert set(conda) <= {"name", "channels", "dependencies"}
    assert f"python={locked_python()}" in conda["dependencies"]
    (pip,) = [part["pip"] for part in conda["dependencies"] if isinstance(part, dict)]
    (option,) = pip
    assert (ROOT / "envs" / option.removeprefix("--requirement ")).resolve() == (
        ROOT / "requirements.lock"
    )


def test_the_two_image_files_say_the_same():
    """COPY and RUN of the Dockerfile are %files and %post of Apptainer's file."""
    docker = (ROOT / "envs" / "Dockerfile").read_text()
    apptainer = (ROOT / "envs" / "flops-fit.def").read_text()

    def said(keyword: str) -> list[str]:
        return re.findall(rf"^{keyword} (.*)$", docker, re.MULTILINE)

    def section(name: str) -> list[str]:
        lines = apptainer.partition(f"%{name}\n")[2].partition("\n\n")[0].splitlines()
        return [line.strip() for line in lines]

    folder = said("WORKDIR")[0]
    names = []
    for line in said("COPY"):
        *sources, target = line.split()
        assert target == ("./" if (ROOT / sources[0]).is_file() else f"./{sources[0]}"), line
        names += sources
    assert section("files") == [f"{name} {folder}/{name}" for name in names]
    assert section("post") == [f"cd {folder}", *said("RUN")]
    assert said("FROM") == re.findall(r"^From: (.*)$", apptainer, re.MULTILINE)


def test_the_images_begin_with_the_lock_and_hold_what_the_workflow_reads():
    docker = (ROOT / "envs" / "Dockerfile").read_text()
    steps = re.findall(r"^(?:FROM|COPY|RUN) (.*)$", docker, re.MULTILINE)
    assert steps[:3] == [
        f"python:{locked_python()}-slim",
        "requirements.lock ./",
        "python -m pip install --no-cache-dir --requirement requirements.lock",
    ]
    assert steps[-1] == "python -m pip install --no-cache-dir --no-deps --editable ."
    copied = {name for step in steps for name in step.split() if (ROOT / name).exists()}
    assert {"Snakefile", "config", "envs", "profiles", "src", "workflow"} <= copied
    (data,) = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())["dataset"]["sources"]
    assert str(Path(data).parent) in copied


def locked_python() -> str:
    """The oldest Python of the lock, which is that of all tests."""
    lock = (ROOT / "requirements.lock").read_text()
    oldest = re.search(r"\(Python (3\.\d+) to 3\.\d+\)", lock)[1]
    assert PROJECT["requires-python"] == f">={oldest}"
    return oldest


def test_the_public_checks_are_those_of_ci_with_pinned_actions_and_no_rights():
    workflow = yaml.safe_load((ROOT / ".github/workflows/checks.yml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
    check, image = (workflow["jobs"][name] for name in ("check", "image"))
    parts = check["strategy"]["matrix"]["part"]
    assert f"set -- {' '.join(parts)}\n" in (ROOT / ".ci/run").read_text()
    assert check["container"] == f"python:{locked_python()}-bookworm"
    for step in [*check["steps"], *image["steps"]]:
        assert re.fullmatch(r"actions/\w+@[0-9a-f]{40}", step.get("uses", f"actions/x@{'0' * 40}"))
    index = re.search(r"PIP_EXTRA_INDEX_URL=(\S+)", (ROOT / "envs/Dockerfile").read_text())[1]
    assert workflow["env"]["PIP_EXTRA_INDEX_URL"] == index


def test_the_classifiers_name_the_pythons_of_the_docs_and_the_range():
    named = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if "Python :: 3." in c]
    page = (ROOT / "docs" / "environments.md").read_text()
    assert named == re.findall(r"^\| (3\.\d+)\.\d+ \|", page, re.MULTILINE)
    assert PROJECT["requires-python"] == f">={named[0]}"


def test_the_citation_and_the_package_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"title", "message", "authors"} <= citation.keys()
    assert citation["version"] == PROJECT["version"] == flops_fit.__version__
    assert citation["license"] == PROJECT["license"]
    newest = re.search(r"^## (\S+) \((\S+)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest.groups() == (citation["version"], citation["date-released"])
    assert citation["authors"] == [{"name": "The flops-fit authors"}]


def test_the_catalog_is_told_what_it_asks_for():
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert set(usage) == {"mandatory-flags", "software-stack-deployment", "report"}
    assert set(usage["mandatory-flags"]) == {"desc", "flags"}
    assert usage["report"] is True
    assert (ROOT / "workflow" / "Snakefile").exists()
    assert (ROOT / "workflow" / "profiles" / "default").resolve() == ROOT / "profiles" / "default"
    assert (ROOT / "config" / "README.md").exists()  # what the catalog shows
    assert (ROOT / "config" / "config.yaml").exists()
    assert list((ROOT / "workflow" / "rules").glob("*.smk"))
    assert {"snakemake", "workflow"} <= set(
        re.findall(r"\w+", (ROOT / "README.md").read_text().lower())
    )
    common = (ROOT / "workflow/rules/common.smk").read_text()
    assert 'Path("config/config.yaml")' in common  # relative, so that a deployed folder has its own
    assert {"README.md", "LICENSE"} <= {path.name for path in ROOT.iterdir()}


def test_the_address_of_the_repository_stands_in_one_place():
    kinds = {
        "",
        ".cff",
        ".css",
        ".def",
        ".html",
        ".ipynb",
        ".j2",
        ".md",
        ".py",
        ".smk",
        ".toml",
        ".yaml",
    }
    folders = ("docs", "config", "envs", "examples", "profiles", "src", "workflow")
    files = [*ROOT.glob("[!.]*"), *(path for name in folders for path in (ROOT / name).rglob("*"))]
    texts = {path: path.read_text() for path in files if path.suffix in kinds and path.is_file()}
    places = [
        str(path.relative_to(ROOT))
        for path, text in texts.items()
        for line in text.splitlines()
        if "OWNER/" in line or re.search(r"(://|github\(\W*)\S*/flops-fit", line)
    ]
    assert places == ["docs/workflow.md"]


def test_every_file_of_the_package_is_installed_with_it():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = ROOT / "src" / "flops_fit"
    named = {
        path
        for room, patterns in config["package-data"].items()
        for pattern in patterns
        for path in ROOT.joinpath("src", *room.split(".")).glob(pattern)
    }
    found = {p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert {path for path in found if path.suffix != ".py"} == named
    for folder in {path.parent for path in found if path.suffix == ".py"}:
        assert (folder / "__init__.py").exists()


@pytest.mark.slow
def test_the_library_alone_is_installed_and_imported_without_the_workflow(tmp_path):
    """From a wheel, in a folder of its own, out of reach of this checkout."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    checkout = tmp_path / "checkout"  # a build leaves its traces in the folder that it is run on
    for name in ("src", "workflow"):
        shutil.copytree(ROOT / name, checkout / name, symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, checkout], check=True)
    (wheel,) = tmp_path.glob("flops_fit-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "flops_fit",
        "snakemake_logger_plugin_flops_fit",
        f"flops_fit-{PROJECT['version']}.dist-info",
    }
    metadata = zipfile.ZipFile(wheel).read(f"flops_fit-{PROJECT['version']}.dist-info/METADATA")
    needed = [line for line in metadata.decode().splitlines() if line.startswith("Requires-Dist")]
    assert not [line for line in needed if "snakemake" in line and "extra ==" not in line]
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import sys; sys.modules['snakemake'] = None; import flops_fit; "
        "from flops_fit.config.complete import schema; from flops_fit.report import page; schema(); "
        "assert flops_fit.find_optimal; print(flops_fit.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        stdout=subprocess.PIPE,
    )
    assert Path(done.stdout.strip()).is_relative_to(tmp_path)
