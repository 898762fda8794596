"""What the doctor finds on this machine, and on one with something wrong."""

import json
import os
from pathlib import Path

import pytest
import torch

from flops_fit.cli import doctor
from flops_fit.cli.main import main

ROOT = Path(__file__).parents[2]


def script(folder, name, text):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.seconds
def test_this_machine_passes(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    status = main(["doctor", "--results", str(tmp_path / "results")])
    out = capsys.readouterr().out
    assert status == 0, out
    assert "WRONG" not in out
    for words in (
        "Python 3.",
        "torch ",
        "snakemake ",
        "profiles/default is in use here",
        "accelerate launch starts a process",
        "can be written and locked",
    ):
        assert words in out


SMI = """\
case "$1" in
-L) echo 'GPU 0: NVIDIA H100 (UUID: GPU-1)';;
*) echo 'GPU-1, 570.86.15, 9.0, 81559, NVIDIA H100';;
esac"""


def test_a_machine_with_a_gpu_that_this_torch_cannot_use_is_wrong(tmp_path, monkeypatch, capsys):
    script(tmp_path, "nvidia-smi", SMI)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    if torch.cuda.is_available():
        pytest.skip("torch sees a GPU here")
    monkeypatch.setattr(torch, "__version__", "2.13.0+cpu")
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(doctor, "_launcher", lambda: iter(()))
    (finding,) = [f for f in doctor._devices() if f.state == "wrong"]
    assert finding.text == (
        "NVIDIA driver 570.86.15, but torch 2.13.0+cpu, built for CPUs, cannot use its GPUs"
    )
    assert "torch==2.13.0 --index-url https://download.pytorch.org/whl/cu128" in finding.advice
    assert main(["doctor", "--results", str(tmp_path), "--json"]) == 2
    gpu = json.loads(capsys.readouterr().out)["gpu"]
    assert (gpu["driver"], gpu["cuda"], gpu["gpus_seen"]) == ("570.86.15", None, 0)
    assert gpu["verdict"] == {"works": False, "text": finding.text, "advice": finding.advice}


def test_slurm_without_accounts_is_noted_with_what_to_do(tmp_path, monkeypatch):
    script(tmp_path, "sbatch", "exit 0")
    script(tmp_path, "sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    findings = list(doctor._slurm())
    assert [f.state for f in findings] == ["good", "note"]
    assert "squeue" in findings[1].advice


def test_a_snakefile_without_its_profile_is_wrong(tmp_path, monkeypatch):
    (tmp_path / "Snakefile").touch()
    monkeypatch.chdir(tmp_path)
    assert [f.state for f in doctor._snakemake()] == ["good", "wrong"]


def test_results_that_cannot_be_written_are_wrong_and_the_command_fails(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_launcher", lambda: iter(()))
    status = main(["doctor", "--results", "/proc/results"])
    captured = capsys.readouterr()
    assert status == 2
    assert "WRONG  /proc: files cannot be written and locked" in captured.out
    assert "doctor: 1 thing is wrong" in captured.err


def test_json_has_every_finding_and_counts_what_is_wrong(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_launcher", lambda: iter(()))
    monkeypatch.setattr(doctor, "_slurm", lambda: iter([doctor.Finding("wrong", "no", "do")]))
    assert main(["doctor", "--results", str(tmp_path), "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert {"state": "wrong", "text": "no", "advice": "do"} in report["findings"]
    assert report["wrong"] == sum(f["state"] == "wrong" for f in report["findings"])
