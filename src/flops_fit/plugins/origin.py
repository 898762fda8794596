"""Whose code a file holds: ours, an installed distribution's, Python's own, or the user's."""

import json
import os
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path

OWN_FOLDER = Path(str(resources.files("flops_fit")))
STANDARD_LIBRARY = Path(os.__file__).parent
INSTALLED = ("site-packages", "dist-packages")


@lru_cache(maxsize=4096)
def is_core(file: Path) -> bool:
    """Whether a file is ours; the examples are not: they are reached as a user's code would be."""
    return file.is_relative_to(OWN_FOLDER) and not file.is_relative_to(OWN_FOLDER / "examples")


@lru_cache(maxsize=4096)
def is_installed(file: Path) -> bool:
    """Whether a file came with another distribution or with Python."""
    if file.is_relative_to(OWN_FOLDER):
        return False
    return file.is_relative_to(STANDARD_LIBRARY) or any(part in INSTALLED for part in file.parts)


@cache
def is_library(file: str) -> bool:
    """Whether the code in ``file`` is known by name and version, and not by its content.

    The user's own is not: nor is a package that was installed from a folder or a repository, which
    changes without a new version, nor code without a file, as in a notebook.
    """
    path = Path(file)
    if not path.is_absolute():
        return file.startswith("<frozen ")
    if path.is_relative_to(OWN_FOLDER):
        return is_core(path)
    for i, part in enumerate(path.parts):
        if part in INSTALLED:
            return Path(path.parts[i + 1]).stem not in _copied_packages(Path(*path.parts[: i + 1]))
    return path.is_relative_to(STANDARD_LIBRARY)


@cache
def _copied_packages(folder: Path) -> frozenset[str]:
    """Top-level names below ``folder`` that were installed from a folder or a repository."""
    names: set[str] = set()
    for origin in folder.glob("*.dist-info/direct_url.json"):
        try:
            if not {"dir_info", "vcs_info"} & json.loads(origin.read_text()).keys():
                continue
            files = (origin.parent / "RECORD").read_text().splitlines()
        except (OSError, ValueError):
            continue
        names |= {Path(line.split(",")[0].split("/")[0]).stem for line in files if ".py," in line}
    return frozenset(names)
