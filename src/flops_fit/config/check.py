"""Check a config: its values must be plain, match the schema, and fit together."""

import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flops_fit.config.asked import check_answer, check_measures, check_metrics
from flops_fit.config.budgets import check_fractions, check_seeds, check_sizes, show
from flops_fit.config.factors import FACTORS, check_factors
from flops_fit.config.rules import check_rules
from flops_fit.config.schedule import check_schedule
from flops_fit.config.schema import schema
from flops_fit.errors import FlopsFitError
from flops_fit.sweep import seeds_at

if TYPE_CHECKING:  # slow to import
    from jsonschema import ValidationError

LARGEST = sys.float_info.max
DEEPEST = 50  # levels of nesting
MOST_VALUES = 100_000
RESERVED = {  # folders below results that belong to no sweep; some disks ignore the case of a name
    "runs": "the runs of all sweeps",
    "data": "prepared data",
    "local": "what find_optimal writes",
}
TYPES = {  # the types of JSON as people call them
    "object": "a mapping of keys",
    "array": "a list",
    "string": "text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "null": "null",
}
SHORT = {  # what a short form is, by the key that it stands for, where it is no text
    "list": "a number",
    "count": "a whole number",
    "value": "a number",
    "values": "a list",
}
BY_NUMBER = (  # mappings with numbers as keys
    *("sizes.per_budget", "seeds", "model.size_map", "counts.table", "dataset.unique_fraction"),
)


@dataclass(frozen=True)
class Kind:
    """What the config of a kind of sweep needs and refuses.

    ``key`` marks the kind; ``needed`` keys have no default; ``refused`` keys cannot be given, because
    of ``why``.
    """

    key: str
    needed: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    why: str = ""


RUNS = Kind(
    "runs",
    refused=("model", "trainer", "counts", "dataset", "metrics", "budgets", "sizes", "until"),
    why="cannot be combined with runs, which trains nothing",
)
SCRIPT = Kind(
    "trainer",
    ("budgets", "sizes"),
    (
        *("dataset", "loss", "optimizer", "schedule", "precision", "deterministic", "evaluation"),
        "metrics",  # which the script gives to run.finish
    ),
    "cannot be combined with trainer, because the script decides it",
)
PLUGINS = Kind(
    "model",
    ("model", "model.factory", "model.size_param", "dataset", "budgets", "sizes"),
    ("counts",),
    "cannot be used without trainer, because the model itself is counted",
)
COMPARISON = Kind(
    "compare",
    refused=(
        *("model", "trainer", "counts", "dataset", "loss", "optimizer", "budgets", "sizes"),
        *("seeds", "convention", "batch", "learning_rate", "weight_decay", *FACTORS),
        *("rate_design", "schedule"),
        *("precision", "deterministic", "evaluation", "metrics", "limits", "resources", "pricing"),
        *("runs", "fit", "until", "confirm", "plot"),
    ),
    why="cannot be combined with compare, because each arm has its own config",
)
KINDS = (COMPARISON, RUNS, SCRIPT, PLUGINS)


def kind_of_sweep(config: Mapping[str, Any]) -> Kind:
    """The kind of ``config``: a comparison, existing runs, a script, or plug-ins where it is none."""
    kinds = (COMPARISON, RUNS, SCRIPT)
    return next((kind for kind in kinds if config.get(kind.key) is not None), PLUGINS)


def check_size(raw: object) -> None:
    """Refuse a config whose YAML aliases stand for too many values, before it is copied.

    ``raw`` is the config as read. A few lines of YAML can name a list ten times in a list that is
    named ten times, and so on. Raises `FlopsFitError` beyond `MOST_VALUES` values.
    """
    size = _expanded(raw, {})
    if size > MOST_VALUES:
        raise FlopsFitError(
            f"its aliases (&name, *name) stand for {size:.3g} values; allowed: {MOST_VALUES:,}"
        )


def _expanded(value: object, known: dict[int, float]) -> float:
    """Count the values that there are when every alias is written out."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = 0  # `check_plain` refuses a list that contains itself
        children = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_expanded(child, known) for child in children)
    return known[id(value)]


def check_plain(value: object, key: str = "", depth: int = 0) -> None:
    """Refuse a value that JSON cannot hold, such as the dates, sets, NaN and loops of YAML.

    ``key`` is the dotted config key of ``value``, and ``depth`` its level of nesting. Raises
    `FlopsFitError` that names the key.
    """
    if depth > DEEPEST:
        raise FlopsFitError(f"{key[:80]}...: nested too deep; allowed: {DEEPEST} levels")
    match value:
        case dict():
            for name, child in value.items():
                if not isinstance(name, str) and key not in ("", *BY_NUMBER):
                    raise FlopsFitError(f"{key}: the key {name!r} is not allowed; allowed: text")
                if isinstance(name, str) and not name.isprintable():
                    raise FlopsFitError(
                        f"{key or 'config'}: the key {name!r} is not allowed; allowed: printable text"
                    )
                check_plain(child, f"{key}.{name}" if key else str(name), depth + 1)
        case list():
            for number, child in enumerate(value):
                check_plain(child, f"{key}.{number}", depth + 1)
        case str():
            if not _is_unicode(value):
                raise FlopsFitError(f"{key}: {show(value)} is not allowed; allowed: Unicode text")
        case int() | float():
            if not -LARGEST <= value <= LARGEST:
                raise FlopsFitError(f"{key}: {show(value)} is not allowed; allowed: finite numbers")
        case None:
            pass
        case _:
            raise FlopsFitError(
                f"{key}: {show(value)} is not allowed; allowed: numbers, text, true, false, null, "
                "and lists and mappings of these (write a date in quotes to make it text)"
            )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # text with half of a surrogate pair
        return False
    return True


def validate(config: dict, part: dict | None = None) -> None:
    """Check ``config`` against the schema, or against ``part``, a JSON schema of its keys.

    Raises `FlopsFitError` that names all keys with errors, each with its value and what is allowed.
    """
    import jsonschema

    errors = list(jsonschema.Draft202012Validator(part or schema()).iter_errors(config))
    if errors:
        raise FlopsFitError("; ".join(sorted({_explain(e) for e in errors})))


def _explain(error: "ValidationError") -> str:
    key = ".".join(str(part) for part in error.absolute_path) or "config"
    if error.validator == "additionalProperties":
        allowed = sorted(error.schema["properties"])
        unknown = sorted(set(map(str, error.instance)) - set(allowed))
        prefix = "" if key == "config" else f"{key}."
        return "; ".join(_unknown_key(prefix, name, allowed) for name in unknown)
    if error.validator == "required":
        missing = sorted(set(error.validator_value) - set(error.instance))
        prefix = "" if key == "config" else f"{key}."
        known = error.schema.get("properties", {})
        return "; ".join(_missing(f"{prefix}{name}", known.get(name, {})) for name in missing)
    return f"{key}: {show(error.instance)} is not allowed; {_allowed(error)}"


def _missing(key: str, its_schema: dict) -> str:
    """That ``key`` is missing, with the first sentence of its description in ``its_schema``."""
    meaning = its_schema.get("description", "").strip().split(". ")[0].rstrip(".")
    return f"{key}: missing, and it has no default" + (f" ({meaning})" if meaning else "")


def _unknown_key(prefix: str, name: str, allowed: list[str]) -> str:
    close = difflib.get_close_matches(name, allowed, n=1)
    hint = f"did you mean {prefix}{close[0]}?" if close else f"allowed here: {', '.join(allowed)}"
    return f"{prefix}{name}: unknown key; {hint}"


def _allowed(error: "ValidationError") -> str:
    value = error.validator_value
    match error.validator:
        case "type":
            kinds = [value] if isinstance(value, str) else value
            short = error.schema.get("shorthand")
            names = [SHORT.get(short, "text")] if short else []
            names += [TYPES[kind] for kind in kinds]
            return f"allowed: {' or '.join(names)}"
        case "enum":
            return f"allowed: {', '.join(map(str, value))}"
        case "oneOf":
            kinds = (TYPES.get(o.get("type"), str(o.get("const"))) for o in value)
            return f"allowed: {' or '.join(kinds)}"
        case "minimum":
            return f"allowed: {value} or more"
        case "maximum":
            return f"allowed: {value} or less"
        case "exclusiveMinimum":
            return f"allowed: more than {value}"
        case "exclusiveMaximum":
            return f"allowed: less than {value}"
        case "minItems":
            return f"allowed: a list of at least {value} {'entry' if value == 1 else 'entries'}"
        case "maxItems":
            return f"allowed: a list of at most {value} {'entry' if value == 1 else 'entries'}"
        case "uniqueItems":
            return "allowed: each entry once"
        case "maxLength":
            return f"allowed: at most {value} characters"
        case "pattern" if "examples" in error.schema:
            return f"allowed: a text such as {error.schema['examples'][0]}"
        case "pattern":
            return (
                "allowed: letters, digits, dots, dashes and underscores, starting with a letter or "
                "digit"
            )
    return error.message


def _check_name(name: str) -> None:
    content = RESERVED.get(name.lower())
    if content:
        raise FlopsFitError(
            f"name: {name!r} is reserved, because results/{name.lower()} holds {content}; allowed: any "
            f"name except {', '.join(RESERVED)}"
        )


def check_across_keys(config: dict) -> None:
    """Check what the schema cannot express: which keys of ``config`` need or exclude each other.

    It also writes the budgets under ``sizes.per_budget`` as numbers. Raises `FlopsFitError` that
    names the key.
    """
    _check_name(config["name"])
    kind = kind_of_sweep(config)
    for key in kind.refused:
        if config.get(key) is not None:
            raise FlopsFitError(f"{key}: {kind.why}; remove one of them")
    for key in kind.needed:
        section, _, name = key.partition(".")
        if section not in config or (name and name not in config[section]):
            of_section = schema()["properties"][section]
            raise FlopsFitError(
                _missing(key, of_section["properties"][name] if name else of_section)
            )
    if "sizes" in kind.needed:
        check_sizes(config)
        check_seeds(config)
        _check_confirm(config)
        check_rules(config)
        check_factors(config)
        check_fractions(config)
        check_schedule(config)
    CHECKS[kind.key](config)
    _check_sharing(config.get("resources") or {})
    check_measures(config.get("fit") or {})
    check_answer(config.get("answer") or {}, config.get("pricing") or {})


def _check_sharing(resources: Mapping[str, Any]) -> None:
    runs = resources.get("runs_per_gpu", 1)
    for key in ("gpus", "processes"):
        given = resources.get(key, 0 if key == "gpus" else 1)
        if runs > 1 and given != 1:
            raise FlopsFitError(
                f"resources.runs_per_gpu: {runs}, but resources.{key}: {given}; allowed: 1, or runs of "
                "one process on one GPU (gpus: 1, processes: 1)"
            )


def _check_plugins(config: dict) -> None:
    check_metrics(config)
    model, dataset = config["model"], config["dataset"]
    for key in ("size_map", "example"):
        if key in model:
            raise FlopsFitError(
                f"model.{key}: cannot be used without trainer; allowed: model.kwargs, dataset.example"
            )
    if dataset.get("prepare") and not dataset.get("example"):
        raise FlopsFitError(
            "dataset.example: missing; allowed: the import path of a callable that returns one "
            "(inputs, targets) item, which the plan needs because dataset.prepare is set"
        )


def _check_script(config: dict) -> None:
    trainer, model = config["trainer"], config.get("model") or {}
    if any(trainer.get(key) for key in ("script", "command", "arguments", "sources", "accelerate")):
        _exactly_one("trainer", trainer, ("script", "command"))
    if "command" in trainer and trainer.get("accelerate") is not None:
        raise FlopsFitError(
            "trainer.accelerate: cannot be combined with command, which starts its own processes; "
            "allowed: with script"
        )
    for key in ("weight_decay", "batch_factors", "weight_decay_factors"):
        if config.get(key) not in (None, [1]):
            raise FlopsFitError(
                f"{key}: cannot be combined with trainer, because the script decides it; allowed: "
                "learning_rate_factors"
            )
    if config.get("resources", {}).get("checkpoint_store") is not None:
        raise FlopsFitError(
            "resources.checkpoint_store: cannot be combined with trainer, because the script saves its "
            "own checkpoints"
        )
    if "seen" in config.get("batch", {}):
        raise FlopsFitError(
            "batch.seen: cannot be combined with trainer, because a script is given one batch"
        )
    counted = {"counts": config.get("counts"), "model.factory": model.get("factory")}
    if len([name for name, value in counted.items() if value is not None]) != 1:
        raise FlopsFitError(
            "counts: what a size holds and costs must be known once; allowed: exactly one of counts "
            "and model.factory"
        )
    if "factory" in model:
        if "example" not in model:
            raise FlopsFitError(
                "model.example: missing; allowed: the import path of a callable that returns one "
                "(inputs, targets) item, with which the model is counted"
            )
        _exactly_one("model", model, ("size_param", "size_map"))
    else:
        _exactly_one("counts", config["counts"], ("function", "table"))
    for section, key in ((model, "size_map"), (config.get("counts", {}), "table")):
        if isinstance(section.get(key), dict):
            section[key] = {_number_key(key, name): row for name, row in section[key].items()}


def _exactly_one(key: str, section: Mapping[str, Any], names: tuple[str, ...]) -> None:
    if sum(section.get(name) is not None for name in names) != 1:
        given = show(sorted(name for name in names if section.get(name) is not None))
        raise FlopsFitError(f"{key}: {given} given; allowed: exactly one of {', '.join(names)}")


def _number_key(section: str, key: object) -> int | float:
    try:
        number = float(key)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise FlopsFitError(f"{section}.{key}: not a number; allowed: the sizes") from None
    return int(number) if number.is_integer() else number


def _check_comparison(config: dict) -> None:
    compared = config["compare"]
    if compared.get("candidate") is None and not compared.get("candidates"):
        raise FlopsFitError(
            "compare: no candidate; allowed: candidate, candidates, or both, beside reference"
        )


CHECKS = {
    "compare": _check_comparison,
    "runs": lambda config: None,
    "trainer": _check_script,
    "model": _check_plugins,
}


def _check_confirm(config: dict) -> None:
    if config.get("confirm") is None:
        return
    sizes: list = next(iter(config["sizes"].get("per_budget", {}).values()), [])
    seeds = seeds_at(config.get("seeds", [0]), config["budgets"][-1])
    if len(config["budgets"]) != 1 or len(sizes) != 1 or len(seeds) != 1:
        raise FlopsFitError(
            "confirm: the config must describe a single run; allowed: one budget, one size under "
            "sizes.per_budget and one seed, as flops-fit confirm writes them"
        )
