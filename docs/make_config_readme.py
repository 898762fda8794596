"""Write config/README.md from the schema; a test holds that the two agree."""

import json
from pathlib import Path

from flops_fit.config.schema import schema

HEAD = """# Config

A config states *what* is studied; *where* it runs (partitions, GPUs, retries) belongs in a profile.
Run one with `snakemake --cores all --configfile config/NAME.yaml`; without `--configfile`,
`config/config.yaml` is used. Keys can be overridden with `--config name=value`. Unknown keys, wrong
types and values out of range are refused before anything runs; the message names the key and what
is allowed. Numbers may be written as `1e12` or `1.0e+12`. Relative paths are looked up in the
working directory first, then in the checkout.

| file | what |
|---|---|
| `config.yaml` | the demo: 25 runs of a small GPT on real text; takes minutes on two cores |
| `standard.yaml` | the same model and text with five budgets and two seeds; half an hour on two cores |
| `standard_trunk.yaml` | the standard sweep with a trunk for each size, whose steps are trained once |
| `gpu.yaml` | a starting point for GPUs: subword tokens, bf16, budgets from 1e17 to 1e19 FLOPs |
| `smoke.yaml` | for tests: runs every step once, in seconds |
| `lr.yaml` | a grid of learning rates, to which a rule of N and D is fitted |
| `vit.yaml` | a vision transformer on Fashion-MNIST, with D in images; its law is provisional |
| `runs.yaml` | a table of existing runs: fit, figures and report without training |
| `compare.yaml` | two sweeps, `muon.yaml` and `adamw.yaml`, and their comparison at matched compute |

Changes under `resources`, `fit`, `answer` and `plot` never retrain a run.

## Keys

| key | type | default | meaning |
|---|---|---|---|
"""

RULE = """
## Rules

`batch`, `learning_rate` and `weight_decay` are rules: {description}

| key | type | meaning |
|---|---|---|
"""


def rows(part: dict, prefix: str = "") -> list[str]:
    lines = []
    for key, child in part.get("properties", {}).items():
        name = f"{prefix}{key}"
        default = child.get("default")
        shown = "" if "default" not in child or default == {} else f"`{json.dumps(default)}`"
        text = child.get("description", "") + short_form(key, child)
        lines.append(f"| `{name}` | {kind(child)} | {shown} | {text} |")
        lines += rows(child, f"{name}.")
        if isinstance(named := child.get("additionalProperties"), dict):
            lines += rows(named, f"{name}.NAME.")
    return lines


SHORT = {"list": "[{}]", "count": "[0, 1, 2]"}
VALUES = {  # examples of values, where they are no import paths
    "budgets": "1e18",
    "seeds": "3",
    "sizes": "[64, 96, 128]",
    "schedule": "linear",
    "batch": "32768",
    "learning_rate": "0.01",
    "weight_decay": "0.1",
    "unique_fraction": "0.1",
    "trainer": "train.py",
}


def short_form(key: str, part: dict) -> str:
    """The sentence on what may be written instead of the section ``part`` of the name ``key``."""
    if "$ref" in part:
        part = {**schema()["$defs"][part["$ref"].rsplit("/", 1)[1]], **part}
    name = part.get("shorthand")
    if name is None:
        return ""
    value = VALUES.get(key, f"my_project:my_{key}")
    full = SHORT.get(name, f"{{{{{name}: {{}}}}}}").format(value)
    return f" Short form: `{key}: {value}` for `{key}: {full}`."


def default_of(part: dict) -> str:
    """The default of a key, as the end of its description; empty where it has none."""
    return f" Default: {part['default']}." if "default" in part else ""


def kind(part: dict) -> str:
    if "enum" in part:
        return " or ".join(f"`{value}`" for value in part["enum"])
    if "oneOf" in part:
        return " or ".join(f"`{o['const']}`" if "const" in o else o["type"] for o in part["oneOf"])
    if "$ref" in part:
        return part["$ref"].rsplit("/", 1)[1]
    kinds = part.get("type", "")
    return kinds if isinstance(kinds, str) else " or ".join(kinds)


def readme() -> str:
    """The whole text of config/README.md."""
    parts = schema()["$defs"]
    rule = parts["rule"]
    lines = [
        HEAD + "\n".join(rows(schema())),
        RULE.format(description=rule["description"]).rstrip(),
    ]
    for key, child in rule["properties"].items():
        lines.append(f"| `{key}` | {kind(child)} | {child['description']} |")
        part = parts.get(child.get("$ref", "").rpartition("/")[2], {})
        lines += [
            f"| `{key}.{name}` | {kind(sub)} | {sub['description']}{default_of(sub)} |"
            for name, sub in part.get("properties", {}).items()
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(__file__).parents[1].joinpath("config", "README.md").write_text(readme())
