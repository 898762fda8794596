"""Where things lie below the results folder."""

from pathlib import Path

MANIFEST = "manifest.json"  # the last file that the preparation of data writes


def run_folder(results: str | Path, experiment_id: str) -> Path:
    """An experiment's folder, shared by all sweeps that contain it."""
    return Path(results, "runs", experiment_id)


def plan_folder(results: str | Path) -> Path:
    return Path(results, ".plan")


def plan_file(results: str | Path, fingerprint: str) -> Path:
    return plan_folder(results) / "plans" / f"{fingerprint[:16]}.json"


def spec_file(results: str | Path, experiment: str) -> Path:
    return plan_folder(results) / "specs" / f"{experiment}.json"
