"""Complete a config: text becomes numbers where those are wanted, and defaults are filled in."""

from typing import Any

from flops_fit.config.check import check_across_keys, check_plain, kind_of, validate
from flops_fit.config.schema import schema
from flops_fit.errors import FlopsFitError


def complete_config(raw: Any) -> dict:
    """Check ``raw`` against the schema and fill in its defaults; ``raw`` stays untouched.

    Text becomes a number or boolean where one is wanted: YAML 1.1 reads ``1e12`` as text, and so
    does Snakemake's command line with ``true``.
    """
    if not isinstance(raw, dict):
        raise FlopsFitError(f"a config is a mapping of keys, not {kind_of(raw)}")
    config = _convert(raw, schema())
    check_plain(config)
    validate(config)
    check_across_keys(config)
    return _convert(config, schema(), fill=True)


def check_section(name: str, value: Any) -> None:
    """Check what stands for the config's section ``name`` elsewhere, such as on a command line."""
    check_plain(value, name)
    validate({name: value}, {"properties": {name: schema()["properties"][name]}})


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
