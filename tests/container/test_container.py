"""The image of envs/Dockerfile: built from a clean checkout, then used as its head says."""

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import image
import psutil
import pytest
from project import REPOSITORY

from flops_fit.files import read_json

pytestmark = pytest.mark.container
USER = 54321  # of a number that the image does not know, as --user gives
SMOKE = "/opt/flops-fit/config/smoke.yaml"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    store = tmp_path_factory.mktemp("images")
    try:
        yield image.build(store)
    finally:
        shutil.rmtree(store)


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """The folder that is mounted as /work, of the user who runs the image."""
    folder = tmp_path_factory.mktemp("work")
    os.chown(folder, USER, USER)
    return folder


@pytest.fixture(scope="module")
def run(built, work):
    def run(*line: str) -> str:
        command = built.command(*line, work=work, user=USER)
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run


def advised() -> list[str]:
    """The command of the Dockerfile's head that starts a sweep in the image."""
    head = re.findall(r"^#   +(.*)$", image.dockerfile(), re.MULTILINE)
    words = shlex.split("\n".join(head).replace("\\\n", " "))
    return words[words.index("snakemake") : words.index("my_sweep.yaml")]


@pytest.fixture(scope="module")
def smoke(built, work):
    """What the smoke sweep printed, and the ports at which its processes listened."""
    line = built.command(*advised(), SMOKE, work=work, user=USER)
    log = work.parent / "smoke.log"
    with log.open("w") as file:
        process = subprocess.Popen(line, stdout=file, stderr=subprocess.STDOUT)
        ports = set()
        while process.poll() is None:
            ports |= set(listening())
            time.sleep(0.2)
    assert process.returncode == 0, log.read_text()
    return log.read_text(), ports


def listening() -> list[tuple]:
    """Every address at which a process of the image's user accepts connections."""
    open_to_others = []
    for connection in psutil.net_connections(kind="inet"):
        if connection.status == psutil.CONN_LISTEN and connection.pid:
            try:
                if psutil.Process(connection.pid).uids().real == USER:
                    open_to_others.append(tuple(connection.laddr))
            except psutil.NoSuchProcess:
                continue
    return open_to_others


def test_the_image_holds_exactly_the_lock_with_torch_for_cpus(run):
    listed = json.loads(run("python", "-m", "pip", "list", "--format", "json").splitlines()[-1])
    versions = {re.sub(r"[-_.]+", "-", p["name"]).lower(): p["version"] for p in listed}
    lock = (REPOSITORY / "requirements.lock").read_text()
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", lock, re.MULTILINE))
    pins = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}
    pins["torch"] += "+cpu"
    assert {name: versions.get(name) for name in pins} == pins
    assert [name for name in versions if name.startswith(("nvidia", "cuda"))] == []


def test_the_smoke_sweep_ends_in_its_answer_on_the_mounted_folder(smoke, work):
    output, _ = smoke
    answer = (work / "results/smoke/answer.txt").read_text()
    assert "| C (FLOPs) |" in answer
    assert answer in output
    records = list(work.glob("results/runs/*/record.json"))
    assert [read_json(path)["status"] for path in records] == ["completed"] * 6
    assert (work / "results/smoke/report.html").stat().st_size > 10_000
    assert {path.stat().st_uid for path in work.rglob("*")} == {USER}


def test_a_sweep_on_one_machine_listens_at_no_port(smoke):
    assert smoke[1] == set()


def test_what_the_image_has_finished_stays_finished_in_its_next_container(smoke, run):
    assert "Nothing to be done" in run(*advised(), SMOKE)


def test_snakemakes_own_report_is_made_in_the_image(smoke, run, work):
    run(*advised(), SMOKE, "--report", "all.html")
    assert (work / "all.html").stat().st_size > 100_000


def test_the_doctor_has_no_complaint(run):
    output = run("flops-fit", "doctor")
    assert "WRONG" not in output
    assert "accelerate launch starts a process" in output


def test_a_table_is_fitted(run, work):
    shutil.copy(REPOSITORY / "docs/standard/results.csv", work / "runs.csv")
    run("flops-fit", "fit", "--runs", "runs.csv", "--report", "my_runs", "--bootstrap", "50")
    surface = read_json(work / "my_runs/fit.json")["parametric"]
    assert surface["alpha"] == pytest.approx(0.437, abs=0.001)  # as on the page
    assert (work / "my_runs/report.html").stat().st_size > 10_000
