"""Whether the installed torch works with the driver of the GPUs of this machine, and what to do if not.

The driver is asked through ``nvidia-smi`` and files of the kernel, never through CUDA, which tells
nothing where the two do not fit.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from flops_fit.plan.nvidia_smi import cards

NVIDIA = Path("/proc/driver/nvidia/version")
AMD = Path("/sys/module/amdgpu/version"), Path("/dev/kfd")  # of its driver, and for computing
INDEX = "https://download.pytorch.org/whl"

Version = tuple[int, ...]

# The oldest driver on which programs of a major version of CUDA run, and that of each build of torch
# that is offered, the newest first (a new minor version runs on older drivers of its major version).
# NVIDIA, CUDA Toolkit Release Notes, section "CUDA Driver": the tables "CUDA Toolkit and Minimum
# Required Driver Version for CUDA Minor Version Compatibility" and "CUDA Toolkit and Corresponding
# Driver Versions" (https://docs.nvidia.com/cuda/cuda-toolkit-release-notes/), Linux x86_64.
OLDEST: dict[int, Version] = {11: (450, 80, 2), 12: (525, 60, 13), 13: (580, 65, 6)}
BUILDS: dict[str, Version] = {"cu130": (580, 65, 6), "cu128": (570, 26), "cu126": OLDEST[12]}


@dataclass(frozen=True)
class Machine:
    """What a machine says of its GPUs.

    ``driver`` is the version of NVIDIA's (None: there is none), ``capabilities`` are the compute
    capabilities of its GPUs where ``nvidia-smi`` names them, and ``amd`` says whether AMD's driver is
    there.
    """

    driver: str | None = None
    capabilities: tuple[str, ...] = ()
    amd: bool = False


@dataclass(frozen=True)
class Build:
    """What the installed torch was built for.

    ``torch`` is its version, ``cuda`` and ``hip`` the versions of the toolkits (None: not for it),
    ``architectures`` the GPUs that it has code for (empty: not known), and ``seen`` the number of GPUs
    that it finds.
    """

    torch: str
    cuda: str | None = None
    hip: str | None = None
    architectures: tuple[str, ...] = ()
    seen: int = 0

    @property
    def built_for(self) -> str:
        """The name and version of that toolkit."""
        if self.cuda is not None:
            return f"CUDA {self.cuda}"
        return f"ROCm {self.hip}" if self.hip is not None else "CPUs"


@dataclass(frozen=True)
class Verdict:
    """Whether a torch ``works`` with a machine, the ``text`` that says why, and ``advice`` or ""."""

    works: bool
    text: str
    advice: str = ""


def this_machine() -> Machine:
    """What this machine says of its GPUs."""
    amd = all(path.exists() for path in AMD)
    listed = cards()  # none by an old nvidia-smi, or without a driver
    if listed:
        capabilities = tuple(card.capability for card in listed if card.capability is not None)
        return Machine(listed[0].driver, capabilities, amd)
    try:
        known = re.search(r"Kernel Module.*?\s(\d+\.\d+(\.\d+)?)\s", NVIDIA.read_text())
    except OSError:
        known = None
    return Machine(known[1] if known else None, (), amd)


def this_build() -> Build:
    """What the installed torch was built for, and the GPUs that it finds; imports torch."""
    import torch

    seen = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    architectures = tuple(torch.cuda.get_arch_list())
    version = torch.version
    return Build(torch.__version__, version.cuda, version.hip, architectures, seen)


def verdict(machine: Machine, build: Build) -> Verdict | None:
    """Whether ``build`` works with the GPUs of ``machine``; None where there is no GPU."""
    torch = f"torch {build.torch}, built for {build.built_for}"
    if machine.driver is None:
        if not machine.amd or build.seen:
            return None
        text = f"an AMD GPU, but {torch}, finds none"
        if build.hip is not None:
            return Verdict(
                False, text, "check the groups video and render, and HIP_VISIBLE_DEVICES"
            )
        return Verdict(False, text, install(build, "rocmX.Y", "with the X.Y of your ROCm"))
    driver, have = f"NVIDIA driver {machine.driver}", numbers(machine.driver)
    if build.cuda is None:
        return Verdict(False, f"{driver}, but {torch}, cannot use its GPUs", _another(build, have))
    oldest = OLDEST.get(numbers(build.cuda)[0])
    if oldest is not None and have < oldest:
        needed = ".".join(f"{n:02d}" for n in oldest)
        text = f"{driver} is too old for {torch}, which needs {needed} or newer"
        return Verdict(False, text, _another(build, have))
    if not build.seen:
        advice = "check CUDA_VISIBLE_DEVICES; a container needs --gpus all, a SLURM job --gpus=1"
        return Verdict(False, f"{driver} works with {torch}, which finds no GPU", advice)
    for capability in machine.capabilities:
        if build.architectures and not has_code(build.architectures, capability):
            text = f"{torch}, has no code for a GPU of compute capability {capability}"
            return Verdict(False, text, install(build, "cu126", "which has code for older GPUs"))
    return Verdict(True, f"{driver} works with {torch}")


def has_code(architectures: tuple[str, ...], capability: str) -> bool:
    """Whether a build for ``architectures`` (sm_90, compute_90) runs on a GPU of ``capability`` 9.0.

    Machine code (sm) runs on later minor versions of its major version, PTX (compute) on all later
    ones.
    """
    major, minor = numbers(capability)
    for kind, digits in re.findall(r"(sm|compute)_(\d+)", " ".join(architectures)):
        built = int(digits[:-1]), int(digits[-1])
        if built <= (major, minor) and (kind == "compute" or built[0] == major):
            return True
    return False


def numbers(version: str) -> Version:
    """A dotted ``version`` as numbers, to be compared."""
    return tuple(map(int, re.findall(r"\d+", version)))


def install(build: Build, kind: str, why: str) -> str:
    """The command that installs the ``kind`` of build of the version of ``build``; ``why`` it does."""
    version = build.torch.partition("+")[0]
    return f"pip install torch=={version} --index-url {INDEX}/{kind} ({why})"


def _another(build: Build, driver: Version) -> str:
    """What to install in place of ``build`` for an NVIDIA ``driver``."""
    for kind, oldest in BUILDS.items():
        if driver >= oldest:
            return install(build, kind, "the newest for this driver")
    return "update the driver: no build of this torch works with it"
