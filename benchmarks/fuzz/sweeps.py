"""Random small sweeps, in the shapes that people have them, planned, checked, and trained in part.

Every sweep must end in a plan whose inputs pass, or in a refusal of one line: never in a traceback
or a hang. What no law can take must not be accepted. The FLOPs of a trained run are counted apart
while it trains; where they are not those of its record, or of its plan and neither says so, that
is a mismatch.
"""

import contextlib
import importlib
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from configs import RULES, config_of
from parts import IMPORTS, PREFIX, Parts
from spent import Spent
from tasks import task

TOLERANCE = 0.02
OF_A_BATCH = "loss: an item costs more or less FLOPs in a larger batch"  # a plan's warning


def write(folder: Path, drawn: Parts, config: dict) -> None:
    """The plug-ins as modules, and the config beside them for whoever looks into a failure."""
    texts = {
        "model": drawn.model,
        "data": drawn.data,
        "loss": drawn.loss,
        "rules": RULES,
        "optimizer": drawn.optimizer,
    }
    for name, text in texts.items():
        if text is not None:
            (folder / f"{PREFIX}{name}.py").write_text(IMPORTS + text)
    note = {"drawn": drawn.name, "must_refuse": drawn.must_refuse}
    (folder / "sweep.json").write_text(json.dumps(note | config, indent=1))


@contextlib.contextmanager
def project(folder: Path) -> Iterator[None]:
    """Work in ``folder`` as a new process would; its plug-ins are forgotten after, and nothing shown."""
    path, here = [*sys.path], os.getcwd()
    os.chdir(folder)
    importlib.invalidate_caches()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        os.chdir(here)
        sys.path[:] = path
        forget()


def forget() -> None:
    """Let plug-ins be imported anew, as by another process."""
    for name in [name for name in sys.modules if name.startswith(PREFIX)]:
        del sys.modules[name]


def check(spec, experiments: list) -> None:
    """What ``flops-fit check`` does."""
    from flops_fit.jobs.environment import clean_environment
    from flops_fit.jobs.gpu_locks import USE_CPU
    from flops_fit.plan.amounts import check_amount
    from flops_fit.trainer import train
    from flops_fit.training.checks import check_inputs

    with clean_environment(**{USE_CPU: "true"}):
        known = check_inputs(spec, train)
    check_amount(known, experiments, 1.0 if known.read_once else spec.max_epochs)


def trained(folder: Path, experiment, warnings: list[str]) -> str:
    """Train one experiment as the launcher would, and hold its FLOPs against what was counted."""
    from flops_fit.experiment.places import run_folder, spec_file
    from flops_fit.jobs import job

    name, results = experiment.experiment_id, folder / "results"
    os.environ |= {
        "FLOPS_FIT_PROCESSES": "1",
        "FLOPS_FIT_GPUS": "0",
        "FLOPS_FIT_LAUNCHER": str(os.getppid()),
    }
    place = run_folder(results, name)
    with Spent() as spent:
        status = job.main([str(spec_file(results, name)), str(place / "result.json"), str(results)])
    if status:
        note = json.loads((place / "failure.json").read_text())
        (folder / "late.json").write_text(json.dumps(note))
        return "late"
    record = json.loads((place / "record.json").read_text())
    if record["status"] == "diverged":
        return "trained"
    flops = {
        "spent": spent.flops,
        "recorded": record["flops_counted"],
        "planned": experiment.flops_counted,
    }
    (folder / "flops.json").write_text(json.dumps(flops))
    off = {key: abs(value / spent.flops - 1) for key, value in flops.items()}
    if any(sentence.startswith(OF_A_BATCH) for sentence in warnings):  # and the batch may be split
        return "trained"
    wrong = off["recorded"] > TOLERANCE
    wrong |= off["planned"] > TOLERANCE and "flops_expected" not in record
    return "mismatch" if wrong else "trained"


def through_the_library(drawn: Parts, plan) -> str:
    """A generator, which only a process of its own makes anew, through the door of a notebook."""
    from flops_fit.errors import FlopsFitError
    from flops_fit.loss import cross_entropy
    from flops_fit.trainer import TrainingRunner

    plugins = [importlib.import_module(PREFIX + name) for name in ("model", "data")]
    try:
        TrainingRunner("local").run_sweep_from_plan(
            plan, plugins[0].Net, "width", {}, plugins[1].data(), cross_entropy
        )
    except FlopsFitError:
        return "refused"
    return "accepted"


def drive(rng: np.random.Generator, folder: Path, further: bool) -> str:
    """One sweep: "refused", "planned" or, where ``further``, "trained"; or what must not be."""
    import torch

    from flops_fit.config.complete import complete_config
    from flops_fit.errors import FlopsFitError
    from flops_fit.experiment.places import spec_file
    from flops_fit.experiment.spec import read_spec
    from flops_fit.plan.planner import make_plan

    torch.set_num_threads(1)
    drawn = task(rng)
    config = config_of(rng, drawn)
    write(folder, drawn, config)
    with project(folder):
        try:
            plan = make_plan(complete_config(config), "results", [str(folder)])
            smallest = min(plan.experiments, key=lambda e: e.count.params_total)
            spec = read_spec(spec_file("results", smallest.experiment_id))
            forget()
            check(spec, plan.experiments)
        except FlopsFitError as error:
            message = str(error)
            assert len(message.splitlines()) == 1, message
            (folder / "refused.txt").write_text(message)
            return "refused"
        if drawn.must_refuse:
            return "accepted"
        if drawn.once and len(plan) > 1 and through_the_library(drawn, plan) == "accepted":
            return "accepted"
        forget()
        return trained(folder, smallest, plan.warnings) if further else "planned"
