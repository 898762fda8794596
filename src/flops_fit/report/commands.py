"""The commands on the page that repeat its fit and its answer, from where its maker stood."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from flops_fit.fit.options import FitOptions
from flops_fit.fit.result import Fit
from flops_fit.fit.rows import Reading

STORED = ".snakemake/storage/"  # where a job without a shared file system sees copies of files


def place(path: str | Path) -> str:
    """``path`` as the user has it, who does not see the copies that a job works on."""
    text = str(path)
    return f"results/{text.rpartition('/results/')[2]}" if STORED in text else text


def commands_of(
    fit: Fit, files: Mapping[str, str | Path], flops: float, name: str, plan_file: str | None
) -> list[str]:
    """Commands that train the sweep ``name`` (with a ``plan_file``), make ``fit`` and ask at ``flops``.

    ``files`` (label -> path) has the table of runs, the records and the fit, as far as they are files.
    """
    runs = files.get("runs") or files.get("results") or "runs.csv"
    out = place(files.get("fit", "fit.json"))
    parts = ["flops-fit", "fit", "--runs", place(runs), "--out", out, *_options(fit)]
    if plan_file:
        parts += ["--sizes", place(plan_file)]
    if fit.envelope and "records" in files:
        parts += ["--curves", place(files["records"])]
    ask = ["flops-fit", "predict", "--fit", out, "--flops", f"{flops:.6g}"]
    train = [f"snakemake --cores all --configfile CONFIG.yaml   # the config with name: {name}"]
    return [*(train if plan_file else []), shlex.join(parts), shlex.join(ask)]


def _options(fit: Fit) -> list[str]:
    """The options of ``flops-fit fit`` that are not at their default."""
    data, made, default = fit.data, fit.bootstrap, FitOptions()
    given: dict[str, object] = {
        name.removesuffix("_column"): value
        for name, value in vars(data.reading).items()
        if value != getattr(Reading(), name)
    }
    given |= {k: v for k, v in (fit.choices or {}).items() if k != "sensitivity"}
    resampling = {"bootstrap": made.resamples, "seed": made.seed, "level": made.level}
    given |= {k: v for k, v in resampling.items() if v != getattr(default, k)}
    if data.params_column != "params":
        given["params"] = data.params_column
    parts: list[str] = []
    for name, value in given.items():
        option = f"--{name.replace('_', '-')}"
        for each in value if isinstance(value, tuple) else (value,):
            parts += [option] if each is True else [option, str(each)]
    return parts
