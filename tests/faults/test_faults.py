"""The fault campaign: whatever is killed, filled up or damaged, the same command again makes it good.

Each scenario strikes experiments again and again and ends in `Experiment.check`: the run completes,
no finished step is lost, its bits are those of an undisturbed run, a finished run is not repeated,
no trainer outlives its grace and no stray file is left.
"""

import contextlib
import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from campaign import PATIENCE, Experiment, Forked, Launched, Plan
from disks import fill, read_only, small_disk
from workflow_runs import Workflow

pytestmark = pytest.mark.faults
TERM, USR1, KILL = signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL

Scenario = Callable[[Plan, Path], None]


def struck(starter, processes: int, strikes: list[tuple]) -> Scenario:
    """A long experiment that is hit by each of ``strikes`` in turn and then left in peace."""

    def scenario(plan: Plan, folder: Path) -> None:
        experiment = Experiment(folder, plan, processes, starter, long=True).planned()
        for strike in strikes:
            experiment.strike(*strike)
        experiment.complete()

    return scenario


def each(numbers, targets, startup: bool = False) -> list[tuple]:
    return [(number, target, startup) for number in numbers for target in targets]


ONE = ("launcher", "rank 0", "everyone")
TWO = ("launcher", "rank 0", "rank 1", "everyone")


def killed_at_every_write(part: int, parts: int) -> Scenario:
    """SIGKILL before each change of the file system in the last steps, record and result included."""

    def scenario(plan: Plan, folder: Path) -> None:
        almost = almost_done(plan, folder)
        for number in range(1 + part, 1000, parts):
            twin = almost.twin(folder / str(number))
            if not fails_at(twin, number):
                return
            twin.plan.tally.inject("SIGKILL at a given write")
            twin.may_redo += 1
            twin.complete()
            shutil.rmtree(twin.folder)

    return scenario


def no_space_at_writes(plan: Plan, folder: Path) -> None:
    """Every third change of the file system fails for want of space."""
    almost = almost_done(plan, folder)
    for number in range(2, 1000, 3):
        twin = almost.twin(folder / str(number))
        if not fails_at(twin, number, FAULTS_ERROR="28"):
            return
        plan.tally.inject("no space at a given write")
        twin.may_redo += 2
        twin.complete()
        shutil.rmtree(twin.folder)


def almost_done(plan: Plan, folder: Path) -> Experiment:
    """An experiment that was asked to stop in its last steps."""
    experiment = Experiment(folder / "almost", plan).planned()
    attempt = experiment.start()
    experiment.wait_for_steps(experiment.reference["steps_done"] - 4)
    experiment.ranks()[0].send_signal(TERM)
    assert attempt.wait(PATIENCE) != 0
    return experiment


def fails_at(experiment: Experiment, number: int, **variables: str) -> bool:
    """Start with a fault at the ``number``-th operation; whether there were so many."""
    count = experiment.folder / "operations"
    attempt = experiment.start(
        FAULTS_OPERATION=str(number), FAULTS_COUNT=str(count), sleep=0, **variables
    )
    attempt.wait(PATIENCE)
    return int(count.read_text()) >= number


def full_disk(starter, leave: list[int], processes: int = 1) -> Scenario:
    """The disk fills up in the middle of a run, now with more and now with less room left."""

    def scenario(plan: Plan, folder: Path) -> None:
        with small_disk(folder / "results") as disk:
            experiment = Experiment(folder, plan, processes, starter, long=True).planned()
            for room in leave:
                attempt = experiment.start()
                experiment.wait_for_steps(experiment.random.randint(2, 5))
                with contextlib.ExitStack() as filled:
                    with held_between_checkpoints(experiment):
                        filled.enter_context(fill(disk, room))
                    plan.tally.inject("full disk")
                    experiment.may_redo += 2
                    assert attempt.wait(PATIENCE) != 0
                    assert "the checkpoint cannot be written" in experiment.said()
                    assert not list(experiment.run.glob("checkpoints/.*"))
            experiment.complete()

    return scenario


@contextlib.contextmanager
def held_between_checkpoints(experiment: Experiment):
    """Hold the trainer where it removes nothing soon: room that it frees would undo a full disk."""
    trainer = experiment.ranks()[0]
    while True:
        trainer.suspend()
        names = [path.name for path in (experiment.run / "checkpoints").iterdir()]
        if len(names) <= 2 and not any(name.startswith(".") for name in names):
            break
        trainer.resume()
        time.sleep(0.005)
    yield
    trainer.resume()


def full_disk_at_the_record(plan: Plan, folder: Path) -> None:
    """No checkpoint is due, so that the record is the first thing that finds no room."""
    with small_disk(folder / "results") as disk:
        experiment = Experiment(folder, plan).planned()
        path = Path(experiment.arguments[0])
        spec = json.loads(path.read_text())
        spec["resources"]["checkpoint_minutes"] = 1000
        path.write_text(json.dumps(spec))
        attempt = experiment.start()
        experiment.wait_for_steps(3)
        with fill(disk, 0):
            plan.tally.inject("full disk at the record")
            experiment.may_redo += experiment.reference["steps_done"]
            assert attempt.wait(PATIENCE) != 0
            assert "record.json: cannot be written (No space left on device)" in experiment.said()
            assert {p.name for p in experiment.run.iterdir()} == {".lock"}
        experiment.complete()


def read_only_disk(starter) -> Scenario:
    """A folder that cannot be written before the run, and again in the middle of it."""

    def scenario(plan: Plan, folder: Path) -> None:
        with small_disk(folder / "results") as disk:
            experiment = Experiment(folder, plan, starter=starter).planned()
            for _ in range(2):
                with read_only(disk):
                    plan.tally.inject("read-only folder")
                    assert experiment.start().wait(PATIENCE) != 0
                    assert "cannot be written (Read-only file system)" in experiment.said()
                experiment.strike(TERM, "rank 0")
                for rank in experiment.trainers:
                    rank.wait(PATIENCE)
            attempt = experiment.start()
            experiment.wait_for_steps(2)
            with small_disk(experiment.run / "checkpoints", "ro"):  # over those that are there
                plan.tally.inject("read-only checkpoints")
                experiment.may_redo += 2
                assert attempt.wait(PATIENCE) != 0
                assert "Read-only file system" in experiment.said()
            experiment.complete()

    return scenario


def unwritable_log(starter) -> Scenario:
    """Standard output and error go to a device that is always full."""

    def scenario(plan: Plan, folder: Path) -> None:
        experiment = Experiment(folder, plan, starter=starter).planned()
        experiment.strike(TERM, "rank 0")
        plan.tally.inject("unwritable log")
        assert experiment.start(log=Path("/dev/full")).wait(PATIENCE) != 0
        failure = json.loads((experiment.run / "failure.json").read_text())
        assert "No space left on device" in failure["reason"]
        experiment.complete()

    return scenario


def truncate(path: Path, draw: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def empty(path: Path, draw: random.Random) -> None:
    path.write_bytes(b"")


def lose(path: Path, draw: random.Random) -> None:
    path.unlink()


def damaged_checkpoints(processes: int, damages: list) -> Scenario:
    """The newest checkpoint is spoilt while nobody runs; the one before it must serve."""

    def scenario(plan: Plan, folder: Path) -> None:
        experiment = Experiment(folder, plan, processes, long=True).planned()
        for damage in damages:
            experiment.strike(TERM, "rank 0")
            newest = max(experiment.run.glob("checkpoints/step-*"))
            files = sorted(newest.iterdir())
            damage(files[experiment.random.randrange(len(files))], experiment.random)
            plan.tally.inject("damaged checkpoint")
            experiment.may_redo += 1
            experiment.strike(TERM, "rank 0")
            assert f"{newest} is not used: " in experiment.log.read_text()
        experiment.complete()

    return scenario


def no_sound_checkpoint(plan: Plan, folder: Path) -> None:
    """All checkpoints are damaged: the run starts over."""
    experiment = Experiment(folder, plan).planned()
    experiment.strike(KILL, "rank 0")
    for checkpoint in experiment.run.glob("checkpoints/step-*"):
        truncate(checkpoint / "optimizer.bin", experiment.random)
    plan.tally.inject("no sound checkpoint")
    experiment.may_redo += experiment.reference["steps_done"]
    experiment.complete()


def damaged_record(damage) -> Scenario:
    """A finished run's record is spoilt: it is named, moved aside, and the run is trained again."""

    def scenario(plan: Plan, folder: Path) -> None:
        experiment = Experiment(folder, plan).planned()
        assert experiment.start(sleep=0).wait(PATIENCE) == 0
        damage(experiment.run / "record.json", experiment.random)
        plan.tally.inject("damaged record")
        experiment.may_redo += experiment.reference["steps_done"]
        status = experiment.start(sleep=0).wait(PATIENCE)
        assert "record.json.corrupt" in experiment.said()
        experiment.check(status, also_left={"record.json.corrupt"})

    return scenario


def killed_workflow(whole_tree: bool) -> Scenario:
    """kill -9 of Snakemake, alone (its jobs go on as orphans) or with every job below it."""

    def scenario(plan: Plan, folder: Path) -> None:
        workflow = Workflow(folder, plan)
        for steps in (1, 8, 16):
            running = workflow.start()
            workflow.wait_for_steps(running, steps)
            time.sleep(random.Random(steps).uniform(0, 1))
            workflow.kill(running, whole_tree)
            workflow.unlock()
        workflow.complete()

    return scenario


def retried_by_the_workflow(plan: Plan, folder: Path) -> None:
    """Jobs that are stopped or killed inside one call of Snakemake, which retries them itself."""
    workflow = Workflow(folder, plan)
    running = workflow.start("--retries", "6")
    for steps, number, target in (
        (3, TERM, "launcher"),
        (9, KILL, "rank 0"),
        (15, USR1, "rank 0"),
        (21, KILL, "launcher"),
        (27, TERM, "rank 0"),
        (33, KILL, "server"),
    ):
        workflow.wait_for_steps(running, steps)
        workflow.strike(running, number, target)
    workflow.complete(running)


SCENARIOS: dict[str, Scenario] = {
    "launched, 1 process, asked to stop": struck(Launched, 1, each((TERM, USR1), ONE)),
    "launched, 1 process, asked to stop again": struck(Launched, 1, each((USR1, TERM), ONE)),
    "launched, 1 process, killed": struck(Launched, 1, each((KILL, KILL), ONE)),
    "launched, 1 process, in its start-up": struck(
        Launched, 1, each((KILL, TERM, USR1), ("launcher", "everyone"), True)
    ),
    "launched, 2 processes, asked to stop": struck(Launched, 2, each((TERM, USR1), TWO)),
    "launched, 2 processes, killed": struck(Launched, 2, each((KILL,), TWO)),
    "workflow killed": killed_workflow(whole_tree=False),
    "workflow killed with its jobs": killed_workflow(whole_tree=True),
    "workflow retries": retried_by_the_workflow,
    "1 process, asked to stop": struck(Forked, 1, each((TERM, USR1), ONE)),
    "1 process, killed": struck(Forked, 1, each((KILL, KILL), ONE)),
    "1 process, in its start-up": struck(
        Forked, 1, each((KILL, TERM, USR1), ("launcher", "everyone"), True)
    ),
    "2 processes, asked to stop": struck(Forked, 2, each((TERM, USR1), TWO)),
    "2 processes, killed": struck(Forked, 2, each((KILL,), TWO)),
    "killed at every write, 1": killed_at_every_write(0, 2),
    "killed at every write, 2": killed_at_every_write(1, 2),
    "no space at writes": no_space_at_writes,
    "disk filled up": full_disk(Forked, [0, 0, 4096, 8192]),
    "disk filled up, launched": full_disk(Launched, [0]),
    "disk filled up, 2 processes": full_disk(Forked, [0, 4096], 2),
    "disk full at the record": full_disk_at_the_record,
    "disk read-only": read_only_disk(Forked),
    "disk read-only, launched": read_only_disk(Launched),
    "log unwritable": unwritable_log(Forked),
    "log unwritable, launched": unwritable_log(Launched),
    "checkpoint damaged": damaged_checkpoints(1, [truncate, flip, empty, lose]),
    "checkpoint of 2 processes damaged": damaged_checkpoints(2, [truncate, lose]),
    "no checkpoint sound": no_sound_checkpoint,
    "record truncated": damaged_record(truncate),
    "record with a bit flipped": damaged_record(flip),
    "record empty": damaged_record(empty),
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_same_command_again_makes_it_good(outcomes, scenario):
    outcomes[scenario].result()
