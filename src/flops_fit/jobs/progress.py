"""The progress of a sweep: finished runs, the share of its FLOPs, the remaining time."""

import time
from dataclasses import dataclass
from pathlib import Path

from flops_fit.experiment.places import run_folder
from flops_fit.experiment.plan import Plan
from flops_fit.files import read_json
from flops_fit.notation import flops_text, time_text
from flops_fit.plan.price import cautious_rate, price, work_of
from flops_fit.store.locks import lock_if_free
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
    def of(cls, plan: Plan, results: str | Path) -> "Progress":
        """Look at the folder of every run of ``plan`` below ``results``."""
        done, left, failed = [], [], []
        for experiment in plan.experiments:
            folder = run_folder(results, experiment.experiment_id)
            if (folder / RESULT).exists():
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

    def line(self) -> str:
        """Return one line on the sweep; the remaining time is based on its latest finished runs."""
        planned = self.plan.experiments
        at_work = sum(_at_work(run_folder(self.results, e.experiment_id)) for e in self.left)
        spent, total = (sum(e.flops_counted for e in part) for part in (self.done, planned))
        parts = [
            f"{len(self.done)} of {len(planned)} runs",
            f"{flops_text(spent) if spent else 0} of {flops_text(total)} FLOPs "
            f"({100 * spent / total:.0f}%)",
        ]
        if self.failed:
            parts.append(f"{len(self.failed)} failed")
        if at_work:
            parts.append(f"{at_work} at work")
        if self.left and self.done:
            seconds = _seconds_left(self.done, self.left, at_work, self.plan, self.results)
            parts.append(f"about {time_text(seconds)} left")
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

    def news(self) -> str | None:
        """Return the name and the line of the sweep if more runs have ended, else None."""
        if time.monotonic() < self._next:
            return None
        started = time.thread_time()
        progress = Progress.of(read_plan(self.plan_file), self.results)
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


def _seconds_left(
    done: list[Experiment], left: list[Experiment], at_work: int, plan: Plan, results: str | Path
) -> float:
    """Estimate the wall time of ``left`` in seconds from the latest of ``done``.

    It assumes as many runs in parallel as lately, and the same ratio of real to estimated time.
    """
    rate = cautious_rate(plan.resources.gpus)

    def expected(experiment: Experiment) -> float:
        return price(work_of(experiment), rate, plan.resources).seconds

    def result_of(experiment: Experiment) -> Path:
        return run_folder(results, experiment.experiment_id) / RESULT

    def ended(experiment: Experiment) -> float:
        return result_of(experiment).stat().st_mtime

    latest = sorted(done, key=ended)[-LATEST:]
    walls = [read_json(result_of(experiment))["wall_seconds"] for experiment in latest]
    span = ended(latest[-1]) - min(ended(e) - wall for e, wall in zip(latest, walls, strict=True))
    side_by_side = max(at_work, sum(walls) / max(span, 1e-9))
    import statistics  # imports fractions and decimal, which a start of the workflow does not need

    slower = statistics.median(w / expected(e) for e, w in zip(latest, walls, strict=True))
    return slower * sum(map(expected, left)) / side_by_side
