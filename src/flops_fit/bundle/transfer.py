"""Pack a folder of results into a bundle, and add a bundle to the results of another machine."""

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import yaml

from flops_fit.bundle.archive import (
    CARD,
    CONFIG,
    FIT,
    PLAN,
    RECORDS,
    TABLE,
    TEXTS,
    Bundle,
    read_bundle,
    write_bundle,
)
from flops_fit.bundle.card import data_card
from flops_fit.bundle.verify import verify
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import run_folder, sweep_config_file, sweep_folder, sweep_plan_file
from flops_fit.experiment.used import other_late
from flops_fit.files import read_object, write_atomic
from flops_fit.fit.result import read_fit
from flops_fit.store.plan_file import read_plan
from flops_fit.store.records import FAILURE, RECORD, check_record
from flops_fit.store.runs import add_record


def export_bundle(
    folder: str | Path, out: str | Path, license: str = "", config: str | Path | None = None
) -> str:
    """Pack the sweep in ``folder`` (``results/NAME``) into the ZIP ``out``; returns what was packed.

    ``license`` states the terms of use; ``config`` is its config file, where the one that the workflow
    keeps is not there. Raises `FlopsFitError` for a file that is missing and where the fit does not
    follow from the runs, since nobody could verify such a bundle.
    """
    folder = Path(folder)
    fit, results = read_fit(folder / FIT), folder.resolve().parent
    name = folder.resolve().name
    dated = datetime.fromtimestamp((folder / FIT).stat().st_mtime, UTC).date().isoformat()
    plan = sweep_plan_file(results, name)
    files = {FIT: (folder / FIT).read_bytes()}
    if plan.exists():
        files |= _sweep_files(folder, plan, results)
        files |= _config(config, sweep_config_file(results, name))
    else:
        table = Path(fit.data.source)
        if not table.is_file():
            raise FlopsFitError(f"{table}: the table of {folder / FIT} is no file here")
        files["table" + "".join(table.suffixes[-2:]).lower()] = table.read_bytes()
    files |= {text: (folder / text).read_bytes() for text in TEXTS if (folder / text).exists()}
    bundle = Bundle(name, dated, license, files)
    bundle = replace(bundle, files={CARD: data_card(bundle, fit).encode(), **files})
    how = verify(bundle)
    write_bundle(bundle, out)
    return f"{len(bundle.files)} files, {fit.data.n_runs} runs; {how}"


def _sweep_files(folder: Path, plan: Path, results: Path) -> dict[str, bytes]:
    """The plan of a sweep, its tables, and the record of each run or why it failed."""
    files = {PLAN: plan.read_bytes()}
    for table in (TABLE, RECORDS):
        if not (folder / table).exists():
            raise FlopsFitError(
                f"{folder / table}: no such file; allowed: a sweep that is collected"
            )
        files[table] = (folder / table).read_bytes()
    for experiment in read_plan(plan).experiments:
        for name in (RECORD, FAILURE):
            path = run_folder(results, experiment.experiment_id) / name
            if path.exists():
                files[f"runs/{experiment.experiment_id}/{name}"] = path.read_bytes()
                break
    return files


def _config(given: str | Path | None, kept: Path) -> dict[str, bytes]:
    if given is not None:
        return {CONFIG: Path(given).read_bytes()}
    if not kept.exists():
        return {}
    text = yaml.safe_dump(read_object(kept), sort_keys=False, allow_unicode=True)
    return {CONFIG: text.encode()}


def import_bundle(path: str | Path, results: str | Path) -> str:
    """Verify the bundle ``path`` and add it to the folder ``results``; returns what came of it.

    Its records enter the store, and its tables, fit and page lie in the folder of its sweep. Raises
    `FlopsFitError` before anything is written: for a bundle that is not sound, and for a file or
    record that is here with another content.
    """
    bundle = read_bundle(path)
    how = verify(bundle)
    folder = sweep_folder(results, bundle.name)
    files = {
        folder / name: c for name, c in bundle.files.items() if "/" not in name and name != PLAN
    }
    if PLAN in bundle.files:
        files[sweep_plan_file(results, bundle.name)] = bundle.files[PLAN]
    failures = {Path(results, n): c for n, c in bundle.runs.items() if n.endswith(FAILURE)}
    records = {Path(results, n): c for n, c in bundle.runs.items() if n.endswith(RECORD)}
    for target, content in {**files, **records}.items():
        if target.exists() and target.read_bytes() != content:
            raise FlopsFitError(
                f"{target}: is here with another content; nothing was imported; move it away, or "
                "import into another folder with --results"
            )
    _check_late(records)
    new = [target for target in records if not target.exists()]
    for target in new:
        add_record(records[target], results)
    for target, content in {**files, **failures}.items():
        if not target.exists():
            write_atomic(target, content)
    return (
        f"{folder}: {how}; {len(new)} records imported, {len(records) - len(new)} were here already"
    )


def _check_late(records: dict[Path, bytes]) -> None:
    for target, content in records.items():
        record = check_record(content, target.parent.name)
        if other := other_late(record.get("late", {}), [os.getcwd()]):
            raise FlopsFitError(
                f"{target.parent.name}: was trained with another {', '.join(other)} than lies here; "
                "nothing was imported"
            )
