"""From the section ``trainer`` of a config to what identifies a script, and to how a job starts it."""

import os
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.placeholders import check_placeholders, has_placeholder
from flops_fit.experiment.script_recipe import ACCELERATE, NO_LAUNCHER, ScriptProgram
from flops_fit.plugins.data_files import find_path
from flops_fit.plugins.origin import is_installed
from flops_fit.plugins.uses import Uses, name_of, named_files, roots_of, script_uses, static_uses

# What only places processes, in a config file of accelerate: the job sets it, and it decides nothing.
PLACEMENT = (
    "compute_environment",
    "debug",
    "distributed_type",
    "enable_cpu_affinity",
    "gpu_ids",
    "machine_rank",
    "num_machines",
    "num_processes",
    "same_network",
    "use_cpu",
)
COMMON_PROGRAMS = (
    "accelerate",
    "bash",
    "env",
    "make",
    "mpirun",
    "python",
    "sh",
    "srun",
    "torchrun",
)
PLACEMENT_PREFIXES = ("main_process_", "rdzv", "tpu_")


def line_of(trainer: Mapping[str, Any]) -> list[str]:
    """The script or the command of the section ``trainer``, with its arguments, as given.

    Empty where there is neither, and runs are planned alone.
    """
    script = [trainer["script"]] if trainer.get("script") is not None else []
    return [str(word) for word in (*(trainer.get("command") or script), *trainer["arguments"])]


def portable_line(trainer: Mapping[str, Any]) -> list[str]:
    """The line of the section ``trainer`` without the folders of this machine."""
    return [_portable(word) for word in line_of(trainer)]


def script_program(trainer: Mapping[str, Any], search_paths: Iterable[str]) -> ScriptProgram:
    """How the program of the section ``trainer`` is started, without what differs between machines.

    Files are looked for below ``search_paths``. Raises `FlopsFitError` for a placeholder that nothing
    fills, a file that is missing, and a config of accelerate that bypasses the job.
    """
    paths, line = tuple(search_paths), line_of(trainer)
    by_accelerate = trainer.get("script") is not None
    if by_accelerate:
        script_file(trainer, paths)
    content = accelerate_content(trainer, paths)
    return ScriptProgram(
        name=_name(line, paths),
        launcher=ACCELERATE if by_accelerate else NO_LAUNCHER,
        line=portable_line(trainer),
        tokens_per_item=trainer["tokens_per_item"],
        accelerate=None if content is None else _deciding(content),
    )


def script_file(trainer: Mapping[str, Any], search_paths: Iterable[str]) -> Path:
    """The script of the section ``trainer``, looked for below ``search_paths``.

    Raises `FlopsFitError` where it is missing.
    """
    return _existing("trainer.script", trainer["script"], search_paths)


def accelerate_content(
    trainer: Mapping[str, Any], search_paths: Iterable[str]
) -> dict[str, Any] | None:
    """The whole config of accelerate that the section ``trainer`` names; None where it names none.

    It is looked for below ``search_paths``. Raises `FlopsFitError` for a file that is no such config,
    or that would start processes outside of the job.
    """
    if trainer.get("accelerate") is None:
        return None
    path = _existing("trainer.accelerate", trainer["accelerate"], search_paths)
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise FlopsFitError(f"{path}: cannot be read ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise FlopsFitError(f"{path}: no mapping; allowed: a config file of accelerate")
    launcher = (content.get("deepspeed_config") or {}).get("deepspeed_multinode_launcher")
    if launcher not in (None, "standard"):
        raise FlopsFitError(
            f"{path}: deepspeed_multinode_launcher: {launcher}, which starts processes that no lock "
            "and no signal of the job reaches; allowed: standard"
        )
    where = content.get("compute_environment", "LOCAL_MACHINE")
    if where != "LOCAL_MACHINE":
        raise FlopsFitError(f"{path}: compute_environment: {where}; allowed: LOCAL_MACHINE")
    return content


def script_sources(trainer: Mapping[str, Any], search_paths: Iterable[str]) -> Uses:
    """The code and the files that decide what the program of the section ``trainer`` computes.

    That is the script with the local modules that it imports, the ``sources``, and files that its
    arguments name; all are looked for below ``search_paths``. Raises `FlopsFitError` where a source
    is missing.
    """
    paths, line = tuple(search_paths), line_of(trainer)
    uses = Uses()
    given = [part for word in line for part in _words(word)]
    for before, word in zip(["", *given], given, strict=False):
        path = None if has_placeholder(word) else find_path(word, paths)
        if path is not None and (path / "__main__.py").is_file():  # Python runs a folder so
            path = path / "__main__.py"
        if before == "-m":
            uses |= static_uses([word, f"{word}.__main__"], paths)
        elif path is not None and path.is_file() and path.suffix == ".py":
            uses |= script_uses(path, paths)
    if given and find_path(given[0], paths) is None:
        uses |= static_uses(_entry_points(given[0]), paths)
    texts = [part for word in given if not has_placeholder(word) for part in (word, _value(word))]
    named = named_files([texts, accelerate_content(trainer, paths)], paths)
    files = {path for path in map(Path, named.values()) if not _is_interpreter(path, paths)}
    files |= {_existing("trainer.sources", source, paths) for source in trainer["sources"]}
    roots = roots_of(paths)
    for path in sorted(file.absolute() for file in files):
        kind = "code" if path.suffix == ".py" and path.is_file() else "files"
        uses |= Uses.one(kind, name_of(path, roots), str(path))
    return uses


def launching(
    trainer: Mapping[str, Any], search_paths: Iterable[str], names: Iterable[str]
) -> dict[str, Any]:
    """What a job needs to start the program of the section ``trainer``, as specs hold it.

    Files are looked for below ``search_paths``; ``names`` are those of ``model.size_map``. Raises
    `FlopsFitError` for a placeholder that nothing fills.
    """
    line = line_of(trainer)
    check_placeholders("trainer.arguments", line, names)
    if trainer.get("script") is not None:
        line[0] = str(script_file(trainer, search_paths).absolute())
    return {
        "line": line,
        "accelerate": accelerate_content(trainer, search_paths),
        "trial": trainer["trial"],
    }


def _deciding(content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in content.items()
        if key not in PLACEMENT and not key.startswith(PLACEMENT_PREFIXES)
    }


def _existing(key: str, name: str, search_paths: Iterable[str]) -> Path:
    path = find_path(name, search_paths) if name else None
    if path is None:
        raise FlopsFitError(
            f"{key}: {name!r} does not exist below {os.getcwd()}; allowed: an existing file"
            + (" or folder" if key.endswith("sources") else "")
        )
    return path


def _name(line: list[str], paths: tuple[str, ...]) -> str:
    """The stem of the script: the first Python file or module, else the program.

    Where there is neither, runs are ``planned``.
    """
    for before, word in zip(["", *line], line, strict=False):
        if before == "-m":
            return word.rsplit(".", 1)[-1].lower()
        if word.endswith(".py"):
            return Path(word).stem.lower()
    return Path(line[0]).stem.lower() if line else "planned"


def _portable(word: str) -> str:
    """``word`` without the folders of this machine."""
    before, equals, value = word.rpartition("=")
    return f"{before}{equals}{os.path.basename(value)}" if os.path.isabs(value) else word


def _words(word: str) -> list[str]:
    """The words of an argument that is itself a command line, such as that of ``bash -c``."""
    if " " not in word.strip():
        return [word]
    try:
        return [word, *shlex.split(word)]
    except ValueError:  # a quotation that does not end
        return [word]


def _entry_points(program: str) -> list[str]:
    """The functions that installed packages offer as the command ``program``."""
    if program in COMMON_PROGRAMS or os.path.isabs(program):
        return []
    from importlib import metadata  # slow to import, and rarely needed

    return [point.value for point in metadata.entry_points(group="console_scripts", name=program)]


def _value(word: str) -> str:
    """What follows the first = in ``--option=value``."""
    return word.partition("=")[2]


def _is_interpreter(path: Path, paths: tuple[str, ...]) -> bool:
    """Whether ``path`` is a program of this machine, such as its Python, and not of the project."""
    inside = any(path.absolute().is_relative_to(Path(root).absolute()) for root in paths)
    prefix = path.absolute().is_relative_to(sys.prefix) or is_installed(path)
    return prefix or (not inside and os.access(path, os.X_OK) and path.parent.name == "bin")
