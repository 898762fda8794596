"""What decides a result, made up of the parts that a test needs, as specs and records hold it."""

from flops_fit.experiment.recipe import read_recipe


def identity(name="Net", size_param="width", size=8, seed=0, **changes) -> dict:
    """A whole identity of a model ``mine:NAME``; ``changes`` replace parts of it."""
    return {
        "model": {
            "factory": f"mine:{name}",
            "size_param": size_param,
            "kwargs": {},
            "source": "1",
            "size": size,
        },
        "dataset": {
            "factory": "mine:data",
            "kwargs": {},
            "source": "1",
            "files": {},
            "prepare": None,
            "prepare_kwargs": {},
            "prepare_source": None,
            "sources": [],
        },
        "loss": {"function": "mine:loss", "source": "1"},
        "optimizer": {"factory": "mine:sgd", "kwargs": {}, "clip_norm": None, "source": "1"},
        "schedule": {"kind": "cosine", "warmup": 0.02, "decay": 0.2, "final": 0.0},
        "precision": "no",
        "deterministic": False,
        "evaluation": {"tokens": 32, "batch_items": 4},
        "trainer_version": 1,
        "tokens": 1_500_000,
        "batch_items": 4,
        "steps": 9,
        "learning_rate": 0.1,
        "seed": seed,
        **changes,
    }


def named(value: dict) -> dict:
    """The id, the hash and the identity itself, as records and specs hold them."""
    recipe = read_recipe(value)
    return {"experiment_id": recipe.experiment_id, "hash": recipe.hash, "identity": value}


def spec(value: dict) -> dict:
    """A whole spec of the experiment with this identity."""
    return {
        "format": 1,
        **named(value),
        "counts": {
            "num_params": 10,
            "params": 10,
            "params_nonembedding": 5,
            "params_total": 20,
            "flops_per_token": 60.0,
            "count_method": "meta",
            "tokens_per_item": 8,
            "activation_bytes": 1.0,
        },
        "max_epochs": 4,
        "resources": {
            "processes": 1,
            "threads": 1,
            "gpus": 0,
            "micro_batch_items": None,
            "compile": False,
            "activation_checkpointing": False,
            "checkpoint_minutes": 10,
            "loader_workers": 0,
            "log_with": None,
        },
        "data_dir": None,
        "check": "nowhere.json",
        "uses": {"code": {}, "files": {}, "packages": []},
        "search_paths": ["."],
    }
