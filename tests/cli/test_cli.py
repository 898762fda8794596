"""The command line: instant help with examples that parse, and one message for bad input."""

import argparse
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from flops_fit.cli.arguments import run_command
from flops_fit.cli.at_work import at_work
from flops_fit.cli.main import main, make_parser

VERBS = (
    "plan",
    "simulate",
    "sweep",
    "prepare",
    "check",
    "transfer-check",
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
    "export",
    "import",
    "runs",
    "doctor",
)
ROOT = Path(__file__).parents[2]
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


def test_alone_it_prints_every_verb_once(capsys):
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert [len(re.findall(rf"^  {verb} ", text, re.MULTILINE)) for verb in VERBS] == [1] * len(
        VERBS
    )


@pytest.mark.parametrize(
    ("verb", "message"),
    [("pedict", "did you mean predict?"), ("zzz", f"allowed: {', '.join(VERBS)}")],
)
def test_an_unknown_verb_is_refused_with_what_is_like_it(verb, message, capsys):
    assert main(["-q", verb]) == 2
    assert capsys.readouterr().err == f"flops-fit: error: {verb}: no such verb; {message}\n"


def test_quiet_leaves_only_errors(capsys, tmp_path):
    assert main(["--quiet", "progress", "--results", str(tmp_path)]) == 0
    assert main(["--quiet", "progress", "none", "--results", str(tmp_path)]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error == "flops-fit: error: none: no such sweep; allowed: none yet\n"


def test_a_shell_completes_verbs_and_options(capsys):
    with pytest.raises(SystemExit):
        main(["--print-completion", "bash"])
    script = capsys.readouterr().out
    line = "flops-fit pr"
    ask = f"""{script}
        COMP_WORDS=({line}); COMP_CWORD=1; COMP_LINE="{line}"; COMP_POINT={len(line)}
        _shtab_flops_fit; echo "${{COMPREPLY[@]}}" """
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["prepare", "progress", "predict"]


def test_a_verb_says_which_package_it_needs(tmp_path):
    code = (
        "import sys\nsys.modules['torch'] = None\nfrom flops_fit.cli.main import main\n"
        "sys.exit(main(['plan', '--config', 'config/smoke.yaml', '--results', sys.argv[1]]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr == (
        "flops-fit: error: plan needs the package torch, which is not installed; install it with: "
        "pip install torch accelerate\n"
    )


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "flops_fit", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("flops-fit ")


def test_bad_input_ends_with_one_message_and_status_2(capsys, tmp_path):
    assert main(["plan", "--plan", str(tmp_path / "none.json")]) == 2
    error = capsys.readouterr().err
    assert error == f"flops-fit: error: {tmp_path / 'none.json'}: no such file\n"


@pytest.mark.parametrize(
    ("terminal", "quiet", "drawn"),
    [(True, False, True), (True, True, False), (False, False, False)],
)
def test_a_bar_counts_on_a_terminal_unless_asked_for_quiet(monkeypatch, terminal, quiet, drawn):
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr("sys.stderr", screen)
    with at_work(argparse.Namespace(quiet=quiet), "simulations", 3) as each:
        each()
    assert ("simulations" in screen.getvalue()) == drawn


def test_the_command_to_run_next_names_a_workflow_where_none_is_at_hand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_command("my sweep.yaml") == (
        f"snakemake --cores all --snakefile {ROOT / 'Snakefile'} --configfile 'my sweep.yaml'"
    )
    (tmp_path / "workflow").mkdir()
    (tmp_path / "workflow" / "Snakefile").touch()
    assert run_command("a.yaml") == "snakemake --cores all --configfile a.yaml"
