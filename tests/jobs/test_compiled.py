"""Runs of one shape compile once, below the results, and what they share changes no identity."""

import subprocess

import pytest
from planned_job import Job

from flops_fit.experiment.places import compiled_folder
from flops_fit.jobs import compiled
from flops_fit.jobs.compiled import CACHE, cache_variables

COUNTERS = """

import atexit


@atexit.register
def tell():
    from torch._dynamo.utils import counters

    print("graphs compiled:", counters["inductor"]["fxgraph_cache_miss"])
    print("graphs read:", counters["inductor"]["fxgraph_cache_hit"])
"""


def test_the_cache_lies_below_the_results_unless_the_user_has_put_it_elsewhere(tmp_path):
    (folder,) = cache_variables(tmp_path / "results", {}).values()
    assert folder == str(compiled_folder(tmp_path / "results") / compiled.cpu_kind())
    assert cache_variables(tmp_path / "results", {CACHE: "/scratch/mine"}) == {}


def test_another_kind_of_cpu_has_a_folder_of_its_own(tmp_path, monkeypatch):
    # torch's key does not name the CPU, whose instructions the compiled C++ may lack elsewhere
    def folder(flags: str) -> str:
        cpuinfo.write_text(f"model name\t: CPU\nflags\t\t: {flags}\n")
        return compiled.cpu_kind()

    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr(compiled, "Path", lambda _: cpuinfo)
    assert folder("sse avx2") == folder("avx2 sse") != folder("sse avx2 avx512f")


@pytest.mark.slow
def test_the_second_run_of_a_shape_compiles_nothing_and_gives_the_same_loss(tmp_path, monkeypatch):
    job = Job(tmp_path, monkeypatch, COUNTERS, resources={"compile": True})
    monkeypatch.delenv(CACHE, raising=False)  # torch sets it in this process, too

    def train() -> tuple[str, float]:
        done = subprocess.run(job.command(1), capture_output=True, text=True, check=True)
        loss = job.record()["final_loss"]
        for name in ("record.json", "result.json"):
            (job.folder / name).unlink()
        return done.stdout, loss

    (printed, first), (again, second) = train(), train()
    assert "graphs compiled: 0" not in printed
    assert "graphs compiled: 0" in again
    assert "graphs read: 0" not in again
    assert first == second
    assert list(compiled_folder(job.results).iterdir()) == [
        compiled_folder(job.results) / compiled.cpu_kind()
    ]
