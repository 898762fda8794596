"""Random configs around the plug-ins of a random task."""

import numpy as np
from parts import PREFIX, Parts, pick


def config_of(rng: np.random.Generator, drawn: Parts) -> dict:
    """A config around the plug-ins, with budgets that about fit the model and the data."""
    widths = sorted({int(w) for w in rng.choice([4, 8, 12, 16, 24, 32], int(rng.integers(1, 5)))})
    per_token = drawn.work[0] * widths[0] + drawn.work[1] * widths[0] ** 2
    low = per_token * 10 ** rng.uniform(2.5, 3.5)
    config: dict = {
        "name": "fuzz",
        "model": {"factory": f"{PREFIX}model:Net", "size_param": "width"},
        "dataset": {"factory": f"{PREFIX}data:data"},
        "budgets": [float(f"{low * 3**i:.3g}") for i in range(int(rng.integers(1, 4)))],
        "sizes": {"values": widths},
        "batch": batch_rule(rng),
        "learning_rate": rate_rule(rng),
        "evaluation": {
            "tokens": int(pick(rng, 16, 200, 2000)),
            "batch_items": int(pick(rng, 1, 8)),
        },
        "limits": {
            "min_steps": int(pick(rng, 2, 8)),
            "max_epochs": float(pick(rng, 1, 4, 100, 300, 300)),
        },
        "seeds": pick(rng, [0], [0], [0, 7]),
        "convention": pick(rng, "counted", "counted", "6nd"),
        "precision": pick(rng, "no", "no", "no", "bf16"),
        "deterministic": bool(rng.random() < 0.1),
        "schedule": {
            "kind": pick(rng, "cosine", "linear", "wsd", "constant"),
            "warmup": float(pick(rng, 0, 0.02, 0.3)),
            "final": float(pick(rng, 0, 0.1)),
        },
        "resources": {"micro_batch_items": pick(rng, None, None, 3)},
    }
    if drawn.loss is not None:
        config["loss"] = {"function": f"{PREFIX}loss:loss"}
    config["optimizer"] = {"clip_norm": pick(rng, None, 1.0)}
    if drawn.optimizer is not None:
        config["optimizer"]["factory"] = f"{PREFIX}optimizer:optimizer"
    if rng.random() < 0.1:
        config["learning_rate_factors"] = [0.5, 1, 2]
    return config


def batch_rule(rng: np.random.Generator) -> dict:
    return pick(
        rng,
        {"value": 64},
        {"value": 16},
        {"value": 128},
        {"value": 100, "multiple": 4},
        {"value": 64, "tokens": {"reference": 1e3, "power": 0.5}},
        {"value": 48, "params": {"reference": 1e3, "power": 0.3}},
        {"function": f"{PREFIX}rules:batch"},
    )


def rate_rule(rng: np.random.Generator) -> dict:
    return pick(
        rng,
        {"value": 0.003},
        {"value": 0.01, "params": {"reference": 1e3, "power": -0.3}},
        {"value": 0.002, "size": {"reference": 8, "power": -1}},
        {"value": 30.0} if rng.random() < 0.1 else {"value": 0.001},
        {"function": f"{PREFIX}rules:rate"},
    )


RULES = """
def batch(params, tokens, size):
    return max(8, int(tokens ** 0.5))

def rate(params, tokens, size):
    return 0.1 / size
"""
