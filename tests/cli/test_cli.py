"""The command line: instant help with examples that parse, and one message for bad input."""

import re
import shlex
import subprocess
import sys

import pytest

from flops_fit.cli.main import main, make_parser

VERBS = (
    "plan",
    "simulate",
    "prepare",
    "check",
    "train",
    "progress",
    "collect",
    "rate",
    "fit",
    "predict",
    "plot",
    "report",
    "next",
    "confirm",
    "confirmed",
    "compare",
    "runs",
    "doctor",
)
HEAVY = ("torch", "pandas", "scipy", "numpy", "matplotlib", "snakemake", "accelerate")


def verb_parsers() -> dict:
    actions = make_parser()._subparsers._group_actions
    return actions[0].choices


def test_the_verbs_stand_in_the_order_of_the_path():
    assert tuple(verb_parsers()) == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_sentence_and_examples_that_parse(verb):
    parser = verb_parsers()[verb]
    assert parser.description.endswith(".")
    lines = re.findall(r"flops-fit .*", parser.epilog.replace("\\\n", " "))
    assert lines
    for line in lines:
        make_parser().parse_args(shlex.split(line)[1:])


@pytest.mark.parametrize("arguments", [["--help"], *([verb, "--help"] for verb in VERBS)])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys\nfrom flops_fit.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: assert end.code == 0\n"
        f"loaded = [m for m in {HEAVY} if m in sys.modules]\nassert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "flops_fit", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("flops-fit ")


def test_bad_input_ends_with_one_message_and_status_2(capsys, tmp_path):
    assert main(["plan", "--plan", str(tmp_path / "none.json")]) == 2
    error = capsys.readouterr().err
    assert error == f"flops-fit: error: {tmp_path / 'none.json'}: no such file\n"
