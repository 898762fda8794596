"""Read a config file: YAML without repeated keys, which is then completed and checked."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from flops_fit.config.check import COMPARISON, kind_of_sweep
from flops_fit.config.complete import complete_config
from flops_fit.errors import FlopsFitError


def load_config(path: str | Path, search_paths: Iterable[str] = (".",)) -> dict:
    """Read, check and complete the config file ``path``, and return the config.

    The model may be looked for below ``search_paths``, as `complete_config` does. Raises
    `FlopsFitError` that names the file, the key, its value and what is allowed, also for the config of
    a comparison, which is no sweep.
    """
    config = _load(path, search_paths)
    if kind_of_sweep(config) is COMPARISON:
        raise FlopsFitError(
            f"{path}: compare: a comparison is no sweep; allowed: the config of one of its arms here, "
            "and `snakemake --configfile` for the comparison"
        )
    return config


def load_comparison(path: str | Path) -> dict:
    """Read, check and complete the config file ``path`` of a comparison, and return the config.

    Raises `FlopsFitError` as `load_config` does, and for the config of a sweep.
    """
    config = _load(path)
    if kind_of_sweep(config) is not COMPARISON:
        raise FlopsFitError(f"{path}: compare: missing; allowed: the config of a comparison")
    return config


def _load(path: str | Path, search_paths: Iterable[str] = (".",)) -> dict:
    try:
        raw = _read_yaml(Path(path).read_text())
    except FileNotFoundError:
        raise FlopsFitError(f"{path}: no such config file") from None
    except IsADirectoryError:
        raise FlopsFitError(f"{path}: a folder, not a config file") from None
    except OSError as error:
        raise FlopsFitError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a month 13
        reason = " ".join(str(error).split())
        raise FlopsFitError(f"{path}: not valid YAML: {reason}") from None
    except FlopsFitError as error:
        raise FlopsFitError(f"{path}: {error}") from None
    try:
        return complete_config(raw, search_paths)
    except FlopsFitError as error:
        raise FlopsFitError(f"{path}: {error}") from None


def check_keys_once(paths: Iterable[str | Path]) -> None:
    """Refuse config files in which a key is given twice; other loaders keep the last value.

    ``paths`` are the files. Another loader reads them too and reports all other errors. Raises
    `FlopsFitError` that names the file, the key and its lines.
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


def _check_keys_once(node: yaml.Node, prefix: str, seen: set[int]) -> None:
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for number, child in enumerate(node.value):
            _check_keys_once(child, f"{prefix}{number}.", seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[tuple, int] = {}
        for key, child in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            shown = name if name.isprintable() else repr(name)
            if (key.tag, name) in lines:
                raise FlopsFitError(
                    f"{prefix}{shown}: given twice, on lines {lines[key.tag, name]} and {line}; "
                    "allowed: each key once"
                )
            lines[key.tag, name] = line
            _check_keys_once(child, f"{prefix}{shown}.", seen)
