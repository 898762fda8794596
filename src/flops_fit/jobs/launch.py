"""Start the job of an experiment: restore it from its record, or run ``accelerate launch``.

This module does not import torch, so that a finished run is restored in milliseconds. Otherwise
the process stays until the last trainer has ended, which may be after its launcher.
"""

import os
import sys
from pathlib import Path

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import run_folder, spec_file
from flops_fit.experiment.spec import read_spec
from flops_fit.jobs.environment import accelerate_config, cleaned
from flops_fit.jobs.gpu_locks import USE_CPU, cpu_by_choice, take_devices
from flops_fit.jobs.killed import AT_WORK, KILLED, LOST
from flops_fit.store.locks import run_lock
from flops_fit.store.records import finished_before, note_failure, read_failure, restore_run
from flops_fit.store.stopping import outlive


def launch(
    spec_path: str, result: str, results: str, processes: int, threads: int, gpus: int
) -> None:
    """Restore or train the experiment of the spec file ``spec_path``; its result goes to ``result``.

    ``results`` is the folder of all results. ``processes`` processes train the experiment together,
    each with ``threads`` CPU threads. The job was given ``gpus`` GPUs (0: train on the CPU); outside
    of SLURM it waits until as many are free. After training, this process exits with the status of
    the launcher. Raises `FlopsFitError` for options out of range, and for a spec that does not
    belong to ``results``.
    """
    for name, value, least in (
        ("processes", processes, 1),
        ("threads", threads, 1),
        ("gpus", gpus, 0),
    ):
        if value < least:
            raise FlopsFitError(f"--{name}: {value}; allowed: {least} or more")
    spec = read_spec(spec_path)
    if Path(spec_path).resolve() != spec_file(results, spec.experiment_id).resolve():
        raise FlopsFitError(
            f"--results: {results} does not contain {spec_path}; allowed: the folder of the plan"
        )
    folder = run_folder(results, spec.experiment_id)
    with run_lock(folder):
        (folder / AT_WORK).unlink(missing_ok=True)
        if finished_before(folder, spec.experiment_id, spec.hash):
            restore_run(folder, result)
            print(f"{spec.experiment_id}: finished before; restored from its record")
            return
    if cpu_by_choice(os.environ):
        gpus = 0  # accelerate obeys its variable only together with its option
    check_process_count(processes, gpus)
    environment = {
        **cleaned(os.environ),
        "OMP_NUM_THREADS": str(threads),
        "FLOPS_FIT_PROCESSES": str(processes),
        "FLOPS_FIT_GPUS": str(gpus),
        **take_devices(gpus, os.environ),
    }
    if gpus == 0:
        environment[USE_CPU] = "true"
    sys.stdout.flush()
    status = outlive(command(spec_path, result, results, processes, threads, gpus), environment)
    if status:
        report_killed(folder, spec.experiment_id, spec.hash)
    sys.exit(status)


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


def check_process_count(processes: int, gpus: int) -> None:
    """Check that a run with ``gpus`` GPUs has as many ``processes``; without GPUs, any number will do.

    Raises `FlopsFitError` where the numbers differ.
    """
    if gpus and processes != gpus:
        raise FlopsFitError(
            f"resources.processes: {processes}, but a run has {gpus} GPUs (from resources.gpus, or from "
            "gpu or gres under set-resources of the profile); allowed: one process per GPU"
        )


def command(
    spec_path: str, result: str, results: str, processes: int, threads: int, gpus: int
) -> list[str]:
    """Return the command that trains one experiment; the arguments are those of `launch`.

    ``spec_path``, ``result`` and ``results`` are paths; ``processes``, ``threads`` (per process) and
    ``gpus`` are numbers.
    """
    job = ["-m", "flops_fit.jobs.job", spec_path, result, results]
    return [*launcher(processes, threads, gpus), *job]


def launcher(processes: int, threads: int, gpus: int) -> list[str]:
    """Return the ``accelerate launch`` command with all settings that it would otherwise guess.

    It starts ``processes`` processes with ``threads`` CPU threads each, on ``gpus`` GPUs. The other
    settings come from our configuration file, not from the one in the user's home.
    ``--cpu --num_processes 2`` silently runs one process, so several processes need
    ``--multi_gpu``, also on CPUs. With ``--quiet``, the trainer's message is the last one in the
    log.
    """
    line = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        accelerate_config(),
        "--num_processes",
        str(processes),
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--num_cpu_threads_per_process",
        str(threads),
        "--quiet",
    ]
    if processes > 1:
        line += ["--multi_gpu", "--main_process_port", "0"]
    elif gpus == 0:
        line += ["--cpu"]
    return line
