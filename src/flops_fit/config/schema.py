"""The schema of a config: the only place where keys, defaults and descriptions stand."""

import functools
from importlib import resources

import yaml


@functools.cache
def schema() -> dict:
    """The JSON schema of a config."""
    text = resources.files("flops_fit.config").joinpath("config.schema.yaml").read_text()
    loader = getattr(
        yaml, "CSafeLoader", yaml.SafeLoader
    )  # in C where there is one: 10 times faster
    return yaml.load(text, loader)
