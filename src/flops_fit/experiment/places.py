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


def seen_file(results: str | Path, fingerprint: str) -> Path:
    """What the trial run of a plan's plug-ins was seen to use."""
    return plan_folder(results) / "seen" / f"{fingerprint[:16]}.json"


def late_file(results: str | Path) -> Path:
    """What plug-ins were seen to use by jobs alone."""
    return plan_folder(results) / "late.json"


def hashes_file(results: str | Path) -> Path:
    """Hashes of files that were read before, by their state."""
    return plan_folder(results) / "hashes.json"
