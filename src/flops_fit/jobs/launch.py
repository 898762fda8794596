"""Start the job of an experiment: restore it from its record, or start its trainer.

This module does not import torch, so that a finished run is restored in milliseconds. Otherwise
the process stays until the last trainer has ended, which may be after its launcher.
"""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import spec_file
from flops_fit.experiment.spec import read_spec
from flops_fit.jobs.environment import job_environment
from flops_fit.jobs.gpu_locks import USE_CPU, cpu_by_choice, take_devices
from flops_fit.jobs.killed import AT_WORK
from flops_fit.jobs.mps import sharing_sentence
from flops_fit.jobs.script_files import FOLDER
from flops_fit.jobs.start import Start
from flops_fit.jobs.time_limit import requeue_at_limit
from flops_fit.jobs.trainers import trainer_of
from flops_fit.store.locks import run_lock
from flops_fit.store.packed import unpack_data
from flops_fit.store.records import CHECKPOINTS, finished_before, restore_run
from flops_fit.store.remote import remote_of


def launch(
    spec_path: str,
    result: str,
    results: str,
    processes: int,
    threads: int,
    gpus: int,
    after: str = "",
    requeue: bool = False,
) -> None:
    """Restore or train the experiment of the spec file ``spec_path``; its result goes to ``result``.

    ``results`` is the folder of all results. ``processes`` processes train the experiment together,
    each with ``threads`` CPU threads. The job was given ``gpus`` GPUs (0: train on the CPU); outside
    of SLURM it waits until as many are free. ``after`` is the id of the run of the same trunk that the
    workflow trained before; the record keeps it. With ``requeue``, a SLURM job that has saved at its
    time limit goes back into the queue. After training, this process exits with the status of the
    launcher. Raises `FlopsFitError` for options out of range, and for a spec that does not
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
    if cpu_by_choice(os.environ):
        gpus = 0  # accelerate obeys its variable only together with its option
    sharing = replace(spec.resources, gpus=gpus).sharing
    start = Start(spec, spec_path, result, results, processes, threads, gpus, after)
    folder, trainer = start.folder, trainer_of(spec)
    remote = remote_of(spec.resources.checkpoint_store, spec.experiment_id, spec.hash)
    with trainer.alone(start):
        with run_lock(folder):
            (folder / AT_WORK).unlink(missing_ok=True)
            if remote:
                remote.fetch_record(folder)
            before = finished_before(folder, spec.experiment_id, spec.hash)
            if before or trainer.settle(start):
                restore_run(folder, result)
                print(f"{spec.experiment_id}: finished before; restored from its record")
                return
        check_process_count(processes, gpus, sharing)
        unpack_data(spec.data_dir)
        devices = take_devices(gpus, os.environ, sharing)
        environment = job_environment(os.environ, threads) | devices
        if gpus == 0:
            environment[USE_CPU] = "true"
        if sharing > 1:
            print(f"flops-fit: {sharing_sentence(sharing)}", file=sys.stderr)
        sys.stdout.flush()
        began = time.time()
        status = trainer.run(start, environment)
        if status and requeue:
            requeue_at_limit((folder / CHECKPOINTS, folder / FOLDER), began)
        sys.exit(status)


def check_process_count(processes: int, gpus: int, runs_per_gpu: int = 1) -> None:
    """Check that a run with ``gpus`` GPUs has as many ``processes``; without GPUs, any number will do.

    Where ``runs_per_gpu`` runs share a GPU, a run has one. Raises `FlopsFitError` where the numbers do
    not fit.
    """
    if gpus > 1 and runs_per_gpu > 1:
        raise FlopsFitError(
            f"resources.runs_per_gpu: {runs_per_gpu}, but a run has {gpus} GPUs; allowed: 1, or one GPU "
            "per run"
        )
    if gpus and processes != gpus:
        raise FlopsFitError(
            f"resources.processes: {processes}, but a run has {gpus} GPUs (from resources.gpus, or from "
            "gpu or gres under set-resources of the profile); allowed: one process per GPU"
        )
