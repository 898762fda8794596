"""A run of a user's own script: started, ended where it hangs, and recorded.

The script's result file is the commit point. Once it says that the run is completed or has diverged,
the run counts, whatever happens to the script or its launcher afterwards.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from flops_fit.constants import Status
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.placeholders import filled
from flops_fit.experiment.places import hashes_file
from flops_fit.experiment.script_config import PLACEMENT_PREFIXES
from flops_fit.experiment.script_recipe import ACCELERATE
from flops_fit.experiment.spec import Spec
from flops_fit.experiment.used import late_script_uses, late_sentences, note_late
from flops_fit.files import read_json, write_atomic
from flops_fit.jobs import hold
from flops_fit.jobs.environment import accelerate_config
from flops_fit.jobs.launcher import launcher
from flops_fit.jobs.script_files import (
    FOLDER,
    RESULT,
    SPEC,
    ScriptOutcome,
    ScriptSpec,
    counts_of,
    is_committed,
    outcome_of,
    record_fields,
)
from flops_fit.jobs.start import Start
from flops_fit.plugins.data_files import FileHashes
from flops_fit.run import FINAL, STOPPED
from flops_fit.store.locks import LOCK
from flops_fit.store.records import FAILURE, finish_run, note_failure
from flops_fit.store.stopping import RETRY_STATUS, outlive
from flops_fit.training.record import Record

LAUNCH_LOCK = ".launch.lock"  # of the job, beside that of the script
SPEC_FILE, RESULT_FILE = "script_spec.json", "script_result.json"
ACCELERATE_FILE = "accelerate.yaml"
FINISHED_SECONDS = 60.0  # that a script may go on after its result
TERMINATED_SECONDS = 5.0  # that it may go on after SIGTERM
POLL_SECONDS = 0.5
SET_BY_JOB = ("gpu_ids", "machine_rank", "num_machines", "num_processes", "use_cpu")


@dataclass(frozen=True)
class ScriptRun:
    """The run that ``start`` starts, of an experiment that a user's own script trains."""

    start: Start

    def settle(self) -> bool:
        """Record a result that an earlier start committed; returns whether there was one.

        One that was stopped, failed or is broken is removed. Raises `FlopsFitError` for one that does
        not fit the plan: it stays, since the counts of the plan may be what is wrong.
        """
        path, script_spec = self._path(RESULT_FILE), self.script_spec()
        if not is_committed(path, script_spec):
            return False
        outcome = outcome_of(path, script_spec, counts_of(self.spec.count), exit_status=0)
        if outcome.status == Status.FAILED:
            self._failed(outcome.reason)
            raise FlopsFitError(outcome.reason)
        known = tuple(name for name in outcome.verified if name != "exit status")
        self._record(replace(outcome, verified=known))
        return True

    def train(self, environment: Mapping[str, str]) -> int:
        """Run the script in ``environment``; returns 0, 75 (to be started again), 1 or 2.

        Raises `FlopsFitError` where its files cannot be written.
        """
        self._path(FAILURE).unlink(missing_ok=True)
        if changed := self._changed():
            self._failed(f"{', '.join(changed)} changed since the plan was made; plan it again")
            return 2
        outcome, notes = self._run_script(environment)
        if outcome.status in FINAL:
            self._record(outcome, notes)
            return 0
        if outcome.status == STOPPED:
            why = f" ({outcome.reason})" if outcome.reason else ""
            self._say(f"stopped{why}; a retry will resume it")
            return RETRY_STATUS
        self._failed(outcome.reason)
        return 1

    @property
    def spec(self) -> Spec:
        """The experiment."""
        return self.start.spec

    def script_spec(self) -> ScriptSpec:
        """What the script is asked to train."""
        start, folder = self.start, str(self._path(FOLDER).absolute())
        return script_spec_of(self.spec, folder, start.processes, start.threads, start.gpus)

    def _path(self, name: str) -> Path:
        return self.start.folder / name

    def _changed(self) -> list[str]:
        hashes = FileHashes(hashes_file(self.start.results))
        changed = self.spec.changed(hashes)
        hashes.save()
        return changed

    def _run_script(self, environment: Mapping[str, str]) -> tuple[ScriptOutcome, list[str]]:
        """Run the script to its end; its outcome, and sentences on how we ended it."""
        script_spec, folder = self.script_spec(), self.start.folder
        Path(script_spec.folder).mkdir(parents=True, exist_ok=True)
        script_spec.write(folder / SPEC_FILE)
        signals: list[int] = []
        notes: list[str] = []
        began = time.monotonic()
        status = outlive(
            command_line(self.spec, script_spec, folder),
            {**environment, **script_variables(folder)},
            signals,
            lambda: self._end_if_hanging(notes),
        )
        seconds = time.monotonic() - began
        outcome = outcome_of(
            folder / RESULT_FILE, script_spec, counts_of(self.spec.count), status, bool(signals)
        )
        return replace(outcome, seconds=outcome.seconds or seconds), notes

    def _failed(self, reason: str) -> None:
        note_failure(self.start.folder, self.spec.experiment_id, self.spec.hash, reason)
        self._say(reason)

    def _say(self, sentence: str) -> None:
        print(f"flops-fit: {self.spec.experiment_id}: {sentence}", file=sys.stderr)

    def _record(self, outcome: ScriptOutcome, more_notes: Iterable[str] = ()) -> None:
        """Write the record of ``outcome``, and print its notes."""
        late, large, more = self._used_late(outcome)
        notes = [*outcome.notes, *more_notes, *large]
        for note in [*notes, *late_sentences(late, more, "trainer.sources")]:
            self._say(note)
        record = record_of(self.start, replace(outcome, notes=tuple(notes)))
        finish_run(self.start.folder, record | ({"late": late} if late else {}), self.start.result)
        for name in (RESULT_FILE, SPEC_FILE, ACCELERATE_FILE):
            self._path(name).unlink(missing_ok=True)

    def _used_late(
        self, outcome: ScriptOutcome
    ) -> tuple[dict[str, dict[str, str]], list[str], int]:
        """What the run used that its plan does not have, and a note on files that are not hashed.

        Also how many more files there were than are kept.
        """
        results, started = self.start.results, self._path(LAUNCH_LOCK).stat().st_mtime
        uses, large, more = late_script_uses(outcome.used, self.spec, results, started)
        hashes = FileHashes(hashes_file(results))
        late = note_late(results, self.spec.recipe.references, uses, hashes)
        hashes.save()
        if not large:
            return late, [], more
        note = (
            f"read, and too large to be compared by content: {', '.join(large)}; a change is only "
            "noticed where trainer.sources names the file"
        )
        return late, [note], more

    def _end_if_hanging(self, notes: list[str]) -> None:
        """Watch for a result, and end what still runs long after it."""
        path, seconds = self._path(RESULT_FILE), finished_seconds()
        while not _is_final(path):
            time.sleep(POLL_SECONDS)
        time.sleep(seconds)
        notes.append(f"the script still ran {seconds:g} s after its result, and was ended")
        _signal_descendants(signal.SIGTERM)
        time.sleep(min(TERMINATED_SECONDS, seconds))
        while True:
            _signal_descendants(signal.SIGKILL)
            time.sleep(POLL_SECONDS)


def finished_seconds() -> float:
    """How many seconds a script may go on after its result; tests set FLOPS_FIT_FINISHED_SECONDS."""
    return float(os.environ.get("FLOPS_FIT_FINISHED_SECONDS", FINISHED_SECONDS))


def script_spec_of(spec: Spec, folder: str, processes: int, threads: int, gpus: int) -> ScriptSpec:
    """What the script of ``spec`` is asked to train in ``folder``, by so many ``processes``.

    Each has ``threads`` CPU threads; ``gpus`` are those of the job.
    """
    recipe = spec.script
    return ScriptSpec(
        experiment_id=spec.experiment_id,
        hash=spec.hash,
        size=recipe.size,
        tokens=recipe.tokens,
        steps=recipe.steps,
        batch_items=recipe.batch_items,
        tokens_per_item=recipe.shared.program.tokens_per_item,
        learning_rate=recipe.learning_rate,
        seed=recipe.seed,
        folder=folder,
        arguments=recipe.arguments,
        processes=processes,
        threads=threads,
        gpus=gpus,
    )


def script_variables(folder: Path) -> dict[str, str]:
    """The variables that name a script's two files in ``folder``."""
    place = folder.absolute()
    return {SPEC: str(place / SPEC_FILE), RESULT: str(place / RESULT_FILE)}


def command_line(spec: Spec, script_spec: ScriptSpec, folder: Path) -> list[str]:
    """The command that starts the script of ``spec``; its files and its lock lie in ``folder``.

    ``script_spec`` fills the placeholders. Raises `FlopsFitError` for a sweep that is planned alone.
    """
    recipe, launching = spec.script, spec.launching or {}
    if not launching["line"]:
        raise FlopsFitError(
            "trainer: missing, so that runs are planned and not trained; allowed: a trainer with a "
            "script or a command, or flops-fit plan and then flops-fit fit --runs with your own losses"
        )
    values = {**vars(script_spec), **script_spec.arguments}
    program = [filled(word, values) for word in launching["line"]]
    holder = [sys.executable, "-I", "-S", str(hold.__file__), str((folder / LOCK).absolute())]
    if recipe.shared.program.launcher != ACCELERATE:
        return [*holder, *program]
    config, kind = None, "NO"
    if launching["accelerate"] is not None:
        config = str((folder / ACCELERATE_FILE).absolute())
        content = yaml.safe_load(Path(accelerate_config()).read_text())
        content |= {
            key: value
            for key, value in launching["accelerate"].items()
            if key not in SET_BY_JOB and not key.startswith(PLACEMENT_PREFIXES)
        }
        kind = content["distributed_type"]
        write_atomic(config, yaml.safe_dump(content))
    line = launcher(script_spec.processes, script_spec.threads, script_spec.gpus, config, kind)
    return [*line, "--no_python", *holder, sys.executable, *program]


def record_of(start: Start, outcome: ScriptOutcome) -> dict[str, Any]:
    """The record of the run of ``start`` that ended with ``outcome``, not yet sealed."""
    from flops_fit import __version__

    spec, script_spec = start.spec, ScriptRun(start).script_spec()
    trained = record_fields(outcome, spec.count, script_spec, "script")
    count, per_item = spec.count, spec.tokens_per_item
    versions = {"flops_fit": __version__, **outcome.versions}
    identity = spec.recipe.to_dict()
    record = Record(spec.experiment_id, spec.hash, identity, count, per_item, trained, versions)
    return record.to_dict()


def _is_final(path: Path) -> bool:
    with contextlib.suppress(FlopsFitError, AttributeError):
        return path.exists() and read_json(path).get("status") in FINAL
    return False


def _signal_descendants(number: int) -> None:
    import psutil  # only where a script hangs

    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)
