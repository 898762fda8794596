"""The progress of a sweep: finished runs, the share of its FLOPs, the remaining time."""

import contextlib
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import run_folder
from flops_fit.experiment.plan import Plan
from flops_fit.files import read_json
from flops_fit.jobs.script_files import FOLDER
from flops_fit.jobs.time_left import Timed, seconds_left
from flops_fit.notation import flops_text, time_text
from flops_fit.plan.price import Work, cautious_rate, work_of
from flops_fit.run import PROGRESS
from flops_fit.store.elsewhere import noted_store
from flops_fit.store.locks import LOCK, lock_if_free
from flops_fit.store.plan_file import read_plan
from flops_fit.store.records import RESULT, read_failure
from flops_fit.sweep import Experiment

PAUSE = 2.0  # seconds between two looks at the runs, at least
COST = 0.02  # share of a core that looking may take, however many runs there are
LATEST = 20  # finished runs that give the speed


@dataclass(frozen=True)
class Progress:
    """The progress of the sweep of ``plan``, read from the folders of its runs below ``results``.

    Each experiment is either ``done`` or ``left``; some of those left have ``failed``.
    """

    plan: Plan
    results: str | Path
    done: list[Experiment]
    left: list[Experiment]
    failed: list[Experiment]

    @classmethod
    def of(cls, plan: Plan, results: str | Path, elsewhere: Collection[str] = ()) -> "Progress":
        """Look at the folder of every run of ``plan`` below ``results``.

        The ids in ``elsewhere`` are those of runs that have ended on other machines.
        """
        done, left, failed = [], [], []
        for experiment in plan.experiments:
            folder = run_folder(results, experiment.experiment_id)
            if (folder / RESULT).exists() or experiment.experiment_id in elsewhere:
                done.append(experiment)
                continue
            left.append(experiment)
            if read_failure(folder, experiment.hash):
                failed.append(experiment)
        return cls(plan, results, done, left, failed)

    @property
    def ended(self) -> tuple[int, int]:
        """The numbers of finished and of failed runs; a change of them is worth a new line."""
        return len(self.done), len(self.failed)

    def work(self, experiment: Experiment) -> Work:
        """Return the work of ``experiment``, without the steps that other runs train for it."""
        return work_of(experiment, self.plan.start_of(experiment.experiment_id))

    def line(self) -> str:
        """Return one line on the sweep, as `counts` has it."""
        return self.counts().line()

    def counts(self) -> "Counts":
        """Count the runs and FLOPs; the remaining time is based on the latest finished runs."""
        planned = self.plan.experiments
        folders = [run_folder(self.results, e.experiment_id) for e in self.left]
        running = [folder for folder in folders if _at_work(folder)]
        begun = {e.experiment_id: _begun(e, self.results) for e in self.left}
        spent = sum(self.plan.flops_here(e) for e in self.done)
        spent += sum(self.plan.flops_here(e) * begun[e.experiment_id].share for e in self.left)
        total = sum(self.plan.flops_here(e) for e in planned)
        known = self.left and (self.done or any(b.share for b in begun.values()))
        return Counts(
            runs=len(planned),
            done=len(self.done),
            failed=len(self.failed),
            at_work=len(running),
            flops=total,
            flops_done=spent,
            seconds_left=_seconds_left(self, begun, running) if known else None,
        )


@dataclass(frozen=True)
class Counts:
    """How far a sweep is.

    Of its ``runs`` so many are ``done``, ``failed`` and ``at_work``; of its ``flops`` so many are
    spent (``flops_done``); ``seconds_left`` is None where no run tells and where none is left.
    """

    runs: int
    done: int
    failed: int
    at_work: int
    flops: float
    flops_done: float
    seconds_left: float | None

    def line(self) -> str:
        """Return it as one line."""
        spent = flops_text(self.flops_done) if self.flops_done else 0
        share = f"{100 * self.flops_done / self.flops:.0f}%"
        parts = [
            f"{self.done} of {self.runs} runs",
            f"{spent} of {flops_text(self.flops)} FLOPs ({share})",
        ]
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += [f"{self.at_work} at work"] if self.at_work else []
        if self.seconds_left is not None:
            parts.append(f"about {time_text(self.seconds_left, 2)} left")
        return ", ".join(parts)


class Reporter:
    """Reports the progress of the sweep in ``plan_file`` whenever more of its runs have ended.

    ``results`` is the folder of all results. The longer it takes to look at the runs, the less often
    this is done.
    """

    def __init__(self, plan_file: str | Path, results: str | Path):
        self.plan_file, self.results = Path(plan_file), results
        self.ended: tuple[int, int] | None = None
        self.finished = False
        self.pause = 0.0  # seconds until the next look
        self._next = 0.0
        self._copied: set[str] = set()  # runs whose results a store has

    def news(self, elsewhere: Collection[str] = ()) -> str | None:
        """Return the name and the line of the sweep if more runs have ended, else None.

        ``elsewhere`` as in `Progress.of`.
        """
        if time.monotonic() < self._next:
            return None
        started = time.thread_time()
        ended = {*elsewhere, *self._copied}
        progress = Progress.of(read_plan(self.plan_file), self.results, ended)
        if noted_store(self.results):  # Snakemake removes local copies of results when it ends
            self._copied.update(experiment.experiment_id for experiment in progress.done)
        news = None
        if progress.ended != self.ended:
            news = f"{self.plan_file.stem}: {progress.line()}"
        self.ended, self.finished = progress.ended, not progress.left
        self.pause = (time.thread_time() - started) / COST
        self._next = time.monotonic() + self.pause
        return news


def watch(reporters: list[Reporter]) -> None:
    """Print the lines of the sweeps of ``reporters`` as their runs end, until all have ended."""
    while reporters:
        for reporter in reporters:
            if line := reporter.news():
                print(line, flush=True)
        reporters = [reporter for reporter in reporters if not reporter.finished]
        if reporters:
            time.sleep(max(PAUSE, *(reporter.pause for reporter in reporters)))


def _at_work(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    with lock_if_free(folder) as free:
        return not free


@dataclass(frozen=True)
class Begun:
    """How far an unfinished run says it is: the ``share`` of its tokens, after so many ``seconds``."""

    share: float = 0.0
    seconds: float = 0.0


def _begun(experiment: Experiment, results: str | Path) -> Begun:
    """What the run of ``experiment`` has left in its progress file, as a user's own script does."""
    path = run_folder(results, experiment.experiment_id) / FOLDER / PROGRESS
    with contextlib.suppress(FlopsFitError, LookupError, TypeError, ValueError):
        progress = read_json(path)
        if progress["hash"] == experiment.hash:
            share = progress["curve"]["tokens"][-1] / experiment.num_tokens
            return Begun(min(share, 1.0), float(progress["seconds"]))
    return Begun()


def _seconds_left(
    progress: Progress, begun: Mapping[str, Begun], running: list[Path]
) -> float | None:
    """Estimate the wall time in seconds of the runs of ``progress`` that are left.

    The speed is that of the latest finished runs, or else of the ``begun`` ones; None where there are
    none here. ``running`` are the folders of the runs at work.
    """
    now = time.time()
    latest = sorted(progress.done, key=lambda e: _ended(e, progress))[-LATEST:]
    finished = [timed for e in latest if (timed := _timed(e, progress))]
    if not finished:
        for experiment in progress.left:
            part, work = begun[experiment.experiment_id], progress.work(experiment)
            if part.share:
                share = part.share
                finished.append(Timed(work.flops * share, work.steps * share, part.seconds, now))
    if not finished:
        return None
    left = []
    for experiment in progress.left:
        work, rest = progress.work(experiment), 1 - begun[experiment.experiment_id].share
        left.append((work.flops * rest, work.steps * rest, rest == 1))
    at_work = [now - _locked_at(folder, now) for folder in running]
    return seconds_left(finished, left, at_work, cautious_rate(progress.plan.resources.gpus))


def _result(experiment: Experiment, progress: Progress) -> Path:
    return run_folder(progress.results, experiment.experiment_id) / RESULT


def _ended(experiment: Experiment, progress: Progress) -> float:
    """When ``experiment`` ended; 0 where its result is elsewhere, or Snakemake has just removed it."""
    with contextlib.suppress(OSError):
        return _result(experiment, progress).stat().st_mtime
    return 0.0


def _timed(experiment: Experiment, progress: Progress) -> Timed | None:
    """The time that ``experiment`` took; None where its result is not here."""
    work, ended = progress.work(experiment), _ended(experiment, progress)
    with contextlib.suppress(FlopsFitError):
        seconds = read_json(_result(experiment, progress))["wall_seconds"]
        return Timed(work.flops, work.steps, seconds, ended)
    return None


def _locked_at(folder: Path, now: float) -> float:
    """When the run in ``folder`` was first locked, which its job does before anything else."""
    with contextlib.suppress(OSError):
        return (folder / LOCK).stat().st_mtime
    return now
