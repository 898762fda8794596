"""Plans made up of the numbers that a test needs."""

from flops_fit.experiment.options import Resources
from flops_fit.experiment.plan import Plan
from flops_fit.sweep import Experiment, ModelCount


def cell(budget, params, *, steps=1000, size=None, seed=0, tokens=None, tokens_per_item=8):
    return Experiment(
        experiment_id=f"net-{size or params}-{budget:g}-s{seed}",
        compute_budget=budget,
        size_param_value=size or params,
        num_params=params,
        num_tokens=tokens or round(budget / (6 * params)),
        seed=seed,
        batch_items=4,
        tokens_per_item=tokens_per_item,
        steps=steps,
        learning_rate=0.01,
        count=ModelCount(
            params, params, params // 2, 2 * params, 6.6 * params, "meta", activation_bytes=100.0
        ),
        hash="0",
    )


def plan_of(cells, skipped=(), warmup=0.05, kind="wsd", schedule=None):
    return Plan(
        fingerprint="f" * 64,
        convention="counted",
        experiments=list(cells),
        skipped=list(skipped),
        schedule=schedule or {"kind": kind, "warmup": warmup, "decay": 0.2, "final": 0.0},
        resources=Resources(),
        check="nowhere.json",
    )


def grid(budgets=(1e12, 1e13, 1e14), ratios=(2, 6, 20.5, 60, 180), **options):
    """A grid with the same tokens per parameter at each budget."""
    return [
        cell(
            c,
            round((c / 6 / ratio) ** 0.5),
            tokens=round(ratio * round((c / 6 / ratio) ** 0.5)),
            **options,
        )
        for c in budgets
        for ratio in ratios
    ]
