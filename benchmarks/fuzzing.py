"""What the campaigns of random input share: each input is driven under an alarm, in warm processes."""

import argparse
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HANG = 120  # seconds of one input


@dataclass(frozen=True)
class Job:
    """Input ``number`` of ``seed``; ``further``: whether the dear part of the drive is done, too.

    What fails is kept in ``keep`` with its traceback.
    """

    seed: int
    number: int
    further: bool
    keep: str


def arguments(text: str, inputs: str, count: int, further: str, most: int, help_: str):
    """The parser of a campaign over ``count`` ``inputs``, of which ``most`` go ``further``."""
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument(f"--{inputs}", dest="inputs", type=int, default=count)
    parser.add_argument(f"--{further}", dest="further", type=int, default=most, help=help_)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=np.inf, help="end after this time")
    parser.add_argument("--keep", default="fuzz", help="folder of the inputs that failed")
    return parser.parse_args()


def jobs_of(args: argparse.Namespace) -> list[Job]:
    """Every input as a `Job`; about half of those that may go further end before they can."""
    step = max(args.inputs // max(2 * args.further, 1), 1) if args.further else 0
    numbers = range(args.first, args.first + args.inputs)
    return [Job(args.seed, i, bool(step) and i % step == 0, args.keep) for i in numbers]


def attempt(job: Job, drive: Callable[..., str], bad: Sequence[str] = ()) -> str:
    """How ``drive(random, folder, further)`` ends on ``job``: as it says, "traceback" or "hang".

    The input is kept where that is a failure, or one of ``bad``.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz{job.number}-"))
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(HANG)
    what = ""
    try:
        end = drive(np.random.default_rng([job.seed, job.number]), folder, job.further)
    except Exception as error:
        end = "hang" if isinstance(error, TimeoutError) else "traceback"
        what = traceback.format_exc()
    finally:
        signal.alarm(0)
    if what or end in bad:
        place = Path(job.keep, f"{job.seed}-{job.number}")
        shutil.copytree(folder, place, dirs_exist_ok=True)
        (place / "failure.txt").write_text(f"{end}\n{what}")
    shutil.rmtree(folder)
    return end


def _too_long(signum, frame):
    raise TimeoutError(f"longer than {HANG} s")


def ends_of(one: Callable[[Job], str], jobs: Sequence[Job], args: argparse.Namespace) -> list[str]:
    """How the jobs ended, in their order, as far as the time went."""
    ends: list[str] = []
    stop = time.monotonic() + args.seconds
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        results = pool.imap(one, jobs)
        while len(ends) < len(jobs) and time.monotonic() < stop:
            try:
                ends.append(results.next(timeout=2 * HANG))
            except multiprocessing.TimeoutError:  # stuck where no signal is seen
                ends.append("hang")
                break
    return ends
