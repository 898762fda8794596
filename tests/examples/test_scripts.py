"""The scripts of ``examples/scripts``, which are trainers of their own, each as a run of a sweep."""

import os
import runpy
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from script_job import script_spec

import flops_fit.run
from flops_fit.data import as_data
from flops_fit.examples import text
from flops_fit.examples.gpt import GPT, optimizer
from flops_fit.examples.loss import cross_entropy
from flops_fit.experiment.options import TrainOptions
from flops_fit.jobs.script_files import RESULT, SPEC, ScriptOutcome, outcome_of
from flops_fit.run import STOP_SIGNALS, Run
from flops_fit.trainer import train

ROOT = Path(__file__).parents[2]
SCRIPTS, TEXT = ROOT / "examples" / "scripts", str(ROOT / "tests" / "data" / "text.txt")
LINEAR = {"kind": "linear", "warmup": 0.02, "decay": 0.2, "final": 0.0}


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Runs a script of ``examples/scripts`` in this process, as a job of the plan ``spec``."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.delenv("RANK", raising=False)

    def ran(name: str, *arguments: str, **changed) -> ScriptOutcome:
        spec = script_spec(tmp_path, **changed)
        spec.write(tmp_path / "spec.json")
        result = tmp_path / "script_result.json"
        result.unlink(missing_ok=True)
        monkeypatch.setenv(SPEC, str(tmp_path / "spec.json"))
        monkeypatch.setenv(RESULT, str(result))
        monkeypatch.setattr(flops_fit.run, "_current", None)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        status = 0
        try:
            runpy.run_path(str(SCRIPTS / name), run_name="__main__")
        except SystemExit as error:
            status = error.code
        return outcome_of(result, spec, {}, status)

    yield ran
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def at_step(monkeypatch):
    """Lets something happen in the n-th call of ``run.log``."""

    def happens(n: int, what) -> None:
        calls, log = iter(range(1, n)), Run.log

        def counted(run, *args, **kwargs):
            log(run, *args, **kwargs)
            if next(calls, None) is None:
                monkeypatch.setattr(Run, "log", log)
                what()

        monkeypatch.setattr(Run, "log", counted)

    return happens


def ask_to_stop():
    os.kill(os.getpid(), signal.SIGTERM)


def fail():
    raise ConnectionError("lost")


GPT_RUN = {"size": 16, "batch_items": 8, "tokens_per_item": 32, "steps": 60, "tokens": 60 * 8 * 32}
GPT_RUN |= {"learning_rate": 0.02, "seed": 3}


def test_the_plain_loop_is_the_trainer_and_goes_on_after_a_stop(script, at_step, tmp_path):
    data = tmp_path / "data"
    line = ["gpt_loop.py", "--layers", "1", "--seq_len", "32", "--source", TEXT]
    line += ["--data", str(data), "--heldout", "2048"]
    outcome = script(*line, **GPT_RUN)
    assert (outcome.status, outcome.notes) == ("completed", ())
    assert outcome.params == 12 * 16**2 + 128 * 16
    options = TrainOptions(
        tokens=GPT_RUN["tokens"],
        batch_items=8,
        learning_rate=0.02,
        seed=3,
        schedule=LINEAR,
        evaluation_tokens=2048,
        progress=False,
    )
    ours = train(
        "ours",
        lambda: GPT(16, n_layers=1, seq_len=32),
        as_data(text.windows(data, 32)),
        cross_entropy,
        lambda model, rate: optimizer(model, rate),
        options,
    )
    assert outcome.loss == pytest.approx(ours["final_loss"], abs=1e-6)
    assert outcome.curve["loss"] == pytest.approx(ours["loss_curve"]["loss"], abs=1e-6)
    at_step(20, ask_to_stop)
    assert script(*line, **GPT_RUN).status == "stopped"
    resumed = script(*line, **GPT_RUN)
    assert (resumed.loss, resumed.curve) == (outcome.loss, outcome.curve)


def test_a_script_with_its_own_resume_goes_on_after_a_failure(script, at_step, tmp_path):
    line = ["own_resume.py", "--text", TEXT, "--max_iters", "40", "--save_every", "10"]
    planned = {"steps": 40, "batch_items": 16, "tokens_per_item": 64, "tokens": 40 * 16 * 64}
    outcome = script(*line, "--out_dir", str(tmp_path / "undisturbed"), **planned)
    assert (outcome.status, outcome.notes) == ("completed", ())
    (tmp_path / "work" / "progress.json").unlink()
    at_step(25, fail)
    line += ["--out_dir", str(tmp_path / "work")]
    with pytest.raises(ConnectionError):
        script(*line, **planned)
    resumed = script(*line, **planned)
    assert resumed.loss == outcome.loss
    points = [set(zip(*o.curve.values(), strict=True)) for o in (resumed, outcome)]
    assert points[0] <= points[1]  # less what the failed attempt logged in its last second


@pytest.mark.slow
def test_a_hugging_face_trainer_stops_and_goes_on(script, at_step, tmp_path):
    pytest.importorskip("transformers")
    planned = {"steps": 30, "batch_items": 4, "tokens_per_item": 64, "tokens": 30 * 4 * 64}
    line = ["hf_trainer.py", "--text", TEXT]
    at_step(10, ask_to_stop)
    assert script(*line, **planned).status == "stopped"
    resumed = script(*line, **planned)
    assert (resumed.status, resumed.notes) == ("completed", ())
    undisturbed = script(*line, **planned | {"folder": str(tmp_path / "undisturbed")})
    assert resumed.loss == undisturbed.loss


def test_a_program_that_knows_nothing_but_the_files_is_a_trainer(script):
    planned = {"steps": 100, "batch_items": 64, "tokens_per_item": 1, "tokens": 6400}
    outcome = script("numpy_mlp.py", "--text", TEXT, **planned)
    assert (outcome.status, outcome.notes) == ("completed", ())
    assert outcome.params == 128 * 8 + 8 * 8 * 8 + 8 + 8 * 128
    assert outcome.loss < 3.1  # the entropy of its bytes
    assert script("numpy_mlp.py", "--text", TEXT, **planned).loss == outcome.loss


def test_the_gradients_by_hand_are_the_slopes_of_the_loss():
    program = runpy.run_path(str(SCRIPTS / "numpy_mlp.py"))
    generator = np.random.default_rng(0)
    model = program["new_model"](5, generator)
    model["head"] = generator.normal(size=model["head"].shape)
    contexts = generator.integers(128, size=(4, 8))
    batch = contexts, generator.integers(128, size=4)
    _, gradients = program["loss_and_gradients"](model, *batch)
    for name, weights in model.items():
        place = contexts[0, 0] if name == "embedding" else 1  # of a weight that takes part
        place = (place, 2)[: weights.ndim]
        losses = []
        for change in (1e-5, -2e-5):
            weights[place] += change
            losses.append(program["loss_and_gradients"](model, *batch)[0])
        assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(gradients[name][place], rel=1e-6)
        weights[place] += 1e-5
