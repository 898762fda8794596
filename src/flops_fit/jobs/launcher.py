"""The ``accelerate launch`` command that starts the processes of a run."""

import sys

from flops_fit.jobs.environment import accelerate_config

PLAIN = (
    "NO",
    "MULTI_CPU",
    "MULTI_GPU",
)  # kinds of distributed training that --multi_gpu stands for


ACCELERATE = "accelerate.commands.launch"


def launcher(
    processes: int,
    threads: int,
    gpus: int,
    config: str | None = None,
    kind: str = "NO",
    module: str = ACCELERATE,
) -> list[str]:
    """Return the ``accelerate launch`` command with all settings that it would otherwise guess.

    It starts ``processes`` processes with ``threads`` CPU threads each, on ``gpus`` GPUs. The other
    settings come from our configuration file, not from the one in the user's home, or from
    ``config``, a file of the user's for the ``kind`` of distributed training that it names.
    ``--cpu --num_processes 2`` silently runs one process, so several processes need
    ``--multi_gpu``, also on CPUs. With ``--quiet``, the trainer's message is the last one in the
    log. ``module`` may be another one that takes accelerate's options.
    """
    line = [
        sys.executable,
        "-m",
        module,
        "--config_file",
        config or accelerate_config(),
        "--num_processes",
        str(processes),
        "--num_machines",
        "1",
        *(() if config else ("--mixed_precision", "no", "--dynamo_backend", "no")),
        "--num_cpu_threads_per_process",
        str(threads),
        "--quiet",
    ]
    if processes > 1:
        line += ["--main_process_port", "0"]
        line += ["--multi_gpu"] if kind in PLAIN else []
    elif gpus == 0:
        line += ["--cpu"]
    return line
