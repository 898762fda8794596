"""Tell whose code a file holds: that of flops-fit, an installed package, Python, or the user."""

import json
import os
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path

OWN_FOLDER = Path(str(resources.files("flops_fit")))
STANDARD_LIBRARY = Path(os.__file__).parent
INSTALLED = ("site-packages", "dist-packages")
UNVERSIONED = {"torch", "numpy"}  # another version is the same experiment


@lru_cache(maxsize=4096)
def is_core(file: Path) -> bool:
    """Whether ``file`` is part of flops-fit; its examples are not, they count as a user's code."""
    return file.is_relative_to(OWN_FOLDER) and not file.is_relative_to(OWN_FOLDER / "examples")


@lru_cache(maxsize=4096)
def is_installed(file: Path) -> bool:
    """Whether ``file`` came with Python or with an installed package other than flops-fit."""
    if file.is_relative_to(OWN_FOLDER):
        return False
    return file.is_relative_to(STANDARD_LIBRARY) or any(part in INSTALLED for part in file.parts)


@cache
def is_library(file: str) -> bool:
    """Whether the code in ``file`` is identified by its name and version, not by its content.

    This is false for the user's code, for a package that was installed from a folder or a
    repository (it may change without a new version), and for code without a file, as in a notebook.
    """
    path = Path(file)
    if not path.is_absolute():
        return file.startswith("<frozen ")
    if path.is_relative_to(OWN_FOLDER):
        return is_core(path)
    for i, part in enumerate(path.parts):
        if part in INSTALLED:
            return Path(path.parts[i + 1]).stem not in copied_packages(Path(*path.parts[: i + 1]))
    return path.is_relative_to(STANDARD_LIBRARY)


@cache
def copied_packages(folder: Path) -> frozenset[str]:
    """Return the packages and modules in ``folder`` that came from a folder or a repository.

    Packages of conda do not count, although all of them are built in a folder.
    """
    names: set[str] = set()
    for origin in folder.glob("*.dist-info/direct_url.json"):
        try:
            if not {"dir_info", "vcs_info"} & json.loads(origin.read_text()).keys():
                continue
            files = (origin.parent / "RECORD").read_text().splitlines()
            installer = origin.parent / "INSTALLER"
            if installer.exists() and installer.read_text().strip() == "conda":
                continue
        except (OSError, ValueError):
            continue
        names |= {Path(line.split(",")[0].split("/")[0]).stem for line in files if ".py," in line}
    return frozenset(names)


@cache
def is_user_code(filename: str) -> bool:
    """Whether the code of a stack frame is the user's; ``filename`` is the file that it names.

    The examples count as the user's code. A generated file name such as ``<string>`` does not.
    """
    path = Path(filename)
    if filename.startswith("<") or any(part in INSTALLED for part in path.parts):
        return False
    return not is_core(path) and not path.is_relative_to(STANDARD_LIBRARY)
