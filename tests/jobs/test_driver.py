"""The verdict on driver and torch, for machines and builds of every kind."""

import pytest

from flops_fit.jobs import driver
from flops_fit.jobs.driver import Build, Machine, has_code, this_build, this_machine, verdict

CU130 = Build("2.13.0+cu130", cuda="13.0", architectures=("sm_75", "sm_80", "sm_90"), seen=1)
CU126 = Build("2.13.0+cu126", cuda="12.6", architectures=("sm_50", "sm_70", "sm_90"), seen=1)
ROCM = Build("2.13.0+rocm7.0", hip="7.0.1", seen=1)
CPU = Build("2.13.0+cpu")
INDEX = "pip install torch==2.13.0 --index-url https://download.pytorch.org/whl"


@pytest.mark.parametrize(
    ("machine", "build", "works", "text", "advice"),
    [
        (
            Machine("580.65.06"),
            CU130,
            True,
            "580.65.06 works with torch 2.13.0+cu130, built for",
            "",
        ),
        (
            Machine("575.51.03"),
            CU130,
            False,
            "13.0, which needs 580.65.06 or newer",
            f"{INDEX}/cu128",
        ),
        (Machine("560.35.03"), CU130, False, "too old", f"{INDEX}/cu126"),
        (Machine("535.104.05"), CU126, True, "works with", ""),  # minor version compatibility
        (
            Machine("525.60.11"),
            CU126,
            False,
            "which needs 525.60.13",
            "update the driver: no build",
        ),
        (Machine("470.57.02"), CPU, False, "built for CPUs, cannot use", "update the driver"),
        (Machine("580.95.05"), CPU, False, "built for CPUs, cannot use", f"{INDEX}/cu130"),
        (Machine("580.95.05"), ROCM, False, "built for ROCm 7.0.1, cannot", f"{INDEX}/cu130"),
        (Machine("580.95.05", ("7.0",)), CU130, False, "compute capability 7.0", f"{INDEX}/cu126"),
        (Machine("580.95.05", ("7.0",)), CU126, True, "works with", ""),
        (Machine("580.95.05", ("9.0",)), CU130, True, "works with", ""),
        (Machine(amd=True), CPU, False, "an AMD GPU, but torch 2.13.0+cpu", f"{INDEX}/rocm"),
        (
            Machine(amd=True),
            Build("2.13.0", hip="7.0"),
            False,
            "finds none",
            "groups video and render",
        ),
    ],
)
def test_each_machine_and_build_has_a_verdict(machine, build, works, text, advice):
    judged = verdict(machine, build)
    assert judged.works == works
    assert text in judged.text
    assert advice in judged.advice
    assert bool(judged.advice) == (not works)


def test_a_gpu_that_is_hidden_is_no_fault_of_the_driver():
    hidden = Build("2.13.0", cuda="13.0", seen=0)
    judged = verdict(Machine("580.95.05"), hidden)
    assert "which finds no GPU" in judged.text
    assert "CUDA_VISIBLE_DEVICES" in judged.advice


@pytest.mark.parametrize("build", [CPU, Build("2.13.0", cuda="13.0")])
def test_without_a_gpu_there_is_nothing_to_judge(build):
    assert verdict(Machine(), build) is None
    assert verdict(Machine(amd=True), ROCM) is None


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        (("sm_80",), "8.6", True),
        (("sm_86",), "8.0", False),
        (("sm_80",), "9.0", False),
        (("sm_80", "compute_80"), "9.0", True),
        (("sm_90a", "sm_100"), "10.0", True),
        (("sm_100", "sm_120"), "9.0", False),
    ],
)
def test_code_runs_on_later_gpus_of_its_generation(architectures, capability, runs):
    assert has_code(architectures, capability) == runs


NVRM = "NVRM version: NVIDIA UNIX {}  Sat Aug 19 01:15:15 UTC 2023\nGCC version:  gcc 12\n"


@pytest.mark.parametrize(
    "line",
    [
        NVRM.format("x86_64 Kernel Module  535.104.05"),
        NVRM.format("Open Kernel Module for x86_64  535.104.05  Release Build  (dvs-builder)"),
    ],
)
@pytest.mark.parametrize("program", [None, "exit 9", "echo 'No devices were found'"])
def test_the_driver_is_read_from_the_kernel_where_nvidia_smi_does_not_tell_it(
    tmp_path, monkeypatch, line, program
):
    version = tmp_path / "version"
    version.write_text(line)
    monkeypatch.setattr(driver, "NVIDIA", version)
    monkeypatch.setenv("PATH", str(tmp_path))
    if program:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    assert this_machine() == Machine("535.104.05")
    version.unlink()
    assert this_machine() == Machine()


def test_nvidia_smi_names_the_driver_and_what_each_gpu_can_do(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text(
        "#!/bin/sh\necho GPU-a, 580.95.05, 9.0, 81559, NVIDIA H100\necho GPU-b, 580.95.05, 8.6, 1, X\n"
    )
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert this_machine() == Machine("580.95.05", ("9.0", "8.6"))


def test_amds_driver_is_known_by_its_files(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(driver, "NVIDIA", tmp_path / "none")
    files = tmp_path / "version", tmp_path / "kfd"
    monkeypatch.setattr(driver, "AMD", files)
    assert not this_machine().amd
    for file in files:
        file.touch()
    assert this_machine().amd


def test_this_torch_says_what_it_was_built_for():
    import torch

    build = this_build()
    assert build.torch == torch.__version__
    assert (build.cuda, build.hip) == (torch.version.cuda, torch.version.hip)
