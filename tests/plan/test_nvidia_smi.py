"""What nvidia-smi prints, in whatever state the machine is."""

import time
from pathlib import Path

import pytest

from flops_fit.plan import nvidia_smi
from flops_fit.plan.gpu_memory import gpu_bytes
from flops_fit.plan.nvidia_smi import VISIBLE, Card, ask, cards, slice_bytes

H100 = "GPU-aaaa, 580.95.05, 9.0, 81559, NVIDIA H100 80GB HBM3"
T400 = "GPU-bbbb, 580.95.05, 7.5, 2048, NVIDIA T400"
LISTED = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaa)
GPU 1: NVIDIA T400 (UUID: GPU-bbbb)
"""
SLICED = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaa)
  MIG 3g.40gb     Device  0: (UUID: MIG-1111)
  MIG 1g.10gb+me  Device  1: (UUID: MIG-2222)
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Install a program of that name that prints ``listed`` for -L, else ``queried``."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(VISIBLE, raising=False)

    def install(queried: str, listed: str = "", ending: str = "exit 0") -> None:
        (tmp_path / "queried").write_text(queried)
        (tmp_path / "listed").write_text(listed)
        program = Path(tmp_path, "nvidia-smi")
        read = 'while read -r line; do echo "$line"; done <'
        program.write_text(
            f"#!/bin/sh\nif [ $1 = -L ]; then {read} {tmp_path}/listed\n"
            f"else {read} {tmp_path}/queried\nfi\n{ending}\n"
        )
        program.chmod(0o755)

    return install


def test_gpus_of_different_kinds_are_told_apart(machine):
    machine(f"{H100}\n{T400}\n", LISTED)
    assert cards() == [
        Card("GPU-aaaa", "580.95.05", "9.0", 81559 * 2**20, "NVIDIA H100 80GB HBM3"),
        Card("GPU-bbbb", "580.95.05", "7.5", 2048 * 2**20, "NVIDIA T400"),
    ]
    assert gpu_bytes(None) == 2048 * 2**20


@pytest.mark.parametrize(
    ("listed", "expected"), [("0", 81559), ("GPU-a", 81559), ("1,0", 2048), ("", None)]
)
def test_the_smallest_gpu_is_one_that_runs_may_take(machine, monkeypatch, listed, expected):
    machine(f"{H100}\n{T400}\n", LISTED)
    monkeypatch.setenv(VISIBLE, listed)
    assert gpu_bytes(None) == (expected and expected * 2**20)


@pytest.mark.parametrize("word", ["N/A", "[N/A]", "[Insufficient Permissions]", "[Unknown Error]"])
def test_a_field_that_is_not_told_is_not_known(machine, word):
    machine(f"GPU-aaaa, 580.95.05, {word}, {word}, NVIDIA GB10, a\n{T400}\n", LISTED)
    first, second = cards()
    assert first == Card("GPU-aaaa", "580.95.05", None, None, "NVIDIA GB10, a")
    assert second.capability == "7.5"
    assert gpu_bytes(None) == 2048 * 2**20


def test_a_slice_has_the_memory_of_its_profile(machine, monkeypatch):
    machine(f"{H100}\n", SLICED)
    assert slice_bytes() == {"MIG-1111": 40e9, "MIG-2222": 10e9}
    assert gpu_bytes(None) == 10e9
    monkeypatch.setenv(VISIBLE, "MIG-1111")
    assert gpu_bytes(None) == 40e9


@pytest.mark.parametrize(
    "printed",
    [
        "No devices were found",
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver",
        'Field "compute_cap" is not a valid field to query.',
        "NVIDIA-SMI n'a pas pu communiquer, avec, le, pilote, NVIDIA",
    ],
)
def test_a_message_is_no_gpu(machine, printed):
    machine(f"{printed}\n", f"{printed}\n", "exit 9")
    assert cards() == []
    assert gpu_bytes(None) is None


def test_a_warning_beside_the_gpus_does_not_hide_them(machine):
    machine(f"{T400}\nWARNING: infoROM is corrupted at gpu 0000:01:00.0\n", LISTED, "exit 14")
    assert [card.uuid for card in cards()] == ["GPU-bbbb"]
    assert list(nvidia_smi.installed_gpus()) == ["GPU-aaaa", "GPU-bbbb"]


def test_a_program_that_hangs_is_given_up_even_where_something_holds_its_output(
    machine, monkeypatch
):
    machine(f"{H100}\n", LISTED, "/bin/sleep 20 & wait")
    monkeypatch.setattr(nvidia_smi, "SECONDS", 0.3)
    started = time.monotonic()
    assert ask("-L").problem == "no answer within 0.3 s"
    assert cards() == []
    assert time.monotonic() - started < 5


def test_a_machine_without_nvidia_smi_has_no_card(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ask("-L") is None
    assert cards() == []
    assert gpu_bytes(None) is None
