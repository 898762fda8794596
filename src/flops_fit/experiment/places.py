"""Where things lie below the results folder, ``results`` in every function here."""

from pathlib import Path

MANIFEST = "manifest.json"  # the last file that the preparation of data writes


def run_folder(results: str | Path, experiment_id: str) -> Path:
    """An experiment's folder, shared by all sweeps that contain it."""
    return Path(results, "runs", experiment_id)


def sweep_folder(results: str | Path, sweep: str) -> Path:
    """Tables, fit, figures and report of a sweep."""
    return Path(results, sweep)


def data_folder(results: str | Path, name: str) -> Path:
    """Prepared data, shared by all sweeps that read them."""
    return Path(results, "data", name)


def plan_folder(results: str | Path) -> Path:
    """Plans and what is known about sources, data and machines; every file can be made again."""
    return Path(results, ".plan")


def plan_file(results: str | Path, fingerprint: str) -> Path:
    """A plan, by the fingerprint of what determines it."""
    return plan_folder(results) / "plans" / f"{fingerprint[:16]}.json"


def spec_file(results: str | Path, experiment: str) -> Path:
    """What a job needs to know about its experiment."""
    return plan_folder(results) / "specs" / f"{experiment}.json"


def seen_file(results: str | Path, fingerprint: str) -> Path:
    """What the trial run of a plan's plug-ins was seen to use."""
    return plan_folder(results) / "seen" / f"{fingerprint[:16]}.json"


def late_file(results: str | Path) -> Path:
    """What plug-ins were seen to use by jobs alone."""
    return plan_folder(results) / "late.json"


def sweep_plans_folder(results: str | Path) -> Path:
    """A copy of each sweep's latest plan, by the sweep's name."""
    return plan_folder(results) / "sweeps"


def sweep_plan_file(results: str | Path, sweep: str) -> Path:
    """The latest plan of a sweep."""
    return sweep_plans_folder(results) / f"{sweep}.json"


def check_plan_file(results: str | Path, check: str) -> Path:
    """A plan whose inputs are to be checked, by the name of their check."""
    return plan_folder(results) / "checks" / f"{check}.json"


def check_file(results: str | Path, check: str) -> Path:
    """What the check of a sweep's inputs has found, by its name; sweeps share it."""
    return plan_folder(results) / "checked" / f"{check}.json"


def data_plan_file(results: str | Path, data: str) -> Path:
    """A plan whose data are to be prepared, by the name of the data's folder."""
    return plan_folder(results) / "data" / f"{data}.json"


def tables_file(results: str | Path, sweep: str) -> Path:
    """The contents of a sweep's tables, as `collect` wrote them."""
    return plan_folder(results) / "tables" / f"{sweep}.json"


def hashes_file(results: str | Path) -> Path:
    """Hashes of files that were read before, by their state."""
    return plan_folder(results) / "hashes.json"


def verified_file(results: str | Path) -> Path:
    """Results and records that were found sound, by size and time."""
    return plan_folder(results) / "verified.json"


def measured_file(results: str | Path, kind: str) -> Path:
    """The measured speed of a kind of device ("cpu" or "gpu")."""
    return plan_folder(results) / f"rate-{kind}.json"
