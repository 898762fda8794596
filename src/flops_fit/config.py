"""Read a sweep's config: numbers, defaults, and a closed schema with readable errors.

The schema (`workflow/schemas/config.schema.yaml`) is the only place where keys, defaults and
descriptions stand.
"""

import difflib
import functools
import sys
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from flops_fit.errors import FlopsFitError

LARGEST = sys.float_info.max
DEEPEST = 50
TRAINING_KEYS = ("model", "dataset", "budgets", "sizes")


@functools.cache
def schema() -> dict:
    """The JSON schema of a config."""
    text = resources.files("flops_fit").joinpath("config.schema.yaml").read_text()
    loader = getattr(
        yaml, "CSafeLoader", yaml.SafeLoader
    )  # in C where there is one: 10 times faster
    return yaml.load(text, loader)


def load_config(path: str | Path) -> dict:
    """Read, complete and check the config file ``path``.

    Raises `FlopsFitError` naming the file, the key, the value and what is allowed.
    """
    try:
        raw = _read_yaml(Path(path).read_text())
    except FileNotFoundError:
        raise FlopsFitError(f"{path}: no such config file") from None
    except IsADirectoryError:
        raise FlopsFitError(f"{path}: a folder, not a config file") from None
    except OSError as error:
        raise FlopsFitError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a 13th month
        reason = " ".join(str(error).split())
        raise FlopsFitError(f"{path}: not valid YAML: {reason}") from None
    except FlopsFitError as error:
        raise FlopsFitError(f"{path}: {error}") from None
    try:
        return complete_config(raw)
    except FlopsFitError as error:
        raise FlopsFitError(f"{path}: {error}") from None


def check_keys_once(paths: Iterable[str | Path]) -> None:
    """Refuse a key given twice in config files that another loader has read, keeping the last value.

    Whatever else may be wrong with a file is that loader's to say.
    """
    for path in paths:
        try:
            _read_yaml(Path(path).read_text())
        except FlopsFitError as error:
            raise FlopsFitError(f"{path}: {error}") from None
        except (OSError, yaml.YAMLError, ValueError, RecursionError):
            continue


def _read_yaml(text: str) -> Any:
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _check_keys_once(root, "", set())
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _check_keys_once(node: yaml.Node, place: str, seen: set[int]) -> None:
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for number, child in enumerate(node.value):
            _check_keys_once(child, f"{place}{number}.", seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[tuple, int] = {}
        for key, child in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            shown = name if name.isprintable() else repr(name)
            if (key.tag, name) in lines:
                raise FlopsFitError(
                    f"{place}{shown}: given twice, on lines {lines[key.tag, name]} and {line}; "
                    "allowed: each key once"
                )
            lines[key.tag, name] = line
            _check_keys_once(child, f"{place}{shown}.", seen)


def complete_config(raw: Any) -> dict:
    """Check ``raw`` against the schema and fill in its defaults; ``raw`` stays untouched.

    Text becomes a number or boolean where one is wanted: YAML 1.1 reads ``1e12`` as text, and so
    does Snakemake's command line with ``true``.
    """
    if not isinstance(raw, dict):
        raise FlopsFitError(f"a config is a mapping of keys, not {_kind(raw)}")
    config = _convert(raw, schema())
    _check_plain(config)
    _validate(config)
    _check_across_keys(config)
    return _convert(config, schema(), fill=True)


def check_section(name: str, value: Any) -> None:
    """Check what stands for the config's section ``name`` elsewhere, such as on a command line."""
    _check_plain(value, name)
    _validate({name: value}, {"properties": {name: schema()["properties"][name]}})


def _resolve(part: dict) -> dict:
    if "$ref" in part:
        return {**schema()["$defs"][part["$ref"].rsplit("/", 1)[1]], **part}
    return part


def _convert(value: Any, part: dict, fill: bool = False) -> Any:
    """Copy ``value``, turning numeric strings into numbers and, if asked, adding defaults."""
    part = _resolve(part)
    if isinstance(value, dict) and "properties" in part:
        known = part["properties"]
        result = {k: _convert(v, known.get(k, {}), fill) for k, v in value.items()}
        for key, child in known.items() if fill else ():
            child = _resolve(child)
            if key not in result and "default" in child:
                result[key] = _convert(child["default"], child, fill)
        return result
    if isinstance(value, dict) and isinstance(part.get("additionalProperties"), dict):
        return {k: _convert(v, part["additionalProperties"], fill) for k, v in value.items()}
    if isinstance(value, list) and "items" in part:
        return [_convert(v, part["items"], fill) for v in value]
    if isinstance(value, str):
        return _from_text(value, part)
    if isinstance(value, float) and "integer" in _types(part) and value.is_integer():
        return int(value)
    if value is False and "no" in part.get("enum", ()):  # YAML 1.1 reads the word no as false
        return "no"
    return value


def _check_plain(value: Any, key: str = "", depth: int = 0) -> None:
    """Refuse what no JSON file or hash can hold; YAML has dates, sets, NaN and loops as well."""
    if depth > DEEPEST:
        raise FlopsFitError(f"{key[:80]}...: nested too deep; allowed: {DEEPEST} levels")
    match value:
        case dict():
            for name, child in value.items():
                if not isinstance(name, str) and key not in ("", "sizes.per_budget"):
                    raise FlopsFitError(f"{key}: the key {name!r} is not allowed; allowed: text")
                if isinstance(name, str) and not name.isprintable():
                    raise FlopsFitError(
                        f"{key or 'config'}: the key {name!r} is not allowed; allowed: printable text"
                    )
                _check_plain(child, f"{key}.{name}" if key else str(name), depth + 1)
        case list():
            for place, child in enumerate(value):
                _check_plain(child, f"{key}.{place}", depth + 1)
        case str():
            if not _is_unicode(value):
                raise FlopsFitError(f"{key}: {_show(value)} is not allowed; allowed: Unicode text")
        case int() | float():
            if not -LARGEST <= value <= LARGEST:
                raise FlopsFitError(
                    f"{key}: {_show(value)} is not allowed; allowed: finite numbers"
                )
        case None:
            pass
        case _:
            raise FlopsFitError(
                f"{key}: {_show(value)} is not allowed; allowed: numbers, text, true, false, null, "
                "lists and mappings of them (a date or a tag needs quotes to be text)"
            )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _types(part: dict) -> set[str]:
    kinds = part.get("type", [])
    own = {kinds} if isinstance(kinds, str) else set(kinds)
    return own.union(*(_types(option) for option in part.get("oneOf", ())))


def _from_text(text: str, part: dict) -> Any:
    kinds = _types(part)
    if kinds == {"boolean"}:  # --config accept_failures=true arrives as text
        return {"true": True, "false": False}.get(text.lower(), text)
    if "string" in kinds or not kinds & {"integer", "number"}:
        return text
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if "integer" in kinds and value.is_integer() else value


def _validate(config: dict, part: dict | None = None) -> None:
    import jsonschema

    errors = list(jsonschema.Draft202012Validator(part or schema()).iter_errors(config))
    if errors:
        raise FlopsFitError("; ".join(sorted({_explain(e) for e in errors})))


def _explain(error) -> str:
    key = ".".join(str(part) for part in error.absolute_path) or "config"
    if error.validator == "additionalProperties":
        allowed = sorted(error.schema["properties"])
        unknown = sorted(set(map(str, error.instance)) - set(allowed))
        prefix = "" if key == "config" else f"{key}."
        return "; ".join(_unknown_key(prefix, name, allowed) for name in unknown)
    if error.validator == "required":
        missing = sorted(set(error.validator_value) - set(error.instance))
        prefix = "" if key == "config" else f"{key}."
        return "; ".join(f"{prefix}{name}: missing, and has no default" for name in missing)
    return f"{key}: {_show(error.instance)} is not allowed; {_allowed(error)}"


def _unknown_key(prefix: str, name: str, allowed: list[str]) -> str:
    close = difflib.get_close_matches(name, allowed, n=1)
    hint = f"did you mean {prefix}{close[0]}?" if close else f"allowed here: {', '.join(allowed)}"
    return f"{prefix}{name}: unknown key; {hint}"


def _allowed(error) -> str:
    value = error.validator_value
    match error.validator:
        case "type":
            kinds = [value] if isinstance(value, str) else value
            return f"allowed: {' or '.join(kinds)}"
        case "enum":
            return f"allowed: {', '.join(map(str, value))}"
        case "oneOf":
            return f"allowed: {' or '.join(str(o.get('const', o.get('type'))) for o in value)}"
        case "minimum":
            return f"allowed: {value} or more"
        case "maximum":
            return f"allowed: {value} or less"
        case "exclusiveMinimum":
            return f"allowed: more than {value}"
        case "exclusiveMaximum":
            return f"allowed: less than {value}"
        case "minItems":
            return f"allowed: at least {value} entries"
        case "maxItems":
            return f"allowed: at most {value} entries"
        case "uniqueItems":
            return "allowed: each entry once"
        case "pattern":
            return "allowed: letters, digits, dot, dash and underscore, first a letter or digit"
    return error.message


def _check_across_keys(config: dict) -> None:
    if config.get("runs") is not None:
        given = [key for key in TRAINING_KEYS if key in config]
        if given:
            raise FlopsFitError(
                f"{given[0]}: not used together with runs, which trains nothing; remove one of them"
            )
        return
    for key in TRAINING_KEYS:
        if key not in config:
            raise FlopsFitError(f"{key}: missing, and has no default")
    _check_sizes(config)
    _check_confirm(config)
    for key in ("batch", "learning_rate"):
        _check_rule(key, config.get(key, {"value": 1}))
    dataset = config["dataset"]
    if dataset.get("prepare") and not dataset.get("example"):
        raise FlopsFitError(
            "dataset.example: missing; where dataset.prepare is set, the plan needs the import "
            "path of a callable that returns one (inputs, targets) item"
        )


def _check_sizes(config: dict) -> None:
    sizes, budgets = config["sizes"], config["budgets"]
    repeated = {b for b in budgets if budgets.count(b) > 1}
    if repeated:
        raise FlopsFitError(f"budgets: {min(repeated):g} stands twice; allowed: each budget once")
    if len(sizes) != 1:
        raise FlopsFitError(
            f"sizes: {_show(sorted(sizes))} given; "
            "allowed: exactly one of values, per_budget, window"
        )
    if "per_budget" not in sizes:
        return
    keys = {_budget_key(key): values for key, values in sizes["per_budget"].items()}
    if len(keys) < len(sizes["per_budget"]):  # such as 1e6 and 1000000
        raise FlopsFitError(
            f"sizes.per_budget: {_show(list(sizes['per_budget']))} name a budget twice; allowed: "
            "each budget once"
        )
    for budget in budgets:
        if budget not in keys:
            raise FlopsFitError(f"sizes.per_budget: budget {budget:g} has no list of sizes")
    for key in keys:
        if key not in budgets:
            allowed = ", ".join(f"{b:g}" for b in budgets)
            raise FlopsFitError(f"sizes.per_budget.{key:g}: not a budget; allowed: {allowed}")
    sizes["per_budget"] = keys


def _check_confirm(config: dict) -> None:
    if config.get("confirm") is None:
        return
    sizes = next(iter(config["sizes"].get("per_budget", {}).values()), [])
    if len(config["budgets"]) != 1 or len(sizes) != 1 or len(config.get("seeds", [0])) != 1:
        raise FlopsFitError(
            "confirm: stands for one run; allowed: one budget, one size under sizes.per_budget and "
            "one seed, as flops-fit confirm writes them"
        )


def _budget_key(key: Any) -> float:
    try:
        return float(key)
    except (TypeError, ValueError):
        raise FlopsFitError(f"sizes.per_budget.{key}: not a number; allowed: the budgets") from None


def _check_rule(key: str, rule: dict) -> None:
    sources = [name for name in ("value", "function", "file") if name in rule]
    if len(sources) != 1:
        raise FlopsFitError(
            f"{key}: {_show(sorted(rule))} given; allowed: exactly one of value, function, file"
        )


def _kind(value: Any) -> str:
    return "an empty file" if value is None else f"a {type(value).__name__}"


def _show(value: Any, limit: int = 80) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        text = f"an integer of {value.bit_length()} bits"
    return text if len(text) <= limit else text[: limit - 3] + "..."
