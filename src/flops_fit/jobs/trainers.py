"""The jobs of each kind of trainer: how one is checked before a sweep, and started for a run."""

import contextlib
import os
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from flops_fit.experiment.recipe import PluginRecipe, Recipe
from flops_fit.experiment.script_recipe import ScriptRecipe
from flops_fit.experiment.spec import Spec
from flops_fit.jobs.compiled import cache_variables
from flops_fit.jobs.environment import job_environment
from flops_fit.jobs.gpu_locks import USE_CPU
from flops_fit.jobs.killed import AT_WORK, KILLED, LOST
from flops_fit.jobs.launcher import ACCELERATE, launcher
from flops_fit.jobs.one_process import CHECK, FOR_OPENMP, JOB
from flops_fit.jobs.script import LAUNCH_LOCK, ScriptRun
from flops_fit.jobs.served import run_served
from flops_fit.jobs.start import Start
from flops_fit.plan.amounts import CheckedData
from flops_fit.plan.nvidia_smi import VISIBLE
from flops_fit.store.locks import run_lock
from flops_fit.store.records import note_failure, read_failure
from flops_fit.store.stopping import outlive

ONE_PROCESS = "flops_fit.jobs.one_process"


class Trainer(Protocol):
    """How the jobs of one kind of trainer go. ``start`` is a start of a run in every method."""

    def alone(self, start: Start) -> AbstractContextManager[None]:
        """Keep other launchers of ``start`` out, beyond what the lock of the trainer does."""

    def settle(self, start: Start) -> bool:
        """Record a result that an earlier start left without a record; returns whether it did."""

    def run(self, start: Start, environment: Mapping[str, str]) -> int:
        """Train ``start`` in ``environment`` and return the exit status of the job."""

    def check(self, spec: Spec) -> CheckedData:
        """Try the experiment of ``spec``, the smallest, before any job; returns what is learned."""

    def check_forked(self, spec: Spec, arguments: list[str]) -> int | None:
        """Check the sweep of ``spec`` in a fork of the workflow's server; returns its exit status.

        ``arguments`` are those of `flops_fit.jobs.check`. None: the check is to be done here.
        """


class PluginTrainer:
    """Our trainer, which locks the run and writes its record itself."""

    def alone(self, start: Start) -> AbstractContextManager[None]:
        """Nothing: the trainer's lock does for ``start``."""
        return contextlib.nullcontext()

    def settle(self, start: Start) -> bool:
        """Nothing: the trainer of ``start`` leaves no result without a record."""
        return False

    def run(self, start: Start, environment: Mapping[str, str]) -> int:
        """Train ``start`` in ``environment`` as ``accelerate launch`` does; returns the exit status."""
        environment = {**environment, **self.variables(start)}
        if start.spec.resources.compile:
            environment |= cache_variables(start.results, environment)
        status = run_served(self.line(start), environment) if start.may_be_forked else None
        if status is None:
            status = outlive(self.line(start), environment)
        if status:
            report_killed(start.folder, start.spec.experiment_id, start.spec.hash)
        return status

    @staticmethod
    def variables(start: Start) -> dict[str, str]:
        """What the trainer of ``start`` reads from its environment."""
        processes, gpus = str(start.processes), str(start.gpus)
        variables = {"FLOPS_FIT_PROCESSES": processes, "FLOPS_FIT_GPUS": gpus}
        if start.one_on_cpu:
            variables |= FOR_OPENMP
        if start.gpus == 0:  # else its checkpoints would hold the random state of every GPU
            variables[VISIBLE] = ""
        return variables

    @staticmethod
    def line(start: Start) -> list[str]:
        """The command that trains ``start``."""
        job = [JOB, start.spec_path, start.result, start.results, start.after]
        return [*PluginTrainer._launcher(start), "-m", *job]

    @staticmethod
    def _launcher(start: Start) -> list[str]:
        """The command that starts a program as the trainer of ``start`` is started."""
        module = ONE_PROCESS if start.one_on_cpu else ACCELERATE
        return launcher(start.processes, start.threads, start.gpus, module=module)

    def check(self, spec: Spec) -> CheckedData:
        """Take two steps of ``spec`` on a real batch; returns what is known of the data then."""
        from flops_fit.jobs.environment import clean_environment
        from flops_fit.trainer import train
        from flops_fit.training.checks import check_inputs

        with clean_environment(**{USE_CPU: "true"}):
            return check_inputs(spec, train)

    def check_forked(self, spec: Spec, arguments: list[str]) -> int | None:
        """Check the sweep of ``spec`` in a fork, in the environment that its runs will have.

        ``arguments`` are those of `flops_fit.jobs.check`. Returns the exit status, or None where its
        runs cannot be forked.
        """
        asked = spec.resources
        start = Start(spec, "", "", arguments[-1], asked.processes, asked.threads, asked.gpus)
        if not start.may_be_forked:
            return None
        environment = job_environment(os.environ, start.threads) | self.variables(start)
        line = [*self._launcher(start), "-m", CHECK, *arguments]
        return run_served(line, {**environment, USE_CPU: "true"})


class ScriptTrainer:
    """A user's own script: `flops_fit.jobs.hold` locks the run, and the job writes its record."""

    def alone(self, start: Start) -> AbstractContextManager[None]:
        """Hold the lock of the launcher of ``start``: between the script's end and its record, too."""
        return run_lock(start.folder, name=LAUNCH_LOCK)

    def settle(self, start: Start) -> bool:
        """Record a result of ``start`` that was committed before its launcher was killed."""
        return ScriptRun(start).settle()

    def run(self, start: Start, environment: Mapping[str, str]) -> int:
        """Run the script of ``start`` in ``environment``, record what came of it; returns a status."""
        return ScriptRun(start).train(environment)

    def check(self, spec: Spec) -> CheckedData:
        """Run the script of ``spec`` for two steps in a temporary folder."""
        from flops_fit.jobs.script_trial import try_script

        return CheckedData(
            notes=try_script(spec),
            read_once=False,
            unique_items=None,
            unique_tokens=None,
            heldout_items=None,
            bytes_per_token=None,
        )

    def check_forked(self, spec: Spec, arguments: list[str]) -> int | None:
        """None: the script of ``spec`` is a process of its own, whatever the ``arguments``."""
        return None


TRAINERS: Mapping[type[Recipe], Trainer] = {
    PluginRecipe: PluginTrainer(),
    ScriptRecipe: ScriptTrainer(),
}


def trainer_of(spec: Spec) -> Trainer:
    """The jobs of the kind of trainer that trains ``spec``."""
    return TRAINERS[type(spec.recipe)]


def report_killed(folder: Path, experiment_id: str, experiment_hash: str) -> None:
    """Print the reason of a failure that the trainer could not print, or that a traceback hides.

    ``folder`` is the folder of the run, with its ``experiment_id`` and ``experiment_hash``.
    """
    at_work = folder / AT_WORK
    if at_work.exists():
        at_work.unlink()
        note_failure(folder, experiment_id, experiment_hash, KILLED)
    reason = read_failure(folder, experiment_hash)
    if reason in (KILLED, LOST):
        print(f"\nflops-fit: {experiment_id}: {reason}", file=sys.stderr)  # behind a progress bar
