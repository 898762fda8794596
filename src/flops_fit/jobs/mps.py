"""Whether NVIDIA's Multi-Process Service (MPS) runs, through which runs use one GPU at the same time.

CUDA connects to the service by itself where it runs. Without it the runs on a GPU take turns.
"""

import shutil
import subprocess

CONTROL = "nvidia-cuda-mps-control"
SECONDS = 10.0  # the longest time to wait for its answer


def mps_runs() -> bool:
    """Whether the control daemon of MPS answers on this machine."""
    if shutil.which(CONTROL) is None:
        return False
    try:
        done = subprocess.run(
            [CONTROL],
            input="get_server_list\n",
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0 and "Cannot find MPS" not in done.stdout + done.stderr


def sharing_sentence(runs: int) -> str:
    """How ``runs`` runs share a GPU here, for the log of each."""
    if mps_runs():
        return f"{runs} runs share a GPU, at the same time through MPS"
    turns = f"{runs} runs share a GPU and take turns, because MPS does not run here"
    return f"{turns}; `{CONTROL} -d` starts it"
