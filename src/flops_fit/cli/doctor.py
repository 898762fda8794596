"""``flops-fit doctor``: what a sweep would use on this machine, what is wrong, and how to fix it."""

import argparse
import fcntl
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flops_fit.cli.arguments import add_json, add_results, print_json
from flops_fit.errors import FlopsFitError

OLDEST_PYTHON = (3, 11)
PACKAGES = ("torch", "accelerate", "numpy", "scipy", "pandas", "matplotlib")
LEAST_FREE = 5e9  # bytes: some checkpoints and prepared data
LAUNCH_SECONDS = 120
SIGNS = {"good": "ok     ", "note": "note   ", "wrong": "WRONG  "}


@dataclass(frozen=True)
class Finding:
    """The result of one check: ``state`` (good, note or wrong), ``text``, and ``advice`` or ""."""

    state: str
    text: str
    advice: str = ""

    def __str__(self) -> str:
        return SIGNS[self.state] + self.text + (f"\n       -> {self.advice}" if self.advice else "")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``doctor`` to argparse."""
    parser.description = "Check this machine: versions, devices, launcher, profile, disk."
    parser.epilog = "example:\n  flops-fit doctor"
    add_results(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Print every finding at once; raises `FlopsFitError` at the end if something is wrong."""
    findings = []
    for finding in examine(Path(args.results)):
        findings.append(finding)
        if not args.json:
            print(finding, flush=True)
    wrong = sum(finding.state == "wrong" for finding in findings)
    if args.json:
        listed = [vars(finding) for finding in findings]
        print_json({"wrong": wrong, "findings": listed, "gpu": _gpu_facts()})
    if wrong:
        raise FlopsFitError(f"doctor: {wrong} {'thing is' if wrong == 1 else 'things are'} wrong")


def examine(results: Path) -> Iterator[Finding]:
    """Yield the findings of all checks, the quick ones first; ``results`` is the folder of results."""
    checks: list[Callable] = [_python, _packages, _snakemake, _devices, _launcher, _slurm]
    for check in checks:
        yield from check()
    yield from _folder(results)


def _gpu_facts() -> dict[str, Any]:
    """The driver, what torch was built for, and the verdict on both, for ``--json``."""
    from flops_fit.jobs.driver import this_build, this_machine, verdict

    machine = this_machine()
    if _version("torch") is None:
        return {"driver": machine.driver, "torch": None, "verdict": None}
    build = this_build()
    judged = verdict(machine, build)
    return {
        "driver": machine.driver,
        "compute_capabilities": list(machine.capabilities),
        "torch": build.torch,
        "cuda": build.cuda,
        "rocm": build.hip,
        "gpus_seen": build.seen,
        "verdict": None if judged is None else vars(judged),
    }


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < OLDEST_PYTHON:
        yield Finding("wrong", f"Python {version}", "use 3.11 or newer")
    else:
        yield Finding("good", f"Python {version} at {sys.executable}")


def _version(package: str) -> str | None:
    from importlib import metadata  # slow to import, and no other verb needs it

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _packages() -> Iterator[Finding]:
    versions = {name: _version(name) for name in ("flops-fit", *PACKAGES)}
    there = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    yield Finding("good", there)
    for name, version in versions.items():
        if version is None:
            advice = "pip install -r requirements.lock, then pip install --no-deps -e ."
            yield Finding("wrong", f"{name} is not installed", advice)


def _snakemake() -> Iterator[Finding]:
    version = _version("snakemake")
    if version is None:
        advice = "pip install 'flops-fit[workflow]'; the Python API works without it"
        yield Finding("note", "Snakemake is not installed", advice)
        return
    yield Finding("good", f"snakemake {version}")
    profile = next(
        (
            p
            for p in ("profiles/default", "workflow/profiles/default")
            if Path(p, "config.yaml").exists()
        ),
        None,
    )
    if profile:
        yield Finding("good", f"{profile} is in use here")
    elif Path("Snakefile").exists():
        advice = "restore it from the repository: without it any edit of a rule retrains everything"
        yield Finding("wrong", "no profiles/default beside the Snakefile", advice)


def _devices() -> Iterator[Finding]:
    from flops_fit.plan.price import usable_cores

    cores = usable_cores()
    yield Finding(
        "good", f"{cores} CPU cores: --cores all trains up to as many experiments at a time"
    )
    if _version("torch") is None:
        return
    from flops_fit.jobs.driver import this_build, this_machine, verdict

    build = this_build()
    judged = verdict(this_machine(), build)
    if judged is not None:
        yield Finding("good" if judged.works else "wrong", judged.text, judged.advice)
    if build.seen:
        yield from _seen(build.seen)
    elif judged is None:
        yield Finding("good", "no GPU: runs train on the CPU, one thread each")


def _seen(count: int) -> Iterator[Finding]:
    """Name the ``count`` GPUs that torch finds, and say how runs use and share them."""
    import torch

    from flops_fit.jobs.mps import mps_runs
    from flops_fit.plan.devices import device_name, known_peak

    device = torch.accelerator.current_accelerator()
    assert device is not None
    name = device_name(device)
    known = "" if known_peak(name, "bf16") else "; its peak FLOP/s is unknown and will be measured"
    yield Finding("good", f"{count} x {name}{known}")
    yield Finding("note", "a run uses a GPU only on request", "set resources: {gpus: 1}")
    if device.type == "cuda" and torch.version.hip is None:
        shared = "through MPS" if mps_runs() else "in turns, because MPS does not run"
        yield Finding("good", f"runs that share a GPU (resources.runs_per_gpu) use it {shared}")


def _launcher() -> Iterator[Finding]:
    """Start a process with ``accelerate launch``, as the train rule does."""
    if _version("accelerate") is None or _version("torch") is None:
        return
    from flops_fit.jobs.launcher import launcher

    command = [*launcher(processes=1, threads=1, gpus=0), "-m", "platform"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=LAUNCH_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        yield Finding("wrong", f"accelerate launch does not end within {LAUNCH_SECONDS} s")
        return
    if done.returncode == 0:
        yield Finding("good", "accelerate launch starts a process")
    else:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        yield Finding("wrong", f"accelerate launch ends with {done.returncode}", "".join(last))


def _slurm() -> Iterator[Finding]:
    if shutil.which("sbatch") is None:
        return
    if _version("snakemake-executor-plugin-slurm") is None:
        advice = "pip install snakemake-executor-plugin-slurm"
        yield Finding("wrong", "SLURM is installed, but Snakemake's plugin for it is not", advice)
    else:
        yield Finding("good", "SLURM: snakemake --profile profiles/slurm")
    accounts = (
        shutil.which("sacct")
        and not subprocess.run(["sacct", "-n", "-X"], capture_output=True, check=False).returncode
    )
    if not accounts:
        advice = "set slurm-status-command: squeue in the profile, else Snakemake waits forever"
        yield Finding("note", "SLURM has no accounting (sacct fails)", advice)


def _folder(results: Path) -> Iterator[Finding]:
    """Check free space, write permission and file locks in the folder of results."""
    there = next(p for p in (results, *results.resolve().parents) if p.exists())
    free = shutil.disk_usage(there).free
    text = f"{free / 1e9:.1f} GB free for {results}"
    if free < LEAST_FREE:
        yield Finding(
            "note", text, "checkpoints and prepared data need space; use --results on a larger disk"
        )
    else:
        yield Finding("good", text)
    try:
        with tempfile.NamedTemporaryFile(dir=there) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        advice = "use another folder: locks keep two trainers from working on the same run"
        yield Finding(
            "wrong", f"{there}: files cannot be written and locked ({error.strerror})", advice
        )
    else:
        yield Finding("good", f"files below {there} can be written and locked")
