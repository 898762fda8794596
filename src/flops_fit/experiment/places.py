"""Where things lie below the results folder, ``results`` in every function here."""

from pathlib import Path

DATA_MANIFEST = "manifest.json"  # the last file that the preparation of data writes


def run_folder(results: str | Path, experiment_id: str) -> Path:
    """The folder of the run of ``experiment_id`` below ``results``; sweeps share it."""
    return Path(results, "runs", experiment_id)


def trunks_folder(results: str | Path) -> Path:
    """The folder below ``results`` of the states that runs share; all of them can be made again."""
    return Path(results, ".trunks")


def trunk_folder(results: str | Path, trunk: str) -> Path:
    """The folder of the states that runs share whose first steps have the hash ``trunk``.

    It lies below ``results``; all sweeps share it.
    """
    return trunks_folder(results) / trunk[:16]


def compiled_folder(results: str | Path) -> Path:
    """The folder below ``results`` of compiled graphs that runs share; all can be made again."""
    return Path(results, ".compiled")


def state_folder(folder: Path, tokens: int) -> Path:
    """The state after ``tokens`` in the ``folder`` of a trunk; `state_tokens` reads the name."""
    return folder / f"tokens-{tokens:015d}"


def state_tokens(folder: Path) -> int:
    """The tokens after which the state in ``folder`` was left."""
    return int(folder.name.removeprefix("tokens-"))


def sweep_folder(results: str | Path, sweep: str) -> Path:
    """The folder of the tables, fit, figures and report of ``sweep`` below ``results``."""
    return Path(results, sweep)


def data_folder(results: str | Path, name: str) -> Path:
    """The folder ``name`` of prepared data below ``results``, shared by all sweeps that read them."""
    return Path(results, "data", name)


def plan_folder(results: str | Path) -> Path:
    """The folder of plans below ``results``, and of what is known about sources, data and machines.

    Every file in it can be made again.
    """
    return Path(results, ".plan")


def plan_file(results: str | Path, fingerprint: str) -> Path:
    """The file of a plan below ``results``, by the ``fingerprint`` of what determines it."""
    return plan_folder(results) / "plans" / f"{fingerprint[:16]}.json"


def spec_file(results: str | Path, experiment: str) -> Path:
    """The file of the spec of ``experiment``, an id, below ``results``."""
    return plan_folder(results) / "specs" / f"{experiment}.json"


def seen_file(results: str | Path, fingerprint: str) -> Path:
    """The file of what the trial run of the plan of ``fingerprint`` used, below ``results``."""
    return plan_folder(results) / "seen" / f"{fingerprint[:16]}.json"


def conditions_file(results: str | Path, check: str) -> Path:
    """The file of what runs depend on beyond their identity, below ``results``.

    ``check`` is the name of the check of their inputs, which runs of the same code and data share.
    """
    return plan_folder(results) / "conditions" / f"{check}.json"


def late_file(results: str | Path) -> Path:
    """The file of what plug-ins used in jobs alone, below ``results``."""
    return plan_folder(results) / "late.json"


def sweep_plans_folder(results: str | Path) -> Path:
    """The folder of the latest plans of all sweeps below ``results``, named by the sweeps."""
    return plan_folder(results) / "sweeps"


def sweep_plan_file(results: str | Path, sweep: str) -> Path:
    """The file of the latest plan of ``sweep`` below ``results``."""
    return sweep_plans_folder(results) / f"{sweep}.json"


def sweep_config_file(results: str | Path, sweep: str) -> Path:
    """The file of the complete config of ``sweep`` below ``results``, as the workflow last had it."""
    return plan_folder(results) / "configs" / f"{sweep}.json"


def check_plan_file(results: str | Path, check: str) -> Path:
    """The file of a plan whose inputs are to be checked, by the name ``check``, below ``results``."""
    return plan_folder(results) / "checks" / f"{check}.json"


def check_file(results: str | Path, check: str) -> Path:
    """The file of what the check of the name ``check`` learned, below ``results``; sweeps share it."""
    return plan_folder(results) / "checked" / f"{check}.json"


def data_plan_file(results: str | Path, data: str) -> Path:
    """The file of a plan whose ``data``, a folder's name, are to be prepared, below ``results``."""
    return plan_folder(results) / "data" / f"{data}.json"


def tables_file(results: str | Path, sweep: str) -> Path:
    """The file of the hashes of the tables of ``sweep`` below ``results``, as `collect` wrote them."""
    return plan_folder(results) / "tables" / f"{sweep}.json"


def problem_file(config: str | Path) -> Path:
    """Where the process that plans the file ``config`` says what is wrong with it."""
    return Path(config).with_suffix(".problem")


def hashes_file(results: str | Path) -> Path:
    """The file of hashes of files that were read before, below ``results``."""
    return plan_folder(results) / "hashes.json"


def verified_file(results: str | Path) -> Path:
    """The file of results and records that were verified, below ``results``."""
    return plan_folder(results) / "verified.json"


def store_file(results: str | Path) -> Path:
    """The file that names the store of which the files below ``results`` are copies."""
    return plan_folder(results) / "store.json"


def measured_file(results: str | Path, kind: str) -> Path:
    """The file of the measured speed of a ``kind`` of device ("cpu" or "gpu") below ``results``."""
    return plan_folder(results) / f"rate-{kind}.json"
