"""`find_optimal`: the plan for inspection, the sweep, and an answer that knows its limits."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from flops_fit import FlopsFitError, SweepPlan, find_optimal
from flops_fit.api import run_frame
from flops_fit.fit import read_runs
from flops_fit.store.collect import write_results
from flops_fit.training.arguments import checked_options

FEATURES, CLASSES = 8, 5


class Net(nn.Module):
    def __init__(self, width: int, multiple: int = 1):
        super().__init__()
        if width % multiple:
            raise ValueError(f"width {width} is no multiple of {multiple}")
        self.net = nn.Sequential(nn.Linear(FEATURES, width), nn.Tanh(), nn.Linear(width, CLASSES))

    def forward(self, inputs):
        return self.net(inputs)


def parameters(width: int) -> int:
    return sum(p.numel() for p in Net(width).parameters())


@pytest.fixture(scope="module")
def dataset():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3000, FEATURES, generator=generator)
    return TensorDataset(
        inputs, (inputs @ torch.randn(FEATURES, CLASSES, generator=generator)).argmax(1)
    )


def test_without_data_or_training_the_plan_comes_back(dataset):
    plans = [
        find_optimal(Net, "width", compute_budgets=[1e7]),
        find_optimal(Net, "width", dataset=dataset, compute_budgets=[1e7]),
        find_optimal(
            Net,
            "width",
            dataset=dataset,
            loss_fn=nn.CrossEntropyLoss(),
            compute_budgets=[1e7],
            train=False,
        ),
    ]
    assert all(isinstance(plan, SweepPlan) for plan in plans)
    assert len({tuple(e.num_tokens for e in plan.experiments) for plan in plans}) == 1


@pytest.mark.parametrize("budget", [1e7, 1e8, 1e9])
def test_default_sizes_are_integers_even_in_ln_n_from_2_to_200_tokens_per_parameter(budget):
    plan = find_optimal(Net, "width", compute_budgets=[budget])
    ratios = [e.num_tokens / e.num_params for e in plan.experiments]
    assert len(plan) >= 5
    assert all(type(e.size_param_value) is int for e in plan.experiments)
    assert max(ratios) < 260
    assert min(ratios) > 1.5
    assert max(ratios) / min(ratios) > 10
    assert all(e.num_params == parameters(e.size_param_value) for e in plan.experiments)
    assert all(e.steps >= 8 for e in plan.experiments)


def test_sizes_that_the_model_cannot_be_built_at_are_left_out():
    plan = find_optimal(Net, "width", {"multiple": 8}, compute_budgets=[1e8])
    assert len(plan) >= 5
    assert all(e.size_param_value % 8 == 0 for e in plan.experiments)


def test_cells_below_eight_steps_are_skipped_and_listed():
    plan = find_optimal(Net, "width", compute_budgets=[1e6], sizes=[4, 4000])
    assert [e.size_param_value for e in plan.experiments] == [4]
    assert [(s.size_param_value, "floor is 8" in s.reason) for s in plan.skipped] == [(4000, True)]


@pytest.fixture(scope="module")
def result(dataset, tmp_path_factory):
    return find_optimal(
        Net,
        "width",
        dataset=dataset,
        loss_fn=nn.CrossEntropyLoss(),
        compute_budgets=[1e6, 3e6, 1e7],
        sizes=[2, 4, 8, 16],
        learning_rate=0.01,
        progress=False,
        output_dir=tmp_path_factory.mktemp("api"),
        fit_options={"bootstrap": 50},
        evaluation_tokens=150,
    )


def test_every_experiment_trained_on_exactly_its_tokens_at_6nd(result):
    assert len(result.records) == 12
    for experiment, record in zip(result.plan.experiments, result.records, strict=True):
        assert record["tokens_seen"] == experiment.num_tokens
        assert record["flops_6nd"] == 6 * experiment.num_params * experiment.num_tokens


def test_the_table_covers_the_budgets_and_agrees_with_predict(result):
    table = result.chinchilla_table()
    assert table["flops"].tolist() == [1e6, 3e6, 1e7, 3e7, 1e8]
    assert table["params"].iloc[2] == result.predict(1e7).params
    assert result.predict(1e8).verdict in ("provisional", "not identifiable", "trust")
    assert "12 of 12 runs completed" in repr(result)


def test_plot_writes_figures_beside_the_results(result):
    written = result.plot()
    assert (result.output_dir / "plots" / "isoflop.svg").exists()
    assert all(path.exists() for path in written)


def test_the_page_of_a_result_holds_its_answers_and_what_the_run_says_of_itself(result):
    path = result.report(compute_budgets=[1e7, 5e7])
    page = path.read_text()
    assert path == result.output_dir / "report.html"
    assert 'data-flops="10000000.0 50000000.0"' in page  # one card, for one reason
    for budget in (1e7, 5e7):
        answer = result.predict(budget)
        assert answer.params is None  # four sizes of a toy do not determine a law
        assert answer.verdict in page
    assert "test_api:Net; only width changes between sizes" in page
    assert "12 completed" in page
    assert result.predict(1e7, params=300).chosen is None


def test_a_notebook_shows_the_table(result):
    shown = result._repr_html_()
    assert "12 of 12 runs completed" in shown
    assert shown.count("<tr") == 1 + len(result.chinchilla_table())


def test_finished_experiments_are_not_trained_again(result, dataset, monkeypatch):
    import flops_fit.trainer

    def refuse(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr(flops_fit.trainer, "train", refuse)
    again = find_optimal(
        Net,
        "width",
        dataset=dataset,
        loss_fn=nn.CrossEntropyLoss(),
        compute_budgets=[1e6, 3e6, 1e7],
        sizes=[2, 4, 8, 16],
        learning_rate=0.01,
        progress=False,
        output_dir=result.output_dir,
        fit_options={"bootstrap": 50},
        evaluation_tokens=150,
    )
    assert [r["final_loss"] for r in again.records] == [r["final_loss"] for r in result.records]
    assert len(json.loads((result.output_dir / "results.json").read_text())) == 12


def test_too_few_runs_for_a_law_are_said_and_not_an_error(dataset, tmp_path):
    result = find_optimal(
        Net,
        "width",
        dataset=dataset,
        loss_fn=nn.CrossEntropyLoss(),
        compute_budgets=[1e6],
        sizes=[4, 8],
        output_dir=tmp_path,
        progress=False,
    )
    assert result.law is None
    assert "no law" in repr(result)
    with pytest.raises(FlopsFitError, match="no law could be fitted"):
        result.predict(1e7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"compute_budgets": [-1.0]}, "compute_budgets: -1.0 given; allowed: positive numbers"),
        ({"compute_budgets": "1e9"}, "compute_budgets: '1e9' given; allowed: positive numbers"),
        ({"compute_budgets": []}, r"compute_budgets: \[\] given; allowed: positive numbers"),
        ({"batch_size": 0}, "batch_size: 0 given; allowed: positive numbers"),
        ({"seeds": []}, r"seeds: \[\] given; allowed: whole numbers"),
        ({"epochs": 3}, r"epochs: no such argument; did you mean max_epochs\?"),
        (
            {"colour": 3},
            "colour: no such argument; allowed: activation_checkpointing, checkpoint_minutes",
        ),
        ({"precison": "bf16"}, r"precison: no such argument; did you mean precision\?"),
        ({"schedule": "linaer"}, "schedule.kind: 'linaer' is not allowed"),
        ({"convention": "6n"}, "convention: '6n' given; allowed: 6nd, counted"),
        ({"convention": "counted"}, "needs a dataset and a loss"),
        ({"dataset": 3}, "int is not a dataset"),
        ({"model_kwargs": {"depth": 3}}, "has no argument 'depth'"),
    ],
)
def test_bad_arguments_are_refused_before_anything_trains(arguments, message):
    with pytest.raises(FlopsFitError, match=message):
        find_optimal(Net, "width", **arguments)


def test_numbers_may_stand_alone_and_a_schedule_be_named():
    plan = find_optimal(Net, compute_budgets=1e8, sizes=8, seeds=2, schedule="linear")
    assert [(e.size_param_value, e.seed) for e in plan.experiments] == [(8, 0), (8, 1)]
    arrays = {"compute_budgets": np.array([1e8]), "sizes": np.array([8])}
    (experiment,) = find_optimal(Net, **arrays).experiments
    assert type(experiment.size_param_value) is int
    full = {"kind": "linear", "warmup": 0.02, "decay": 0.2, "final": 0.0}
    assert checked_options({"schedule": "linear"}) == {"schedule": full}
    assert checked_options({"schedule": full}) == {"schedule": full}


@pytest.mark.parametrize(("convention", "n"), [("6nd", 100), ("counted", 160)])
def test_one_record_has_the_same_n_through_the_workflow_and_through_the_api(
    convention, n, tmp_path
):
    record = {
        "experiment_id": "net-width8",
        "status": "completed",
        "reason": "",
        "final_loss": 1.0,
        "compute_budget": 1e6,
        "size_param_value": 8,
        "seed": 0,
        "num_tokens": 1000,
        "tokens_seen": 1000,
        "num_params": 100,
        "params": 160,
        "params_nonembedding": 90,
        "params_total": 200,
        "flops_per_token": 960.0,
        "flops_counted": 960000.0,
    }
    frame = run_frame([record], convention)
    write_results([record], convention, tmp_path / "results.json", tmp_path / "results.csv")
    table = read_runs(tmp_path / "results.csv").frame
    assert frame["params"].tolist() == table["params"].tolist() == [n]
    assert (
        frame["flops"].tolist()
        == table["flops"].tolist()
        == [{"6nd": 6e5, "counted": 9.6e5}[convention]]
    )
