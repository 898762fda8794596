"""One process of one experiment's job: read the spec, train, leave the record.

Run by `flops_fit.jobs.launch` through ``accelerate launch -m flops_fit.jobs.job SPEC RESULT ROOT``.
"""

import contextlib
import logging
import os
import platform
import re
import sys
from pathlib import Path

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.identity import changed_sources, read_spec
from flops_fit.experiment.options import options_of
from flops_fit.experiment.places import hashes_file, run_folder
from flops_fit.experiment.used import late_uses, note_late, references_of
from flops_fit.files import FORMAT
from flops_fit.jobs.losses import AT_WORK, LOST
from flops_fit.plugins.data_files import FileHashes
from flops_fit.plugins.watch import Watch, watching
from flops_fit.store.locks import run_lock
from flops_fit.store.records import (
    CHECKPOINTS,
    FAILURE,
    finish_run,
    finished_before,
    note_failure,
    restore_run,
)
from flops_fit.store.stopping import LAUNCHER, RETRY_STATUS, Stopped, StopRequest, stop_with_parent

BACKEND_ERROR = re.compile(
    r"gloo|NCCL|ProcessGroup|Connection (closed|reset) by peer|Broken pipe", re.IGNORECASE
)
OUT_OF_MEMORY = (
    "out of memory; set resources.micro_batch_items (gradients are then accumulated, the result "
    "stays the same), resources.activation_checkpointing, or ask for more memory"
)


def main(arguments: list[str]) -> int:
    """Train the experiment of a spec file: ``arguments`` are it, the result's path and the root.

    The root is the folder of all results, in which the run has its own.

    Exit status: 0 done (diverged included), 2 bad input, 75 stopped on request and saved (the
    workflow's retry resumes), 1 anything else.
    """
    logging.basicConfig(format="flops-fit: %(message)s")
    logging.getLogger("flops_fit").setLevel(logging.INFO)
    spec_path, result, results = arguments
    stop = StopRequest()
    with stop.listening():
        spec = read_spec(spec_path)
        return run(spec, results, result, stop)


def run(spec: dict, results: str, result: str, stop: StopRequest) -> int:
    """Train ``spec`` in its folder below ``results``, whose lock the main process holds."""
    folder = run_folder(results, spec["experiment_id"])
    main_process = int(os.environ.get("RANK", 0)) == 0
    name = spec["experiment_id"], spec["hash"]
    with contextlib.ExitStack() as held:
        try:
            stop_with_parent(int(os.environ.get(LAUNCHER, os.getppid())))
            if main_process:
                held.enter_context(run_lock(folder, stop))
                if finished_before(folder, *name):  # by another job, while this one started
                    restore_run(folder, result)
                    return 0 if int(os.environ.get("WORLD_SIZE", 1)) == 1 else RETRY_STATUS
                (folder / FAILURE).unlink(missing_ok=True)
                (folder / AT_WORK).touch()
                held.callback((folder / AT_WORK).unlink, missing_ok=True)
                stop.before_exit.append(lambda: (folder / AT_WORK).unlink(missing_ok=True))
            record = train_spec(spec, results, stop)
            if main_process:
                finish_run(folder, record, result)
            return 0
        except Stopped as stopped:
            print(f"flops-fit: {stopped}; to be resumed", file=sys.stderr)
            return RETRY_STATUS
        except FlopsFitError as error:
            if note_failure(folder, *name, str(error)):
                print(f"flops-fit: {name[0]}: {error}", file=sys.stderr)
            return 2
        except Exception as error:
            if has_lost_another(error):
                if note_failure(folder, *name, LOST):
                    print(f"flops-fit: {name[0]}: {LOST}", file=sys.stderr)
                return 1
            kind = f"{type(error).__name__}: {error}"
            note_failure(folder, *name, OUT_OF_MEMORY if is_out_of_memory(error) else kind)
            raise


def has_lost_another(error: Exception) -> bool:
    """Whether ``error`` is the backend's on losing another process, such as gloo's or NCCL's."""
    import torch

    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return False
    backend = isinstance(error, torch.distributed.DistError)
    return backend or bool(BACKEND_ERROR.search(str(error)))


def is_out_of_memory(error: Exception) -> bool:
    import torch

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        "can't allocate memory" in str(error)
    )


def train_spec(spec: dict, results: str | Path, stop: StopRequest) -> dict:
    """Build what the spec names, train it, and return the record without its checksum."""
    from flops_fit.experiment.build import load_data, load_loss, make_model, make_optimizer
    from flops_fit.plugins.resolve import add_search_paths
    from flops_fit.trainer import train
    from flops_fit.training.prepare import check_prepared

    add_search_paths(spec["search_paths"])
    hashes = FileHashes(hashes_file(results))
    changed = changed_sources(spec, hashes)
    if changed:
        raise FlopsFitError(f"{', '.join(changed)} changed since the plan was made; plan it again")
    if spec["data_dir"] is not None:
        check_prepared(spec["data_dir"], hashes)
    hashes.save()
    with watching(spec["search_paths"], [results]) as watch:
        outcome = train(
            spec["experiment_id"],
            lambda: make_model(spec),
            load_data(spec),
            load_loss(spec["identity"]["loss"]["function"]),
            lambda model, rate: make_optimizer(spec, model, rate),
            options_of(
                spec,
                processes=int(os.environ["FLOPS_FIT_PROCESSES"]),
                gpus=int(os.environ["FLOPS_FIT_GPUS"]),
            ),
            run_folder(results, spec["experiment_id"]) / CHECKPOINTS,
            spec["hash"],
            stop,
            spec["counts"]["flops_per_token"],
        )
    return {**make_record(spec, outcome), **used_late(spec, watch, results, hashes)}


def used_late(spec: dict, watch: Watch, results: str | Path, hashes: FileHashes) -> dict[str, dict]:
    """The record's part on what the run used beyond its plan; said, and watched from now on."""
    if int(os.environ.get("RANK", 0)) != 0:
        return {}
    late = note_late(results, references_of(spec["identity"]), late_uses(watch, spec), hashes)
    if not late:
        return {}
    print(
        f"flops-fit: {spec['experiment_id']}: used, and not seen when planned: {', '.join(late)}; a "
        "change of them is noticed from now on",
        file=sys.stderr,
    )
    return {"late": late}


def make_record(spec: dict, outcome: dict) -> dict:
    """The record: what the experiment is, what came out, what it cost, and where it ran."""
    from flops_fit.plan.devices import speed
    from flops_fit.sweep import flops_of

    counts = spec["counts"]
    flops = flops_of(counts, outcome)
    return {
        "format": FORMAT,
        "experiment_id": spec["experiment_id"],
        "hash": spec["hash"],
        "identity": spec["identity"],
        **counts,
        **{key: value for key, value in outcome.items() if key != "input_positions"},
        **flops,
        **speed(outcome, flops["flops_counted"] / outcome["tokens_seen"]),
        "versions": versions(),
        "host": platform.node(),
    }


def versions() -> dict[str, str]:
    """Versions that a bitwise repetition would need."""
    import accelerate
    import numpy
    import torch

    from flops_fit import __version__

    return {
        "flops_fit": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "accelerate": accelerate.__version__,
        "numpy": numpy.__version__,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
