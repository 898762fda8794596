"""Random tables of runs through fit, predict, plot and report.

Every table that is read must end in an answer with a verdict or in a refusal, never in a traceback
or a hang.
"""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
from tables import table, written

VERDICTS = ("trust", "provisional", "not identifiable")


def options(rng: np.random.Generator) -> list[str]:
    """Options of ``fit``, now and then."""
    words = ["--bootstrap", str(rng.choice([0, 10, 30]))]
    for option, values in (
        ("--method", ["surface", "tied", "isoflop", "auto"]),
        ("--delta", ["1e-3", "auto"]),
        ("--exclude", ["none", "auto"]),
        ("--resample", ["wild", "runs", "groups"]),
        ("--curve", ["akima"]),
        ("--window", ["1.5", "4"]),
        ("--best-per", ["params,tokens"]),
        ("--last-per", ["run_id"]),
        ("--max-epochs", ["4"]),
        ("--params", ["params_total", "params_nonembedding"]),
        ("--loss-unit", ["a|b <i>", "$x_{a"]),
    ):
        if rng.random() < 0.08:
            words += [option, str(rng.choice(values))]
    if rng.random() < 0.3:
        words.append("--cost-as-given")
    return words


def call(*words) -> tuple[int, str]:
    """Exit status of a command with its output, or its message; exceptions come out as they are."""
    from flops_fit.cli.main import main

    printed, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
        try:
            status = main([str(word) for word in words])
        except SystemExit as stop:  # argparse
            status = int(stop.code or 0)
    return status, said.getvalue() if status else printed.getvalue()


def drive(rng: np.random.Generator, folder: Path, further: bool) -> str:
    """One table through the commands: "refused", or the verdict at ten times its largest budget.

    ``further``: with figures and page.
    """
    runs, fit = written(rng, table(rng), folder), folder / "fit.json"
    status, words = call("fit", "--runs", runs, "--out", fit, *options(rng))
    if status:
        assert status == 2, words
        assert "error: " in words, words
        return "refused"
    data = json.loads(fit.read_text())["data"]
    for factor in (1, 1e6, 10):
        flops = data["largest_budget"] * factor
        status, words = call("predict", "--fit", fit, "--flops", flops, "--json")
        assert status == 0, words
        answer = json.loads(words, parse_constant=not_finite)
        assert answer["verdict"] in VERDICTS
    assert call("predict", "--fit", fit, "--flops", flops, "--params", data["params"][0])[0] == 0
    assert call("predict", "--fit", fit, "--flops", flops, "--tokens", data["tokens"][1])[0] == 0
    if further:
        plots, out = folder / "plots", folder / "report.html"
        status, words = call("plot", "--runs", runs, "--fit", fit, "--out-dir", plots, "--dpi", 50)
        assert status == 0, words
        page = ["--plots", plots, "--name", "fuzz", "--out", out, "--table", folder / "table.md"]
        status, words = call("report", "--runs", runs, "--fit", fit, *page)
        assert status == 0, words
        assert "<b>x</b>" not in out.read_text()
    return answer["verdict"]


def not_finite(text: str):
    raise AssertionError(f"{text} in an answer")
