"""What an experiment is: the plain data behind its id and hash, and nothing else.

Budgets, N, FLOPs, versions and machines are recorded but never part of it, so that budgets and
sweeps share runs. No torch here: a dry run needs these on every start.
"""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from flops_fit.errors import FlopsFitError
from flops_fit.experiment import places
from flops_fit.experiment.options import TRAINER_VERSION
from flops_fit.files import canonical_hash, check_format, read_json
from flops_fit.plugins.code import import_closure, source_fingerprint
from flops_fit.plugins.data_files import FileHashes, file_arguments, source_identity
from flops_fit.plugins.uses import Uses, changed_uses

LONGEST_NAME = 180  # characters of an id before its hash; file systems allow 255 with what is added
LONGEST_PART = 40  # of one that is longer


def common_identity(config: dict, search_paths: Iterable[str], hashes: FileHashes) -> dict:
    """The part of the identity that all experiments of a sweep share.

    Plug-ins count with their reference, arguments and syntax tree; data with the hash of their
    files or the version of their package.
    """
    paths = tuple(search_paths)
    dataset, model = config["dataset"], config["model"]
    prepare = dataset["prepare"]
    return {
        "model": {
            "factory": model["factory"],
            "size_param": model["size_param"],
            "kwargs": model["kwargs"],
            "source": source_fingerprint(model["factory"], list(paths)),
        },
        "dataset": {
            "factory": dataset["factory"],
            "kwargs": dataset["kwargs"],
            "source": source_fingerprint(dataset["factory"], list(paths)),
            "files": data_files(dataset, paths, hashes),
            "prepare": prepare,
            "prepare_kwargs": dataset["prepare_kwargs"],
            "prepare_source": source_fingerprint(prepare, list(paths)) if prepare else None,
            "sources": [[s, source_identity(s, paths, hashes)] for s in dataset["sources"]],
        },
        "loss": {
            "function": config["loss"]["function"],
            "source": source_fingerprint(config["loss"]["function"], list(paths)),
        },
        "optimizer": {
            **config["optimizer"],
            "source": source_fingerprint(config["optimizer"]["factory"], list(paths)),
        },
        "schedule": config["schedule"],
        "precision": config["precision"],
        "deterministic": config["deterministic"],
        "evaluation": config["evaluation"],
        "trainer_version": TRAINER_VERSION,
    }


def data_files(dataset: dict, paths: Iterable[str], hashes: FileHashes) -> dict[str, str]:
    """Hashes of the files that the dataset's own and its preparation's arguments name."""
    arguments = {**dataset["prepare_kwargs"], **dataset["kwargs"]}
    return file_arguments(arguments, paths, hashes)


def experiment_identity(common: dict, fields: dict) -> dict:
    """The whole identity: ``common`` plus size, D, batch, steps, learning rate and seed."""
    model = {**common["model"], "size": fields["size_param_value"]}
    expected = fields.get("expected_items")  # only where targets are ignored or items differ
    return {
        **common,
        **({} if expected is None else {"expected_items": expected}),
        "model": model,
        "tokens": fields["num_tokens"],
        "batch_items": fields["batch_items"],
        "steps": fields["steps"],
        "learning_rate": fields["learning_rate"],
        "seed": fields["seed"],
    }


def experiment_id(identity: dict) -> str:
    """A readable id that ends in the identity's hash, such as ``gpt-d_model96-D1.5e6-s0-3f2a9c1b``.

    It names files: letters beyond ASCII lose their accents or become underscores, and parts of an id
    that would be longer than a file name are cut. The hash keeps such ids apart.
    """
    model = identity["model"]
    name = model["factory"].rsplit(":", 1)[1].rsplit(".", 1)[-1].lower()
    size = f"{model['size_param']}{model['size']}"
    tokens = f"{identity['tokens']:.3g}".replace("e+0", "e").replace("e+", "e")
    parts = [name, size, f"D{tokens}", f"s{identity['seed']}"]
    if sum(map(len, parts)) > LONGEST_NAME:
        parts = [part[:LONGEST_PART] for part in parts]
    plain = unicodedata.normalize("NFKD", "-".join(parts))
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    return f"{re.sub(r'[^A-Za-z0-9._+-]+', '_', plain)}-{canonical_hash(identity)[:8]}"


def data_folder(common: dict, results: str | Path) -> str | None:
    """Where a sweep's prepared data lie, named by what determines them; None without prepare."""
    dataset = common["dataset"]
    if dataset["prepare"] is None:
        return None
    keys = ("prepare", "prepare_kwargs", "prepare_source", "sources", "files")
    digest = canonical_hash({key: dataset[key] for key in keys})[:12]
    name = dataset["prepare"].split(":")[0].rsplit(".", 1)[-1]
    return str(places.data_folder(results, f"{name}-{digest}"))


def with_uses(common: dict, uses: dict) -> dict:
    """``common`` with what plug-ins use beside their own packages; as it is where that is nothing."""
    return {**common, "uses": uses} if uses else common


def plan_key(
    config: dict, common: dict, uses: dict, search_paths: Iterable[str], hashes: FileHashes
) -> str:
    """Hash of all that determines the outcome of planning ``config`` and is known without running it.

    ``uses``: the identity's part of that name, as far as it is known so.
    """
    paths = list(search_paths)
    keys = (
        "budgets",
        "seeds",
        "convention",
        "batch",
        "learning_rate",
        "learning_rate_factors",
        "limits",
        "resources",
    )
    references = [
        config[key]["function"] for key in ("batch", "learning_rate") if "function" in config[key]
    ]
    per_item = config["dataset"].get("per_item")
    if config["dataset"]["example"]:
        references.append(config["dataset"]["example"])
    files = {key: file_arguments(config[key], paths, hashes) for key in ("batch", "learning_rate")}
    return canonical_hash(
        {
            "common": with_uses(common, uses),
            "sizes": _plain(config["sizes"]),
            "settings": {key: config[key] for key in keys}
            | ({"per_item": per_item} if per_item else {}),
            "references": {r: source_fingerprint(r, paths) for r in references},
            "files": files,
            "search_paths": paths,
            "planner": import_closure("flops_fit.plan.planner"),
        }
    )


def plan_fingerprint(key: str, uses: dict) -> str:
    """Hash of all that determines a plan: its `plan_key`, and all that its plug-ins use."""
    return canonical_hash([key, uses])


def _plain(sizes: dict) -> dict:
    if "per_budget" not in sizes:
        return sizes
    return {"per_budget": {repr(float(k)): v for k, v in sizes["per_budget"].items()}}


def read_spec(path: str | Path) -> dict:
    """Read an experiment's spec; one that its own hash does not match is refused."""
    spec = read_json(path)
    check_format(spec, path)
    try:
        sound = (
            canonical_hash(spec["identity"]) == spec["hash"]
            and experiment_id(spec["identity"]) == spec["experiment_id"] == Path(path).stem
        )
    except (LookupError, TypeError, ValueError, AttributeError):
        sound = False
    if not sound:
        raise FlopsFitError(f"{path}: the spec's hash is not its id; plan the sweep again")
    return spec


def changed_sources(spec: dict, hashes: FileHashes) -> list[str]:
    """What in the live plug-ins, data or trainer is no longer what ``spec`` was planned with."""
    identity, paths = spec["identity"], spec["search_paths"]
    dataset = identity["dataset"]
    planned = {
        identity["model"]["factory"]: identity["model"]["source"],
        dataset["factory"]: dataset["source"],
        identity["loss"]["function"]: identity["loss"]["source"],
        identity["optimizer"]["factory"]: identity["optimizer"]["source"],
    }
    if dataset["prepare"]:
        planned[dataset["prepare"]] = dataset["prepare_source"]
    changed = [r for r, source in planned.items() if source_fingerprint(r, paths) != source]
    for source, identity_then in dataset["sources"]:
        if source_identity(source, paths, hashes) != identity_then:
            changed.append(source)
    if data_files(dataset, paths, hashes) != dataset["files"]:
        changed.append("a file that the dataset's arguments name")
    uses = Uses.from_dict(spec["uses"])
    changed += changed_uses(identity.get("uses", {}), uses, hashes)
    if identity["trainer_version"] != TRAINER_VERSION:
        changed.append(f"the trainer's version ({identity['trainer_version']})")
    return changed
