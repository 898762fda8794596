"""The arms of a comparison: which sweeps its config names, and what each of them is called."""

from collections.abc import Iterable
from pathlib import Path

from flops_fit.config.complete import complete_config
from flops_fit.config.factors import tunes_rate
from flops_fit.config.load import load_config
from flops_fit.errors import FlopsFitError
from flops_fit.plugins.data_files import find_path

CONFIGS = (".yaml", ".yml")  # other files are tables of runs


def arm_configs(config: dict, search_paths: Iterable[str]) -> dict[str, dict]:
    """The name of each arm of the comparison ``config``, the reference first, and its complete config.

    An arm is called as its sweep, or as ``candidates`` says. Files are looked for in the working
    directory, then below ``search_paths``. Raises `FlopsFitError` that names the key for a file that
    is missing, an arm that has no law of its own, and for two arms or sweeps of one name.
    """
    compared, paths = config["compare"], list(search_paths)
    named = {key: compared[key] for key in ("reference", "candidate") if compared[key] is not None}
    arms: dict[str, dict] = {}
    keys = {config["name"]: "name"}  # name of a sweep -> the key that has it
    for key, file in [*named.items(), *compared["candidates"].items()]:
        place = f"compare.{key}" if key in named else f"compare.candidates.{key}"
        arm = _read(file, f"{config['name']}-{key}", place, paths)
        if config["accept_failures"] and arm["runs"] is None:
            arm["accept_failures"] = True
        label = arm["name"] if key in named else key
        if arm["name"] in keys or label in arms:
            other = keys.get(arm["name"], "an arm before it")
            raise FlopsFitError(
                f"{place}: {file!r} is the sweep {arm['name']!r}, called {label!r}, and so is {other}; "
                "allowed: a different name in each config, and for each arm"
            )
        keys[arm["name"]], arms[label] = place, arm
    return arms


def _read(file: str, name: str, place: str, search_paths: list[str]) -> dict:
    """The config of one arm; a table of runs gets one with the ``name``."""
    path = find_path(file, search_paths)
    if path is None:
        raise FlopsFitError(
            f"{place}: {file!r} does not exist; allowed: the config (.yaml) of a sweep, or a table of "
            "runs"
        )
    if Path(file).suffix not in CONFIGS:
        return complete_config({"name": name, "runs": file})
    try:
        arm = load_config(path)
    except FlopsFitError as error:
        raise FlopsFitError(f"{place}: {error}") from None
    if tunes_rate(arm) or arm["confirm"] is not None:
        raise FlopsFitError(
            f"{place}: {file!r} fits no law, because it tunes the learning rate or has confirm; "
            "allowed: a sweep with one learning rate for each cell"
        )
    return arm
