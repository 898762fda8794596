"""How far a sweep is: runs done, FLOPs spent of those planned, time left."""

import statistics
import time
from pathlib import Path

from flops_fit.experiment.places import run_folder
from flops_fit.files import read_json
from flops_fit.notation import flops_text, time_text
from flops_fit.plan.price import GUESS, Rate, device_kind, price, work_of_row
from flops_fit.store.locks import lock_if_free
from flops_fit.store.records import RESULT, read_failure

PAUSE = 2.0  # seconds between two looks while following
COST = 0.02  # and no more of a core than this, however many runs there are
LATEST = 20  # finished runs from which the speed is taken


def follow(name: str, plan: dict, results: str | Path, pid: int) -> None:
    """Print the line of ``plan``, again whenever more of its runs are done, until ``pid`` ends.

    One process for a whole sweep: to be started after every run costs more than a fast run does.
    """
    before, pause = -1, 0.0
    while _lives(pid, pause):
        started = time.process_time()
        if (done := len(_done(plan, results))) != before:
            before = done
            print(f"{name}: {progress_line(plan, results)}", flush=True)
        pause = max(PAUSE, (time.process_time() - started) / COST)


def _lives(pid: int, seconds: float) -> bool:
    """Whether a process still lives after ``seconds``; returns as soon as it ends."""
    import psutil

    try:
        process = psutil.Process(pid)
        process.wait(seconds)
    except psutil.TimeoutExpired:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        pass
    return False


def _done(plan: dict, results: str | Path) -> list[dict]:
    rows = plan["experiments"]
    return [row for row in rows if (run_folder(results, row["experiment_id"]) / RESULT).exists()]


def progress_line(plan: dict, results: str | Path) -> str:
    """One line on the sweep of ``plan``; the time left follows its latest finished runs."""
    rows = plan["experiments"]
    done = _done(plan, results)
    ids = {row["experiment_id"] for row in done}
    left = [row for row in rows if row["experiment_id"] not in ids]
    failed = [row for row in left
              if read_failure(run_folder(results, row["experiment_id"]), row["hash"])]  # fmt: skip
    at_work = sum(_at_work(run_folder(results, row["experiment_id"])) for row in left)
    spent, planned = (sum(row["flops_counted"] for row in part) for part in (done, rows))
    parts = [
        f"{len(done)} of {len(rows)} runs",
        f"{flops_text(spent) if spent else 0} of {flops_text(planned)} FLOPs "
        f"({100 * spent / planned:.0f}%)",
    ]
    if failed:
        parts.append(f"{len(failed)} failed")
    if at_work:
        parts.append(f"{at_work} at work")
    if left and done:
        parts.append(f"about {time_text(_seconds_left(done, left, at_work, plan, results))} left")
    return ", ".join(parts)


def _at_work(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    with lock_if_free(folder) as free:
        return not free


def _seconds_left(done: list[dict], left: list[dict], at_work: int, plan: dict, results) -> float:
    """Wall time of ``left``, as many side by side as lately, each as far off its price as those."""
    rate = Rate(*GUESS[device_kind(plan["resources"]["gpus"])], "")

    def expected(row: dict) -> float:
        return price(work_of_row(row), rate, plan["resources"]).seconds

    def ended(row: dict) -> float:
        return (run_folder(results, row["experiment_id"]) / RESULT).stat().st_mtime

    latest = sorted(done, key=ended)[-LATEST:]
    walls = [read_json(run_folder(results, row["experiment_id"]) / RESULT)["wall_seconds"]
             for row in latest]  # fmt: skip
    span = ended(latest[-1]) - min(ended(r) - wall for r, wall in zip(latest, walls, strict=True))
    side_by_side = max(at_work, sum(walls) / max(span, 1e-9))
    slower = statistics.median(w / expected(r) for r, w in zip(latest, walls, strict=True))
    return slower * sum(map(expected, left)) / side_by_side
