"""Let a SLURM job that ends at its time limit go on in the same job, which spends no retry."""

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

JOB_ID = "SLURM_JOB_ID"
# The warning comes two minutes before the limit, and SLURM may send it a minute early.
NEAR_SECONDS = 240
ANSWER_SECONDS = 20  # that SLURM may take for an answer


def requeue_at_limit(saved: Iterable[Path], began: float) -> None:
    """Put this SLURM job back into the queue if its time limit is reached and its run is saved.

    ``saved`` are the folders of the checkpoints. A job that has saved nothing since ``began`` (seconds
    since 1970) would do the same again and again, so it fails as always. A job that is being cancelled
    or preempted is left alone.
    """
    job = os.environ.get(JOB_ID)
    if job is None or not _is_near_its_end(job) or _newest(saved) < began:
        return
    if _ask("scontrol", "requeue", job) is None:
        return
    print(
        "flops-fit: the time limit of the job is reached and the run is saved; the job goes back "
        "into the queue and continues there",
        file=sys.stderr,
        flush=True,
    )


def _is_near_its_end(job: str) -> bool:
    answer = _ask("squeue", "--noheader", "--job", job, "--format", "%T %e")
    state, _, end = (answer or "").strip().partition(" ")
    try:
        left = datetime.fromisoformat(end).timestamp() - time.time()
    except ValueError:  # SLURM knows no end of this job
        return False
    return state == "RUNNING" and left < NEAR_SECONDS


def _ask(*line: str) -> str | None:
    """What a command of SLURM prints; None, and a sentence in the log, where it does not work."""
    try:
        done = subprocess.run(
            line, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    else:
        if done.returncode == 0:
            return done.stdout
        reason = done.stderr.strip()
    print(
        f"flops-fit: {line[0]} does not work here ({reason}); a retry resumes the run",
        file=sys.stderr,
    )
    return None


def _newest(folders: Iterable[Path]) -> float:
    files = (path for folder in folders for path in folder.rglob("*"))
    return max((path.lstat().st_mtime for path in files), default=0.0)
