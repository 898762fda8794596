"""Complete a config: convert text to numbers where the schema asks for them, fill in defaults."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from flops_fit.config.check import (
    MOST_VALUES,
    PLUGINS,
    check_across_keys,
    check_plain,
    check_size,
    kind_of_sweep,
    validate,
)
from flops_fit.config.schedule import keys_of_other_schedules
from flops_fit.config.schema import schema
from flops_fit.errors import FlopsFitError
from flops_fit.plugins.signature import only_required

SCIENTIFIC = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+")


def complete_config(raw: object, search_paths: Iterable[str] = (".",)) -> dict:
    """Check the config ``raw`` and return a copy of it with all defaults filled in.

    A size parameter that it leaves out is the only argument that the model requires; the model's
    source is looked for below ``search_paths``, and not imported. Text becomes a number or a boolean
    where the schema asks for one: YAML 1.1 reads ``1e12`` as text, and so does Snakemake's command
    line with ``true``. Raises `FlopsFitError` that names the key, its value and what is allowed.
    """
    if not isinstance(raw, dict):
        kind = "an empty file" if raw is None else f"a {type(raw).__name__}"
        raise FlopsFitError(f"{kind} is not a config; allowed: a mapping of keys")
    check_size(raw)
    config = _convert(raw, schema())
    check_plain(config)
    validate(config)
    if plans_alone(config):
        config["trainer"] = {}
    if kind_of_sweep(config) is PLUGINS:
        _name_size(config.get("model") or {}, search_paths)
    check_across_keys(config)
    refused = kind_of_sweep(config).refused
    config = _convert(config, schema(), fill=True)
    _spell_sizes(config.get("sizes", {}))
    schedule = config["schedule"]
    for key in keys_of_other_schedules(schedule["kind"]):  # defaults, which are no part of a run
        schedule.pop(key, None)
    return {key: value for key, value in config.items() if key not in refused}


def plans_alone(config: Mapping[str, Any]) -> bool:
    """Whether ``config`` asks for a plan alone: sizes are counted, and nothing is named that trains."""
    counted = config.get("counts") is not None or "example" in (config.get("model") or {})
    return counted and all(
        config.get(key) is None for key in ("trainer", "dataset", "runs", "compare")
    )


def _name_size(model: dict, search_paths: Iterable[str]) -> None:
    """Fill in ``size_param``, as if it were written, where ``model`` has only one candidate."""
    if "factory" in model and "size_param" not in model:
        given = model.get("kwargs", {})
        model["size_param"] = only_required(model["factory"], given, search_paths)


def _spell_sizes(sizes: dict) -> None:
    """Turn sizes into integers where all of them are whole: a layer's width cannot be 4.0."""
    lists = [sizes["values"]] if "values" in sizes else [*sizes.get("per_budget", {}).values()]
    if all(size.is_integer() for values in lists for size in values):
        for values in lists:
            values[:] = map(int, values)


def check_section(name: str, value: object) -> None:
    """Check ``value`` as the section ``name`` of a config, for input that is not from a config.

    Raises `FlopsFitError` that names the key.
    """
    check_plain(value, name)
    validate({name: value}, {"properties": {name: schema()["properties"][name]}})


def _resolve(part: dict) -> dict:
    if "$ref" in part:
        return {**schema()["$defs"][part["$ref"].rsplit("/", 1)[1]], **part}
    return part


def _write_out(value: Any, part: dict) -> Any:
    """Write out the short form of a section: ``learning_rate: 0.01`` means ``{value: 0.01}``.

    The schema names the key that is meant, for a value of that key's type. Anything else stays as it
    is, so that its error shows what the user wrote.
    """
    key = part.get("shorthand")
    number = _from_text(value, {"type": "number"}) if type(value) is str else value
    isnumber = type(number) in (int, float)
    if key == "list":
        return [value] if isnumber else value
    if key == "count":  # as many seeds, from 0 on
        return list(range(value)) if type(value) is int and 0 < value <= MOST_VALUES else value
    fits = {"string": type(value) is str, "number": isnumber, "array": type(value) is list}
    return {key: value} if key and fits[part["properties"][key]["type"]] else value


def _convert(value: Any, part: dict, fill: bool = False) -> Any:
    """Copy ``value``, turning numeric strings into numbers, and add defaults if ``fill`` is true."""
    part = _resolve(part)
    value = _write_out(value, part)
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
    if fill and isinstance(value, dict | list) and not {"properties", "items"} & part.keys():
        return _free(value)
    if isinstance(value, str):
        return _from_text(value, part)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number(value, _types(part), fill)
    if value is False and "no" in part.get("enum", ()):  # YAML 1.1 reads an unquoted no as false
        return "no"
    return value


def _types(part: dict) -> set[str]:
    kinds = part.get("type", [])
    types = {kinds} if isinstance(kinds, str) else set(kinds)
    return types.union(*(_types(option) for option in part.get("oneOf", ())))


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
        return _number(float(text), kinds)
    except ValueError:
        return text


def _number(value: int | float, kinds: set[str], checked: bool = False) -> int | float:
    """Return ``value`` as the type that its key has, because identities must not differ by 0 and 0.0.

    Whole numbers become floats only after they were ``checked``: errors show what the user wrote.
    """
    if "integer" in kinds:
        return int(value) if isinstance(value, float) and value.is_integer() else value
    return float(value) if checked and "number" in kinds else value


def _free(value: Any) -> Any:
    """Convert text such as ``1e-5`` to a number in the arguments of a plug-in, which have no schema.

    YAML 1.1 reads a number as text where its mantissa has no point. Integers and floats stay
    different here, because a plug-in can distinguish them.
    """
    if isinstance(value, dict):
        return {key: _free(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_free(child) for child in value]
    if isinstance(value, str) and SCIENTIFIC.fullmatch(value):
        return float(value)
    return value
