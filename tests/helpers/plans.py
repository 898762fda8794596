"""Plans made up of the numbers that a test needs, in the form in which a plan is stored."""

RESOURCES = {"processes": 1, "threads": 1, "gpus": 0, "micro_batch_items": None}


def cell(budget, params, *, steps=1000, size=None, seed=0, tokens=None):
    tokens = tokens or round(budget / (6 * params))
    return {
        "experiment_id": f"net-{size or params}-{budget:g}-s{seed}",
        "compute_budget": budget,
        "size_param_value": size or params,
        "seed": seed,
        "params": params,
        "params_nonembedding": params // 2,
        "params_total": 2 * params,
        "num_params": params,
        "num_tokens": tokens,
        "steps": steps,
        "batch_items": 4,
        "tokens_per_item": 8,
        "learning_rate": 0.01,
        "flops_per_token": 6.6 * params,
        "count_method": "meta",
        "activation_bytes": 100.0,
        "flops_6nd": 6.0 * params * tokens,
        "flops_counted": 6.6 * params * tokens,
        "hash": "0",
    }


def plan_of(cells, skipped=(), warmup=0.05, kind="wsd"):
    schedule = {"kind": kind, "warmup": warmup, "decay": 0.2, "final": 0.0}
    return {
        "fingerprint": "f" * 64,
        "convention": "counted",
        "schedule": schedule,
        "precision": "no",
        "resources": RESOURCES,
        "check": "nowhere.json",
        "data_dir": None,
        "experiments": list(cells),
        "skipped": list(skipped),
        "warnings": [],
    }


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
