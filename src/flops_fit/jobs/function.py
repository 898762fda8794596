"""A sweep of the Python API whose runs a function of the caller trains, one after the other.

The function is called in this process with the object that `flops_fit.run.current_experiment` gives
to a script. Its result is checked like that of a script, and is the commit point as well: a result
that was left before its record was written still counts.
"""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import run_folder
from flops_fit.files import FORMAT, canonical_hash
from flops_fit.jobs.script_files import (
    ScriptOutcome,
    ScriptSpec,
    counts_of,
    is_committed,
    outcome_of,
    record_fields,
)
from flops_fit.run import FINAL, STOPPED, Run, as_current
from flops_fit.store.stopping import RETRY_STATUS
from flops_fit.sweep import Experiment, SweepPlan
from flops_fit.training.local import ResultsFile, is_main_process, say
from flops_fit.training.local_identity import (
    TRUST,
    LocalIdentity,
    of_the_main_process,
    reference,
    train_missing,
)
from flops_fit.training.record import Record

RESULT_FILE = "script_result.json"
TrainFunction = Callable[[Run], Any]


@dataclass(frozen=True)
class FunctionOptions:
    """What a function is asked to train, beside the size; all of it decides the result.

    Attributes as in `ScriptSpec`: ``tokens``, ``steps``, ``batch_items``, ``tokens_per_item``,
    ``learning_rate`` and ``seed``.
    """

    tokens: int
    steps: int
    batch_items: int
    tokens_per_item: int
    learning_rate: float
    seed: int

    @classmethod
    def of(cls, experiment: Experiment) -> "FunctionOptions":
        """The options of an ``experiment`` of a plan."""
        return cls(
            tokens=experiment.num_tokens,
            steps=experiment.steps,
            batch_items=experiment.batch_items,
            tokens_per_item=round(experiment.tokens_per_item),
            learning_rate=experiment.learning_rate,
            seed=experiment.seed,
        )

    def deciding(self) -> dict[str, Any]:
        """All of them, by name."""
        return asdict(self)


def train_by_function(
    plan: SweepPlan,
    train_fn: TrainFunction,
    output_dir: str | Path,
    tokens_per_item: int,
    resume: bool | str = True,
    retries: int = 0,
) -> list[dict]:
    """Train every experiment of ``plan`` by ``train_fn(run)``; returns their records, in its order.

    Records are also written to ``results.json`` in ``output_dir``, and ``resume`` decides which of
    them are used again, as in `flops_fit.find_optimal`; what ``train_fn`` saves in ``run.folder`` lies
    below ``runs`` there. An item of its batch brings ``tokens_per_item`` tokens. A run that fails is
    tried ``retries`` more times. Raises `FlopsFitError` where it still fails, and `SystemExit` with
    status 75 after a stop signal; a new call then goes on.
    """
    folder = Path(output_dir)
    program = {
        "name": getattr(train_fn, "__name__", type(train_fn).__name__),
        "launcher": "function",
        "line": [reference(train_fn)],
        "tokens_per_item": tokens_per_item,
        "accelerate": None,
    }
    identity = LocalIdentity.of_function(train_fn, {"trainer": program}, folder)
    results = ResultsFile(folder)
    sweep = FunctionSweep(train_fn, folder, identity, resume, retries)
    planned = [(e, FunctionOptions.of(e)) for e in plan.experiments]
    return train_missing(planned, results, identity, resume, partial(sweep.train, results))


@dataclass(frozen=True)
class FunctionSweep:
    """A sweep that ``train_fn`` trains, with results below ``folder``.

    ``identity`` describes ``train_fn``; ``resume`` and ``retries`` are those of `train_by_function`.
    """

    train_fn: TrainFunction
    folder: Path
    identity: LocalIdentity
    resume: bool | str
    retries: int

    def train(
        self, results: ResultsFile, experiment: Experiment, options: FunctionOptions
    ) -> dict[str, Any]:
        """Train ``experiment`` with ``options``, add its record to ``results`` and return it."""
        spec = self._spec(experiment, options)
        if not self.resume and is_main_process():
            shutil.rmtree(Path(spec.folder), ignore_errors=True)
        outcome, asked_to_stop = self._outcome(experiment, spec)
        for note in outcome.notes:
            say(f"{experiment.experiment_id}: {note}")
        record = self._record(experiment, options, spec, outcome)
        results.add(record)
        Path(spec.folder, RESULT_FILE).unlink(missing_ok=True)
        if asked_to_stop:
            _stop(experiment.experiment_id)
        return record

    def _spec(self, experiment: Experiment, options: FunctionOptions) -> ScriptSpec:
        """The files of a run are named by its hash, too: another function does not find them."""
        digest = self.identity.hash(experiment.size_param_value, options)
        unique = digest if self.resume == TRUST else self.identity.once(digest)
        name = f"{experiment.experiment_id}-{canonical_hash(unique)[:8]}"
        (name,) = of_the_main_process([name])
        return ScriptSpec(
            experiment_id=experiment.experiment_id,
            hash=digest,
            size=experiment.size_param_value,
            folder=str(run_folder(self.folder, name)),
            processes=int(os.environ.get("WORLD_SIZE", 1)),
            threads=torch.get_num_threads(),
            gpus=int(torch.cuda.is_available()),
            **options.deciding(),
        )

    def _outcome(self, experiment: Experiment, spec: ScriptSpec) -> tuple[ScriptOutcome, bool]:
        """How the run of ``spec`` ended, and whether a stop signal came while it was trained."""
        path, counts, error = Path(spec.folder, RESULT_FILE), counts_of(experiment.count), None
        for _ in range(self.retries + 1):
            (committed,) = of_the_main_process([is_main_process() and is_committed(path, spec)])
            status, asked = 0, False
            if not committed:
                status, asked, error = self._call(spec, path)
            if error and spec.processes > 1:
                raise error  # the other processes wait for this one, until the launcher ends them
            outcome, asked = of_the_main_process(
                [is_main_process() and outcome_of(path, spec, counts, status, asked), asked]
            )
            if outcome.status in FINAL:
                return outcome, asked
            if outcome.status == STOPPED:
                _stop(experiment.experiment_id)
            say(f"{experiment.experiment_id}: {outcome.reason}")
        raise FlopsFitError(f"{experiment.experiment_id}: {outcome.reason}") from error

    def _call(self, spec: ScriptSpec, path: Path) -> tuple[int, bool, Exception | None]:
        """Call the function; returns the exit status that a script would have.

        Also whether a stop signal came, and what the function raised.
        """
        status, asked, raised = 0, False, None
        try:
            with as_current({"format": FORMAT, **asdict(spec)}, str(path)) as run:
                try:
                    self.train_fn(run)
                finally:
                    asked = run.signalled
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code))
        except Exception as error:
            status, raised = 1, error
        return status, asked, raised

    def _record(
        self,
        experiment: Experiment,
        options: FunctionOptions,
        spec: ScriptSpec,
        outcome: ScriptOutcome,
    ) -> dict[str, Any]:
        from flops_fit import __version__

        record = Record(
            experiment.experiment_id,
            spec.hash,
            self.identity.record(options),
            experiment.count,
            experiment.tokens_per_item,
            record_fields(outcome, experiment.count, spec, "function"),
            {"flops_fit": __version__, **outcome.versions},
        )
        return {**experiment.to_dict(), **record.to_dict()}


def _stop(experiment_id: str) -> NoReturn:
    say(f"{experiment_id}: stopped; a new call goes on from here")
    sys.exit(RETRY_STATUS)
