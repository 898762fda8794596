"""Every command of the documentation is run, or it stands here what runs it, or why nothing can.

To add a command: write it into a fence without a language (what a command prints goes under
```text), or into a config's head after "#   ". Then put the line into HERE (run verbatim, in this
order, in one project), DRY (with `-n` added), ELSEWHERE (with its test) or CANNOT (with the reason).

What runs commands is marked ``docs`` and has a command of its own (`make test-docs`), as it takes
minutes; that no line is forgotten is tested always.
"""

import ast
import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from flops_fit.cli.main import make_parser
from flops_fit.config.complete import complete_config
from flops_fit.files import read_json

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("[a-z]*/README.md")])
HEADS = sorted([*ROOT.glob("config/*.yaml"), *(p for p in ROOT.glob("envs/*") if p.is_file())])
GENERATED = {"api.md", "bad_input.md"}  # from the source, and compared with it by their own tests
HAND_WRITTEN = [page for page in PAGES if page.name not in GENERATED]
FENCE = re.compile(
    r"(?:<!-- (test|file): (\S+) -->\n)?^```([\w{}]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE
)

SWEEP = "snakemake --cores all --configfile"
# Run one after another in one folder, where config/config.yaml is the README's small sweep.
HERE = (
    "snakemake plan --cores 1",
    "snakemake -n --cores all",
    "snakemake plan --cores 1 --configfile my_sweep.yaml",
    f"{SWEEP} my_sweep.yaml",
    "snakemake --cores all",
    f"{SWEEP} small.yaml",
    f"{SWEEP} large.yaml",
    f"{SWEEP} config/lr.yaml",
    "flops-fit runs prune",
    "snakemake --cores all --resources gpu=4",
    "snakemake --unlock --configfile my_sweep.yaml",
    "snakemake --configfile sweep.yaml --report report.html",
    "flops-fit progress",
    "flops-fit predict --fit results/demo/fit.json --flops 5e12",
    "flops-fit simulate --config config/config.yaml",
    "flops-fit next --fit results/demo/fit.json --config config/config.yaml",
    f"{SWEEP} config/demo-round2.yaml",
    "flops-fit confirm --fit results/demo/fit.json --config config/config.yaml --flops 2.43e12",
    "flops-fit runs list",
    "flops-fit runs import OTHER/results",
    "flops-fit doctor",
    "flops-fit transfer-check --config config/config.yaml --figure transfer.svg",
    "snakemake plan --cores 1 --configfile config/gpu.yaml",
    "flops-fit plan --config config/standard.yaml --measure",
    "flops-fit plan --config config/standard_trunk.yaml",
    "flops-fit fit --runs docs/standard/results.csv --out fit.json",
    "flops-fit fit --runs runs.csv --out fit.json",
    "flops-fit fit --runs runs.csv --report my_runs",
    "flops-fit predict --fit my_runs/fit.json --flops 1e21",
    "flops-fit plot --runs results/demo/results.csv --records results/demo/results.json --fit results/demo/fit.json --out-dir figures --width 3.3 --format pdf --figure isoflop optima sensitivity hero",
    "flops-fit predict --fit fit.json --flops 1e21",
    "flops-fit predict --fit fit.json --flops 1e21 --params 7e9",
    "flops-fit predict --fit fit.json --flops 1e21 --tokens 5e10",
    "flops-fit predict --fit fit.json --flops 1e21 --serve 1e12",
    "flops-fit predict --fit fit.json --flops 1e21 --unique 1e10",
    "flops-fit predict --fit fit.json --hours 72 --devices 8 --device H100",
    "flops-fit predict --fit fit.json --money 5000 --devices 8 --device H100 --per-hour 2.5",
    "flops-fit simulate --plan results/.plan/sweeps/demo.json --fit results/demo/fit.json --flops 8.1e12",
)
# After those, with `-n` added: what they would train takes too long here.
DRY = (
    f"{SWEEP} config/demo-confirm-2.43e12.yaml",
    f"{SWEEP} config/compare.yaml",
    "snakemake --profile profiles/slurm --configfile my_sweep.yaml",
    f"{SWEEP} config/standard_trunk.yaml",
)
SLURM = "tests/slurm/test_slurm.py::test_the_commands_of_the_readme_run_the_smoke_sweep"
PUBLISHED = (
    "tests/docs/test_doc_commands.py::test_the_published_table_gives_the_law_that_its_page_says"
)
OWN_SCRIPT = (
    "tests/scripts/test_page.py::test_the_script_of_the_page_is_planned_trained_and_reported"
)
DEPLOYED = "tests/workflow/test_deployed.py::test_another_config_in_its_place_trains_reports_and_prints_the_answer"
STORAGE = "tests/storage/test_fs.py::test_the_answer_is_printed_and_the_page_lies_where_it_says"
BUNDLE = "tests/bundle/test_bundle.py::test_a_bundle_is_added_on_another_machine_and_equals_what_was_packed"
TUTORIAL = "tests/docs/test_tutorial.py::test_the_tutorial_ends_in_a_report_as_it_says"
CLUSTER = "snakemake --profile profiles/slurm --configfile config/smoke.yaml"
ELSEWHERE = {
    f"{SWEEP} config/smoke.yaml": "tests/workflow/test_smoke.py::test_the_smoke_sweep_leaves_every_promised_file",
    f"{SWEEP} config/runs.yaml": "tests/workflow/test_existing_runs.py::test_the_shipped_table_gives_an_answer_without_training",
    f"{SWEEP} own.yaml": OWN_SCRIPT,
    "snakemake plan --cores 1 --configfile own.yaml": OWN_SCRIPT,
    "cat $(python -c 'import sysconfig; print(sysconfig.get_path(\"stdlib\"))')/*.py > text.txt": TUTORIAL,
    "snakemake plan --cores 1 --configfile nextbyte.yaml": TUTORIAL,
    f"{SWEEP} nextbyte.yaml": TUTORIAL,
    "sbatch profiles/slurm/sweep.sh my_sweep.yaml": "tests/slurm/test_controller.py::test_a_sweep_goes_on_from_job_to_job_and_after_a_lost_node",
    f"{CLUSTER} -n": SLURM,
    f"{CLUSTER} --slurm-status-command squeue": SLURM,
    "snakemake --unlock --configfile config/smoke.yaml": SLURM,
    "snakemake --cores all --snakefile /opt/flops-fit/Snakefile --directory /scratch/me --configfile /scratch/me/sweep.yaml": "tests/workflow/test_elsewhere.py::test_a_read_only_checkout_serves",
    "flops-fit fit --runs svg_extracted_data.csv --method surface --out chinchilla.json": PUBLISHED,
    "flops-fit predict --fit chinchilla.json --flops 5.76e23": PUBLISHED,
    "flops-fit rate --runs tuning.csv --out learning_rate.json --batch-out batch.json": "tests/fit/test_joint_rate.py::test_the_command_writes_rules_that_a_sweep_can_name",
    "flops-fit compare --reference results/adamw/fit.json --candidate results/muon/fit.json": "tests/comparison/test_cli_compare.py::test_the_json_has_the_promised_keys_and_a_row_for_each_budget",
    "flops-fit next --compare config/compare.yaml": "tests/rounds/test_settle.py::test_the_command_writes_configs_of_both_arms_and_of_their_comparison",
    f"{SWEEP} config/muon-against-adamw-round2.yaml": "tests/workflow/test_compare.py::test_a_comparison_trains_its_arms_and_answers",
    "flops-fit simulate --config config/adamw.yaml --compare config/muon.yaml": "tests/rounds/test_power.py::test_less_noise_shows_smaller_gains_and_equal_recipes_show_none",
    'flops-fit sweep --config config/config.yaml --until "N within 1.6x at 8.1e12" --dry-run': "tests/rounds/test_loop.py::test_a_dry_run_prints_the_first_round_and_its_cost_and_writes_no_config",
    'flops-fit sweep --config config/config.yaml --until "N within 1.6x at 8.1e12" --max-flops 7e12': "tests/workflow/test_rounds.py::test_killed_rounds_go_on_by_the_same_command_and_train_nothing_twice",
    "flops-fit export results/demo -o demo.zip": BUNDLE,
    "flops-fit import demo.zip": BUNDLE,
    "snakedeploy deploy-workflow https://github.com/OWNER/flops-fit my_sweep --tag v0.1.0": DEPLOYED,
    "pip install .": "tests/test_environment.py::test_the_library_alone_is_installed_and_imported_without_the_workflow",
    "pytest -m faults tests/faults": "tests/faults/test_faults.py",
    "python benchmarks/gpu": "tests/test_gpu_benchmark.py::test_every_part_that_a_cpu_can_do_is_done_at_a_tiny_size",
    "snakemake --jobs 20 --executor EXECUTOR --shared-fs-usage none --job-deploy-sources --default-storage-provider s3 --default-storage-prefix s3://BUCKET/sweeps --configfile my_sweep.yaml": STORAGE,
}
CANNOT = {  # a command, or how it begins where it ends in "...": why it is not run
    "make ...": "installs the lock from the network, then takes minutes",
    "pytest": "is what runs this",
    "python -m pytest ...": "is what runs this; its files are checked to be there",
    "curl ...": "needs the network",
    "pip install torch==2.13.0 ...": "needs the network; that the lock takes it is in tests/test_environment.py",
    "pip install -r requirements.lock": "needs the network, and is what make does",
    "srun ...": "needs a SLURM with a GPU; the verdicts are in tests/jobs/test_driver.py",
    "echo ...": "checks what curl brought",
    "apt-get download ...": "needs the network",
    f"{SWEEP} config/vit.yaml": "needs the package that apt-get brings; its model and data are in tests/examples/test_images.py",
    f"{SWEEP} examples/compare/...": "trains for minutes; its configs are planned by tests/examples/test_compare_examples.py",
    "squeue --me ...": "cancels jobs, and needs a SLURM that has some",
    "docker ...": "needs Docker",
    "apptainer ...": "needs Apptainer",
    "conda ...": "needs conda",
}
# Python and YAML blocks by their mark, or by their first line where they have none.
BLOCKS = {
    "my_project.py": "written into the project here",
    "my_sweep.yaml": "written into the project here",
    "api.py": "tests/docs/test_doc_commands.py::test_the_api_lines_run_over_the_same_files",
    "Snakefile": "tests/workflow/test_elsewhere.py::test_a_module_makes_what_the_rules_of_another_workflow_ask_for",
    "train_plain.py": TUTORIAL,
    "nextbyte.py": TUTORIAL,
    "nextbyte.yaml": TUTORIAL,
    "train.py": OWN_SCRIPT,
    "own.yaml": OWN_SCRIPT,
    "my_counts.py": OWN_SCRIPT,
    "name: muon-against-adamw": "is config/compare.yaml",
    "nano.yaml": "tests/docs/test_own_script_page.py::test_a_script_with_options_is_planned_and_started_with_them",
    "my_nano.py": "tests/docs/test_own_script_page.py::test_a_script_with_options_is_planned_and_started_with_them",
    "sweep.py": "tests/test_train_function.py::test_the_example_of_the_page_runs_and_its_law_is_fitted",
    "trainer:": "tests/scripts/test_page.py::test_the_other_configs_of_the_page_are_accepted",
    "metrics:": "tests/config/test_config.py::test_the_measures_of_the_page_are_accepted",
    "resources:": "tests/jobs/test_checkpoint_store.py::test_the_lines_of_the_page_are_a_config",
    "dataset": "tests/docs/test_data_page.py::test_the_text_blocks_fit_the_schema_and_the_functions_that_they_name",
    "mydata.py": "tests/docs/test_data_page.py::test_the_adapter_makes_a_data_set_of_dictionaries_trainable",
    "from torchvision.datasets import CIFAR10": "torchvision is no dependency, as the page says",
    "from flops_fit.fit import fit_runs, predict, read_runs": "tests/docs/test_doc_commands.py::test_the_fitting_lines_run_on_a_table",
    "learning_rate: 0.01": "tests/config/test_config.py::test_the_blocks_of_rules_and_shares_are_accepted",
    "dataset:": "tests/config/test_config.py::test_the_blocks_of_rules_and_shares_are_accepted",
    "batch:": "tests/config/test_config.py::test_the_blocks_of_rules_and_shares_are_accepted",
    "learning_rate: {file: results/lr/learning_rate.json}": "tests/docs/test_doc_commands.py::test_a_rule_file_can_be_named_in_a_sweep",
}


def fences(page: Path) -> list[tuple[str, str, str, str]]:
    """Each fenced block: kind of its mark, the mark, its language, its text."""
    return FENCE.findall(page.read_text())


def logical_lines(text: str) -> list[str]:
    """Commands one a line: continued lines joined, comments and runs of blanks taken out."""
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [" ".join(bare.split()) for line in lines if (bare := re.sub(r"(^|\s)#.*", "", line))]


def commands(file: Path) -> list[str]:
    if file in HEADS:
        head = re.findall(r"^#   +(.*)$", file.read_text(), re.MULTILINE)
        return logical_lines("\n".join(head))
    return [c for _, _, language, text in fences(file) if not language for c in logical_lines(text)]


def named(file: Path) -> str:
    return str(file.relative_to(ROOT))


COMMANDS = list(dict.fromkeys((named(f), c) for f in (*PAGES, *HEADS) for c in commands(f)))


def reason(command: str) -> str | None:
    return next((why for line, why in CANNOT.items() if says(command, line)), None)


def says(command: str, line: str) -> bool:
    return command.startswith(line[:-3]) if line.endswith("...") else command == line


def run(command: str | list[str], folder: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        command,
        shell=isinstance(command, str),
        cwd=folder,
        env=environment,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=900,
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A clone with the README's files in it, as the demo's sweep too, and a table of runs."""
    folder = tmp_path_factory.mktemp("project")
    for part in ("Snakefile", "workflow", "profiles", "config", "envs"):
        subprocess.run(["cp", "-r", ROOT / part, folder / part], check=True)
    for _, name, _, text in fences(ROOT / "README.md"):
        if "." in name:
            (folder / name).write_text(text)
    sweep = yaml.safe_load((folder / "my_sweep.yaml").read_text())
    sweep |= {"budgets": [1e7, 3e7], "sizes": {"values": [8, 16, 32]}, "batch": 32}  # seconds each
    # A confirmation at the demo's budgets would read these few data many times.
    limits = {"max_epochs": 1e9}
    five = {"values": [4, 8, 12, 16, 32]}  # the fewest runs that a law is fitted to
    for file, changes in {
        "config/config.yaml": {
            "name": "demo",
            "fit": {"bootstrap": 20},
            "limits": limits,
            "sizes": five,
        },
        "sweep.yaml": {},
        "config/lr.yaml": {
            "name": "lr",
            "budgets": sweep["budgets"][1:],
            "sizes": {"values": [8, 16]},
            "learning_rate_factors": [0.1, 1, 10, 100],
        },
        "config/standard.yaml": {"name": "standard"},
        "config/standard_trunk.yaml": {
            "name": "standard_trunk",
            "schedule": {"kind": "trunk", "warmup_tokens": 64},
        },
        "small.yaml": {"name": "small", "budgets": sweep["budgets"][:1], "sizes": five},
        "large.yaml": {"name": "large", "budgets": sweep["budgets"][1:], "sizes": five},
    }.items():
        (folder / file).write_text(yaml.safe_dump({**sweep, **changes}))
    (folder / "docs/standard").mkdir(parents=True)
    for copy in ("runs.csv", "docs/standard/results.csv"):
        shutil.copy(ROOT / "docs/standard/results.csv", folder / copy)
    return folder


@contextlib.contextmanager
def planted(project: Path):
    """In place of the demo's fit, which so few runs do not determine, one of the same runs on a law."""
    fit = project / "results/demo/fit.json"
    kept, times = fit.read_bytes(), fit.stat()
    table = pd.read_csv(project / "results/demo/results.csv")
    table["loss"] = 0.5 + 20 / table["params"] ** 0.5 + 90 / table["tokens"] ** 0.5
    table.to_csv(project / "planted.csv", index=False)
    command = "flops-fit fit --runs planted.csv --bootstrap 20 --out results/demo/fit.json"
    assert run(command, project).returncode == 0
    yield
    fit.write_bytes(kept)
    os.utime(fit, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.fixture(scope="module")
def outcomes(project) -> dict[str, subprocess.CompletedProcess]:
    """What every command of HERE and DRY did, in their order."""
    done = {}
    for command in HERE:
        if "OTHER" in command:
            shutil.copytree(project / "results", project / "OTHER/results")
        if "simulate --plan" in command:  # six runs tell no law: play one that a real sweep told
            shutil.copy(project / "fit.json", project / "results/demo/fit.json")
        asks_a_law = command.startswith(("flops-fit next", "flops-fit confirm"))
        with planted(project) if asks_a_law else contextlib.nullcontext():
            done[command] = run(command, project)
    return {**done, **{command: run(f"{command} -n", project) for command in DRY}}


@pytest.mark.docs
@pytest.mark.parametrize("command", [*HERE, *DRY])
def test_a_command_of_the_documentation_works_as_it_stands(command, outcomes):
    assert outcomes[command].returncode == 0, outcomes[command].stdout


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=map(": ".join, COMMANDS))
def test_no_command_of_the_documentation_is_forgotten(page, command):
    if command in ELSEWHERE:
        assert_is_a_test(ELSEWHERE[command])
    elif command not in (*HERE, *DRY):
        assert reason(command), f"{page}: {command!r} is in no list of {Path(__file__).name}"
    if command.startswith("flops-fit "):
        make_parser().parse_args(shlex.split(command)[1:])
    files = re.findall(r"\btests/[\w/]+(?:\.py)?", command)
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_the_lists_hold_nothing_that_no_page_says():
    said = {command for _, command in COMMANDS}
    assert {*HERE, *DRY, *ELSEWHERE} - said == set()
    assert [line for line in CANNOT if not any(says(c, line) for c in said)] == []


@pytest.mark.parametrize("page", HAND_WRITTEN, ids=named)
def test_every_block_in_a_language_is_tried_or_said_not_to_be(page):
    for kind, mark, language, text in fences(page):
        assert language in {"", "text", "json", "python", "yaml", "{toctree}"}, language
        if language in {"python", "yaml"}:
            name = mark or text.splitlines()[0]
            if kind == "file":
                assert (ROOT / name).read_text() == text
            else:
                assert name in BLOCKS, f"{name!r} is not in BLOCKS"
                if "::" in BLOCKS[name]:
                    assert_is_a_test(BLOCKS[name])


def assert_is_a_test(node: str) -> None:
    file, _, name = node.partition("::")
    tree = ast.parse((ROOT / file).read_text())
    functions = {part.name for part in ast.walk(tree) if isinstance(part, ast.FunctionDef)}
    assert name in functions or (not name and functions), f"{node}: no such test"


INLINE = re.compile(r"`((?:flops-fit|snakemake) [^`]*)`")


@pytest.mark.parametrize("page", HAND_WRITTEN, ids=named)
def test_commands_in_the_text_name_verbs_and_options_that_exist(page):
    from snakemake.cli import get_argument_parser

    verbs = make_parser()._subparsers._group_actions[0].choices
    prose = FENCE.sub("", page.read_text())
    for command in (" ".join(found.split()) for found in INLINE.findall(prose)):
        program, *words = command.split()
        if program == "flops-fit":
            if words[0].startswith("-") or words[0].isupper():
                continue
            assert words[0] in verbs, command
            known = verbs[words[0]]._option_string_actions
        else:
            known = get_argument_parser()._option_string_actions
            assert words[0] != "plan" or "--cores" in words, command  # Snakemake insists on it
        options = [word.partition("=")[0] for word in words if word.startswith("-")]
        assert [option for option in options if option not in known] == [], command


@pytest.mark.docs
def test_a_model_data_and_loss_of_your_own_train_and_fit_by_name_alone(project, outcomes):
    fit = read_json(project / "results" / "mine" / "fit.json")
    assert fit["data"]["n_runs"] == 18
    assert [budget["status"] for budget in fit["isoflop"]["budgets"]] == ["bracketed"] * 3
    assert (project / "results" / "mine" / "report.html").stat().st_size > 10_000


@pytest.mark.docs
def test_the_documented_commands_leave_what_their_pages_promise(project, outcomes):
    assert (project / "results/demo/plan.html").exists()
    assert "Nothing to be done" in outcomes["snakemake --cores all --resources gpu=4"].stdout
    assert "0 imported" in outcomes["flops-fit runs import OTHER/results"].stdout
    assert "train_run" in outcomes[DRY[0]].stdout


@pytest.mark.docs
def test_the_api_lines_run_over_the_same_files(project, outcomes):
    done = run([sys.executable, "api.py"], project)
    assert done.returncode == 0, done.stdout
    assert "21 of 21 runs completed; N* ~ C^" in done.stdout
    assert "trust" in done.stdout


@pytest.mark.docs
def test_the_fitting_lines_run_on_a_table(project):
    (text,) = (t for _, _, lang, t in fences(ROOT / "docs/fitting.md") if lang == "python")
    done = run([sys.executable, "-c", text], project)
    assert done.returncode == 0, done.stdout


@pytest.mark.docs
@pytest.mark.skipif(
    "FLOPS_FIT_PUBLISHED_RUNS" not in os.environ, reason="FLOPS_FIT_PUBLISHED_RUNS is not set"
)
def test_the_published_table_gives_the_law_that_its_page_says(project):
    table = Path(os.environ["FLOPS_FIT_PUBLISHED_RUNS"], "hoffmann_epoch.csv")
    shutil.copy(table, project / "svg_extracted_data.csv")
    for command in (line for line, test in ELSEWHERE.items() if test == PUBLISHED):
        done = run(command, project)
        assert done.returncode == 0, done.stdout
    assert re.search(r"parameters N\* +7", done.stdout)


@pytest.mark.docs
def test_a_rule_file_can_be_named_in_a_sweep(project):
    page = fences(ROOT / "docs/learning_rate.md")
    (text,) = (t for _, _, lang, t in page if lang == "yaml" and "file:" in t)
    sweep = yaml.safe_load((project / "my_sweep.yaml").read_text())
    told = complete_config({**sweep, **yaml.safe_load(text)})["learning_rate"]
    assert told["file"] == "results/lr/learning_rate.json"
