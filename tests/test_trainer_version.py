"""The trainer's version is raised by hand; this test notices when it should be thought about."""

import hashlib
from pathlib import Path

import flops_fit
from flops_fit.experiment.options import TRAINER_VERSION
from flops_fit.plugins.code import tree_digest

DECIDE_RESULTS = (
    "batch",
    "data",
    "experiment/exact",
    "loss",
    "model_factory",
    "optimizer",
    "plan/schedule",
    "trainer",
    "training/batches",
    "training/checkpoint",
    "training/curve",
    "training/evaluation",
    "training/trunk",
)
RECORDED = {1: "335d72343d246444"}


def trainer_fingerprint() -> str:
    folder = Path(flops_fit.__file__).parent
    hashes = [tree_digest(folder / f"{name}.py") for name in DECIDE_RESULTS]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]


def test_a_change_to_what_decides_results_is_answered_by_the_version():
    assert RECORDED.get(TRAINER_VERSION) == trainer_fingerprint(), (
        "modules that decide an experiment's result have changed. If any spec could now give "
        "another result, raise TRAINER_VERSION in flops_fit/experiment/options.py (every run is then stale); "
        "either way record the new fingerprint here: "
        f"RECORDED = {{{TRAINER_VERSION}: {trainer_fingerprint()!r}}}"
    )
