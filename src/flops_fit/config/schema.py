"""The schema of a config, which alone defines its keys, their defaults and their descriptions."""

import functools
from importlib import resources

import yaml


@functools.cache
def schema() -> dict:
    """Return the JSON schema of a config."""
    text = resources.files("flops_fit.config").joinpath("config.schema.yaml").read_text()
    # the C loader is 10 times faster, but not every build of PyYAML has it
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(text, loader)
