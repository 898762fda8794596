"""The profiles that clusters use."""

import yaml
from project import REPOSITORY


def test_the_profiles_for_slurm_differ_in_how_they_ask_for_gpus_and_in_nothing_else():
    slurm, gres = (
        yaml.safe_load((REPOSITORY / "profiles" / name / "config.yaml").read_text())
        for name in ("slurm", "slurm-gres")
    )
    assert slurm["set-resources"]["train_run"].pop("gpu") == 1
    assert gres["set-resources"]["train_run"].pop("gres") == "gpu:1"
    assert slurm == gres
