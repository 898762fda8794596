"""The campaign: each random input is driven under a watch, in warm processes."""

import faulthandler
import importlib
import multiprocessing
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# A machine that does other work, too, must not look like a hang.
PROCESSOR_SECONDS, SECONDS = 120, 1800  # of one input, after which it hangs
REFUSED = "refused"
WRONG = ("traceback", "hang", "mismatch", "accepted", "late")  # ends that no input may have


@dataclass(frozen=True)
class Job:
    """Input ``number`` of ``seed`` for the function ``drive`` of the module ``kind``.

    ``further``: whether the expensive part of the drive is done, too; inputs are then drawn until
    one is not refused. What fails is kept in ``keep`` with its traceback.
    """

    kind: str
    seed: int
    number: int
    further: bool
    keep: str


def run(jobs: Sequence[Job], processes: int) -> Iterator[tuple[Job, list[str]]]:
    """Every job with the ends of its inputs, as they come.

    Where a process dies or hangs for good, that is one "hang", and the jobs that are left are not
    done.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        futures = {pool.submit(attempt, job): job for job in jobs}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:
                yield futures[future], ["hang"]
                return


def attempt(job: Job) -> list[str]:
    """How the inputs of ``job`` end: as the drive says, "traceback" or "hang"."""
    drive = importlib.import_module(job.kind).drive
    random = np.random.default_rng([job.seed, job.number])
    ends: list[str] = []
    while not ends or (job.further and ends[-1] == REFUSED):
        ends.append(watched(job, drive, random))
    return ends


def watched(job: Job, drive, random: np.random.Generator) -> str:
    """How ``drive(random, folder, further)`` ends; the input is kept where that is wrong."""
    folder = Path(tempfile.mkdtemp(prefix=f"{job.kind}{job.number}-"))
    what = ""
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, too_long)
    signal.setitimer(signal.ITIMER_PROF, PROCESSOR_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    faulthandler.dump_traceback_later(2 * SECONDS, exit=True)  # where no signal is noticed
    try:
        end = drive(random, folder, job.further)
    except Exception as error:
        end = "hang" if isinstance(error, TimeoutError) else "traceback"
        what = traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
    if end in WRONG:
        place = Path(job.keep, f"{job.kind}-{job.seed}-{job.number}")
        shutil.copytree(folder, place, dirs_exist_ok=True)
        (place / "failure.txt").write_text(f"{end}\n{what}")
        print(f"{place}: {end}", file=sys.stderr)
    shutil.rmtree(folder)
    return end


def too_long(signum, frame):
    raise TimeoutError(f"longer than {PROCESSOR_SECONDS} s of the processor, or {SECONDS} s")
