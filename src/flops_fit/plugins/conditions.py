"""What code depends on that no identity follows: compared at each start, and said where it differs.

An experiment is the same one whatever the value of an environment variable, the version of a library
or the names in a folder that the code lists, because these differ between machines for reasons that
change no result. So they are kept as they were when runs were first planned, and a later start
of the workflow that finds another state says so.
"""

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from flops_fit.plugins.code import imports_of
from flops_fit.plugins.origin import INSTALLED
from flops_fit.plugins.uses import owners_of, roots_of
from flops_fit.plugins.watch import Watch, is_watched_code

PRECISION = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")  # read by libraries
OF_MACHINES = (
    "CUDA_",
    "HF_",
    "HOME",
    "HOST",
    "LOCAL_",
    "MASTER_",
    "NCCL_",
    "OMP_",
    "PATH",
    "PWD",
    "PYTHON",
    "RANK",
    "SLURM_",
    "TMP",
    "USER",
    "WANDB_",
    "WORLD_SIZE",
    "XDG_",
)  # variables that begin so differ between machines and jobs, and decide no result
MOST_VARIABLES = 30  # code that reads more of them copies the whole environment
MOST_FOLDERS = 1000
NO_DATA = (".lock", ".log", ".pyc", ".tmp")


@dataclass(frozen=True)
class Conditions:
    """The state of what code depends on and no identity follows.

    ``variables`` holds the hash of each environment variable that the code reads (None: not set),
    ``folders`` that of the names in each folder that it lists, ``packages`` the version of each
    distribution that it imports. ``unfollowed`` are sentences on what cannot even be compared.
    """

    variables: Mapping[str, str | None] = field(default_factory=dict)
    folders: Mapping[str, str] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    unfollowed: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the conditions as plain data for a JSON file."""
        return asdict(self)

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> "Conditions":
        """Return the conditions that `to_dict` wrote as ``value``."""
        return Conditions(
            dict(value["variables"]),
            dict(value["folders"]),
            dict(value["packages"]),
            tuple(value["unfollowed"]),
        )

    def since(self, then: "Conditions") -> "Conditions":
        """Return these conditions, with the earlier state where ``then`` has the same names.

        Folders are those of now: where one changed, the plan was made again.
        """
        return Conditions(
            {**self.variables, **then.variables},
            self.folders,
            {**self.packages, **then.packages},
            self.unfollowed,
        )

    def changed_folders(self, search_paths: Iterable[str]) -> list[str]:
        """Return the folders, looked for below ``search_paths``, that hold files of other names now."""
        roots = roots_of(search_paths)
        return [
            name for name, digest in self.folders.items() if _names_digest(name, roots) != digest
        ]

    def changes(self) -> list[str]:
        """Return a clause for each variable and each package that is another one now."""
        clauses = [
            f"the environment variable {name}, which the code reads, has another value"
            for name, digest in self.variables.items()
            if _value_digest(name) != digest
        ]
        for name, version in self.packages.items():
            now = _version(name)
            if now != version:
                clauses.append(f"{name} {version} is now {now}")
        return clauses


def conditions_of(
    code: Iterable[str | Path],
    watch: Watch,
    variables: Iterable[str],
    search_paths: Iterable[str],
    unfollowed: Iterable[str],
) -> Conditions:
    """Return the present conditions of the user's files ``code``, whose trial run ``watch`` watched.

    ``variables`` are the environment variables that the code reads, and ``unfollowed`` sentences on
    what cannot be compared. Folders are named relative to ``search_paths``.
    """
    roots = roots_of(search_paths)
    names = dict.fromkeys([*PRECISION, *variables])
    folders = _folders(watch, roots)
    return Conditions(
        {name: _value_digest(name) for name in names},
        {name: _names_digest(name, roots) for name in folders[:MOST_FOLDERS]},
        {name: _version(name) for name in _distributions(code)},
        tuple(unfollowed),
    )


def deciding_variables(names: Iterable[str]) -> list[str]:
    """Return those of the environment variables ``names`` that may decide a result."""
    kept = [name for name in dict.fromkeys(names) if not name.startswith(OF_MACHINES)]
    return kept if len(kept) <= MOST_VARIABLES else []


def _value_digest(name: str) -> str | None:
    value = os.environ.get(name)
    return None if value is None else hashlib.sha256(os.fsencode(value)).hexdigest()[:16]


def _folders(watch: Watch, roots: list[Path]) -> list[str]:
    """The folders that the user's code listed, by names relative to ``roots``.

    Of a root only the files count that have a suffix which was read there: ``./*.csv``.
    """
    names: dict[str, None] = {}
    for folder in map(Path, watch.listed_by_user()):
        root = next((root for root in roots if folder.is_relative_to(root)), None)
        name = str(folder if root is None else folder.relative_to(root))
        if any(top.is_relative_to(folder) for top in roots):
            read = {Path(path).suffix for path in watch.opened if Path(path).parent == folder}
            names |= dict.fromkeys(f"{name}/*{suffix}" for suffix in sorted(read - {"", ".py"}))
        else:
            names[name] = None
    return [*names]


def _names_digest(name: str, roots: Iterable[Path]) -> str:
    """Return the hash of the names in a folder, without hidden files, caches and logs."""
    text, _, suffix = name.partition("/*")
    folder = next((root / text for root in roots if (root / text).is_dir()), Path(text))
    try:
        entries = os.listdir(folder)
    except OSError:
        return "missing"
    kept = sorted(
        entry
        for entry in entries
        if entry.endswith(suffix)
        and not entry.startswith((".", "__"))
        and not entry.endswith(NO_DATA)
    )
    return hashlib.sha256("\n".join(kept).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _distributions(code: Iterable[str | Path]) -> list[str]:
    """Return the installed distributions that the files ``code`` import, and torch."""
    tops = {
        (base or "").partition(".")[0]
        for file in code
        for level, base, _ in imports_of(Path(file))
        if not level
    }
    tops = {top for top in tops if top and top not in sys.stdlib_module_names}
    owners = {name for top in [*tops, "torch"] for name in owners_of(top)}
    return sorted(owners - {"flops-fit", "flops_fit"})


def _version(name: str) -> str:
    from importlib import metadata  # slow to import, and rarely needed

    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return "missing"


@contextlib.contextmanager
def noting_variables() -> Iterator[dict[str, None]]:
    """Within the block, note the environment variables that the user's code itself reads."""
    names: dict[str, None] = {}
    kind: Any = type(os.environ)
    read = kind.__getitem__

    def noting(self: Any, key: Any) -> str:
        if isinstance(key, str) and _asked_by_user():
            names[key] = None
        return read(self, key)

    kind.__getitem__ = noting
    try:
        yield names
    finally:
        kind.__getitem__ = read


def _asked_by_user() -> bool:
    """Whether the user's code asks ``os.environ``, and not a library that it calls."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.endswith(
        ("os.py", "_collections_abc.py", "<frozen os>", "<frozen _collections_abc>")
    ):
        frame = frame.f_back
    name = "" if frame is None else frame.f_code.co_filename
    return is_watched_code(name) and not {*INSTALLED} & {*Path(name).parts}
