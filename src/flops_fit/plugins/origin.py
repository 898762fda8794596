"""Whose code a file holds: ours, an installed distribution's, Python's own, or the user's."""

import os
from importlib import resources
from pathlib import Path

OWN_FOLDER = Path(str(resources.files("flops_fit")))
STANDARD_LIBRARY = Path(os.__file__).parent
INSTALLED = ("site-packages", "dist-packages")


def is_core(file: Path) -> bool:
    """Whether a file is ours; the examples are not: they are reached as a user's code would be."""
    return file.is_relative_to(OWN_FOLDER) and not file.is_relative_to(OWN_FOLDER / "examples")


def is_installed(file: Path) -> bool:
    """Whether a file came with another distribution or with Python."""
    if file.is_relative_to(OWN_FOLDER):
        return False
    return file.is_relative_to(STANDARD_LIBRARY) or any(part in INSTALLED for part in file.parts)
