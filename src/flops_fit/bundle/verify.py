"""Check that a bundle holds together: its tables follow from its records, and its fit from its table."""

import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flops_fit.bundle.archive import FIT, PLAN, RECORDS, RUN, TABLE, Bundle
from flops_fit.errors import FlopsFitError
from flops_fit.files import write_atomic, write_json
from flops_fit.fit.core import fit_runs
from flops_fit.fit.curves import read_curves
from flops_fit.fit.options import FitOptions
from flops_fit.fit.result import Fit, read_fit
from flops_fit.fit.runs import read_runs
from flops_fit.store.collect import collect, write_results
from flops_fit.store.plan_file import read_plan
from flops_fit.store.records import RECORD, RESULT
from flops_fit.store.runs import check_foreign

CLOSE = 1e-6  # relative: what another processor may round otherwise in a fit of the same runs


def verify(bundle: Bundle) -> str:
    """Check ``bundle`` and return a sentence on the refit.

    Its records are sealed and sound, its tables follow from them, and a new fit of its table is its
    fit. Raises `FlopsFitError` that names the file that is wrong.
    """
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for name, content in bundle.files.items():
            write_atomic(scratch / name, content)
        if PLAN in bundle.files:
            _check_tables(bundle, scratch)
        return _check_fit(bundle, scratch)


def _check_tables(bundle: Bundle, scratch: Path) -> None:
    plan = read_plan(scratch / PLAN)
    planned = {experiment.experiment_id for experiment in plan.experiments}
    recorded = set()
    for name, content in bundle.runs.items():
        experiment, kind = RUN.fullmatch(name).groups()  # type: ignore[union-attr]
        if experiment not in planned:
            raise FlopsFitError(f"{name}: its plan has no such run")
        if kind == "failure":
            continue
        try:
            record = check_foreign(content)
        except FlopsFitError as error:
            raise FlopsFitError(f"{name}: {error}") from None
        if record["experiment_id"] != experiment:
            raise FlopsFitError(f"{name}: it belongs to {record['experiment_id']!r}")
        recorded.add(experiment)
        (scratch / name).rename(scratch / name.replace(RECORD, RESULT))
    again = {TABLE: scratch / "again.csv", RECORDS: scratch / "again.json"}
    records = collect(plan, scratch, planned - recorded)
    write_results(records, plan.convention, again[RECORDS], again[TABLE])
    for name, path in again.items():
        if path.read_bytes() != bundle.files[name]:
            raise FlopsFitError(
                f"{name}: does not follow from the plan and the records of its runs"
            )


def _check_fit(bundle: Bundle, scratch: Path) -> str:
    again = scratch / "again-fit.json"
    write_json(again, refitted(read_fit(scratch / FIT), scratch / bundle.table).to_dict())
    if again.read_bytes() == bundle.files[FIT]:
        return "the refit equals its fit byte for byte"
    apart = apart_by(json.loads(bundle.files[FIT]), json.loads(again.read_bytes()))
    if apart > CLOSE:
        how = "in more than its numbers" if math.isinf(apart) else f"by up to {apart:.1e}"
        raise FlopsFitError(
            f"{FIT}: a new fit of {bundle.table} differs from it {how}; it was made from other runs, "
            "with other options, or by another version of flops-fit"
        )
    return f"the refit differs from its fit by at most {apart:.0e} of each number"


def refitted(fit: Fit, table: Path) -> Fit:
    """Fit ``table``, the file of the runs of ``fit``, again and in the same way.

    Raises `FlopsFitError` where the loss curves of ``fit`` are in a file of their own.
    """
    data, how = fit.data, fit.bootstrap
    runs = replace(read_runs(table, data.params_column, data.reading), source=data.source)
    tried = {size.params for size in runs.sizes}
    curves = None
    if fit.envelope is not None:
        file = table.with_name(RECORDS) if table.name == TABLE else table
        if file.suffix != ".json":
            raise FlopsFitError(f"{FIT}: its loss curves are in a file of their own; allowed: none")
        curves = read_curves(file)
    choices: dict[str, Any] = {
        "sizes": [size for size in fit.sizes if size.params not in tried],
        "bootstrap": how.resamples,
        "seed": how.seed,
        "level": how.level,
        **(fit.choices or {}),
    }
    return fit_runs(runs, curves, FitOptions(**choices))


def apart_by(one: object, other: object) -> float:
    """The largest relative difference between numbers of two plain values ``one`` and ``other``.

    It is infinite where they differ in anything else.
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping) and one.keys() == other.keys():
        return max((apart_by(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(map(apart_by, one, other), default=0.0)
    if one == other:
        return 0.0
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return abs(one - other) / max(abs(one), abs(other))
    return math.inf
