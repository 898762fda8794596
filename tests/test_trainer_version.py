"""The trainer's version is raised by hand; this test notices when it should be thought about."""

import hashlib
from pathlib import Path

import flops_fit
from flops_fit.options import TRAINER_VERSION
from flops_fit.plugins import syntax_tree_hash

DECIDE_RESULTS = ("checkpoint", "curve", "data", "evaluation", "exact", "loss", "model_factory",
                  "optimizer", "schedule", "trainer")  # fmt: skip
RECORDED = {1: "25b7626a461b559b"}


def trainer_fingerprint() -> str:
    folder = Path(flops_fit.__file__).parent
    hashes = [syntax_tree_hash(folder / f"{name}.py") for name in DECIDE_RESULTS]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]


def test_a_change_to_what_decides_results_is_answered_by_the_version():
    assert RECORDED.get(TRAINER_VERSION) == trainer_fingerprint(), (
        "modules that decide an experiment's result have changed. If any spec could now give "
        "another result, raise TRAINER_VERSION in flops_fit/options.py (every run is then stale); "
        "either way record the new fingerprint here: "
        f"RECORDED = {{{TRAINER_VERSION}: {trainer_fingerprint()!r}}}"
    )
