"""Give kept records the ids that their experiments have today.

    python docs/renew_records.py config/standard.yaml docs/standard

An id is a hash of what an experiment is. Where only the spelling of that changed, and no result could,
records made before are still the results of the same experiments: this writes the ids of today into
``results.json`` and ``results.csv``. Every record must match one planned experiment in size, D, batch,
steps, learning rate and seed, and in everything else that its identity holds except the fingerprints
of sources.
"""

import sys
import tempfile
from pathlib import Path

from flops_fit.config.load import load_config
from flops_fit.experiment.places import spec_file
from flops_fit.experiment.spec import Spec, read_spec
from flops_fit.files import read_json
from flops_fit.plan.planner import make_plan
from flops_fit.store.collect import write_results
from flops_fit.store.records import seal

FINGERPRINTS = ("source", "prepare_source")
FROM_THE_PLAN = ("compute_budget", "size_param_value", "seed", "num_tokens")  # added by collect


def without_fingerprints(identity):
    """An identity's values in one spelling, sources left out."""
    if isinstance(identity, dict):
        return {k: without_fingerprints(v) for k, v in identity.items() if k not in FINGERPRINTS}
    if isinstance(identity, list):
        return [without_fingerprints(value) for value in identity]
    return identity


def renewed(record: dict, specs: list[Spec]) -> dict:
    """The record under the id of the one spec that it is the result of."""
    (spec,) = [
        spec
        for spec in specs
        if without_fingerprints(spec.recipe.to_dict()) == without_fingerprints(record["identity"])
    ]
    added = {key: record[key] for key in FROM_THE_PLAN}
    kept = {k: v for k, v in record.items() if k not in (*FROM_THE_PLAN, "checksum")}
    whole = spec.to_dict()
    new = {key: whole[key] for key in ("experiment_id", "hash", "identity")}
    return {**seal({**kept, **new}), **added}


def main(config_file: str, folder: str) -> None:
    config = load_config(config_file)
    with tempfile.TemporaryDirectory() as results:
        plan = make_plan(config, results, [str(Path.cwd())])
        specs = [read_spec(spec_file(results, e.experiment_id)) for e in plan.experiments]
    records = [renewed(record, specs) for record in read_json(Path(folder, "results.json"))]
    write_results(records, config["convention"], f"{folder}/results.json", f"{folder}/results.csv")


if __name__ == "__main__":
    main(*sys.argv[1:])
