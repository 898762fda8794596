"""flops-fit: how large a model to train, and on how much data, for a compute budget.

``find_optimal`` runs all steps for a model, a dataset and a loss; the workflow runs the same code
from a config file. Names are imported on first use, because importing torch takes a second.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Experiment": "sweep",
    "FlopsFitError": "errors",
    "Result": "api",
    "SweepPlan": "sweep",
    "TrainingRunner": "trainer",
    "compare": "api",
    "find_optimal": "api",
    "fit_runs": "fit",
    "plan_sweep": "sweep",
    "predict": "fit",
    "read_runs": "fit",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
