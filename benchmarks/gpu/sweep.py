"""Part 7: one small sweep of the model of config/gpu.yaml on text at hand."""

import shutil
import sysconfig
from pathlib import Path

import yaml
from common import ROOT, Bench, snakemake

from flops_fit.fit import predict
from flops_fit.fit.result import read_fit

KEPT = ROOT / "docs" / "gpu"
# Budgets and depths of the sweep: N = 49152 d^3 + 64 V d, on both sides of 20 tokens per parameter.
FULL = {1e15: [2, 3, 4, 5], 3e15: [2, 3, 4, 5], 1e16: [3, 4, 5, 6], 3e16: [4, 5, 6, 8]}
TINY = {3e8: [1, 2, 3], 1e9: [1, 2, 3]}


def sweep(bench: Bench) -> None:
    """7: the law of a small sweep, kept with its page under docs/gpu."""
    results = snakemake(bench.work / "sweep", _config(bench))
    fit, budget = read_fit(results / "fit.json"), 10 * max(FULL if bench.gpu else TINY)
    answer = predict(fit, budget)
    text = answer.verdict
    if answer.params is not None:
        text = (
            f"N* = {answer.params:.3g}, {answer.tokens_per_param:.3g} tokens per parameter; {text}"
        )
    bench.note(f"a sweep of GPTs, its law at {budget:.2g} FLOPs", text, "snakemake --cores all")
    if bench.gpu:
        KEPT.mkdir(exist_ok=True)
        for name in ("report.html", "results.csv", "fit.json"):
            shutil.copy(results / name, KEPT / name)


def _config(bench: Bench) -> dict:
    """The preset with smaller budgets, a vocabulary of its own, and text that is here."""
    config = yaml.safe_load((ROOT / "config" / "gpu.yaml").read_text())
    vocabulary = 4096 if bench.gpu else 256
    kwargs = {"vocab_size": vocabulary, "seq_len": 1024 if bench.gpu else 32}
    if not bench.gpu:
        kwargs |= {"aspect": 16, "head_dim": 16}
    config |= {
        "name": "gpu-small",
        "budgets": list(FULL if bench.gpu else TINY),
        "sizes": {"per_budget": FULL if bench.gpu else TINY},
        "batch": {"value": 32768 if bench.gpu else 128},
        "evaluation": {"tokens": 2**20 if bench.gpu else 2048, "batch_items": 8},
        "limits": {"min_steps": 50 if bench.gpu else 2, "max_epochs": 40},
        "resources": {
            "gpus": bench.gpus,
            "runs_per_gpu": 2 if bench.gpu else 1,  # one compiles while the other trains
            "compile": bench.gpu,
        },
        "fit": {"bootstrap": 200 if bench.gpu else 20},
    }
    config["model"]["kwargs"] = kwargs
    config["dataset"] |= {
        "kwargs": {"seq_len": kwargs["seq_len"]},
        "sources": [str(_text(bench))],
        "prepare_kwargs": {
            "tokenizer": {"bpe": vocabulary} if bench.gpu else "bytes",
            "vocab_size": vocabulary,
        },
    }
    config.pop("pricing")
    return config


def _text(bench: Bench) -> Path:
    """One file of text that every machine has: the sources of the installed packages."""
    file, most = bench.work / "text.txt", 400e6 if bench.gpu else 3e5
    with file.open("wb") as text:
        for path in sorted(Path(sysconfig.get_path("purelib")).glob("**/*.py")):
            text.write(path.read_text("utf-8", "replace").encode() + b"\n")
            if text.tell() > most:
                break
    return file
