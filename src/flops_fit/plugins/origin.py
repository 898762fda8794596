"""Whose code a file holds: ours, an installed distribution's, Python's own, or the user's."""

import os
from importlib import resources
from pathlib import Path

OWN_FOLDER = Path(str(resources.files("flops_fit")))
STANDARD_LIBRARY = Path(os.__file__).parent
INSTALLED = ("site-packages", "dist-packages")
