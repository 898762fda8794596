"""Watch which modules and files a trial run of the plug-ins imports and opens.

An audit hook sees every file that Python code opens. A file counts where it is opened for reading
while the user's code is on the stack; a module of the user counts where it is imported by the end of
the run. The watch leaves out files that the process itself wrote (logs, temporary files), files of
Python, of installed packages and of flops-fit, caches, and everything below the results. It cannot
see files that other processes or libraries written in C open (Parquet, tokenizers, databases);
`not_followed` returns a warning about each of these.
"""

import ast
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from flops_fit.plugins.origin import OWN_FOLDER, is_core, is_installed, is_user_code
from flops_fit.plugins.uses import Uses, name_of

MOST_FILES = 10_000  # a dataset of more single files must be named by its folder
PRIVATE_FOLDERS = {"__pycache__", ".git", ".snakemake", ".venv"}
SYSTEM_FOLDERS = ("/proc", "/sys", "/dev", "/etc", "/usr", "/run", "/bin", "/lib")
CACHE_VARIABLES = (
    "HF_HOME",
    "MPLCONFIGDIR",
    "NUMBA_CACHE_DIR",
    "TORCHINDUCTOR_CACHE_DIR",
    "TORCH_EXTENSIONS_DIR",
    "TRITON_CACHE_DIR",
    "XDG_CACHE_HOME",
)
C_READERS = (
    "duckdb",
    "h5py",
    "lmdb",
    "polars",
    "pyarrow",
    "sentencepiece",
    "sqlite3",
    "tiktoken",
    "tokenizers",
    "zarr",
)
PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

_active: list["Watch"] = []  # a hook cannot be removed, so the only one asks which watch is active


class Watch:
    """Records what is opened and imported while it is active.

    Files below ``search_paths`` count even in places that are otherwise left out, such as the
    temporary folder. Files below the folders ``left_out`` never count.
    """

    def __init__(self, search_paths: Iterable[str], left_out: Iterable[str | Path]):
        self.search_paths = [Path(path).resolve() for path in search_paths]
        self.left_out = [Path(path).resolve() for path in left_out]
        self.opened: dict[str, None] = {}
        self.listed: dict[str, None] = {}
        self.written: set[str] = set()
        self.commands: dict[str, None] = {}
        self.truncated = False
        self.before = {*sys.modules}
        self.boundary = _calling_frame()  # frames further up the stack do not count

    def note(self, event: str, arguments: tuple) -> None:
        """Record one audit event that concerns files or programs, with its ``arguments``.

        The hook calls this; ``event`` is the name of the event, such as ``open``.
        """
        first = arguments[0]
        named = isinstance(first, str | bytes | os.PathLike)
        if event == "open" and named:
            self._note_open(os.path.abspath(os.fsdecode(first)), arguments[2])
        elif event in ("os.listdir", "os.scandir") and named and self._called_by_user():
            self.listed[os.path.abspath(os.fsdecode(first))] = None
        elif event == "sqlite3.connect" and named and self._called_by_user():
            self.opened[os.path.abspath(os.fsdecode(first))] = None
        elif event in PROGRAMS and self._called_by_user():
            self.commands[_command(arguments)] = None

    def _note_open(self, name: str, flags: Any) -> None:
        if isinstance(flags, int) and flags & WRITING:
            self.written.add(name)
        elif not self.truncated and name not in self.opened and self._called_by_user():
            self.truncated = len(self.opened) >= MOST_FILES
            if not self.truncated:
                self.opened[name] = None

    def uses(self, roots: Iterable[Path]) -> Uses:
        """Return the user's modules and files that were seen, by names relative to ``roots``."""
        roots = list(roots)
        code: dict[str, str] = {}
        files: dict[str, str] = {}
        new = [module for name, module in [*sys.modules.items()] if name not in self.before]
        modules = [getattr(module, "__file__", None) for module in new]
        for text in [*filter(None, modules), *self.opened]:
            path = Path(text)
            if text in self.written or not is_input(path, self.search_paths, self.left_out):
                continue
            kind = code if path.suffix == ".py" else files
            kind[name_of(path, roots)] = text
        return Uses(code, files)

    def looked_into(self, folder: str) -> bool:
        """Whether ``folder`` was listed, or a file below it was opened."""
        top = Path(folder).resolve()
        return any(Path(p).resolve().is_relative_to(top) for p in (*self.opened, *self.listed))

    def _called_by_user(self) -> bool:
        """Whether the user's code is on the stack, below the frame that started the watch."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and id(frame) != self.boundary:
            if _is_watched_code(frame.f_code.co_filename):
                return True
            frame = frame.f_back
        return False


def is_input(path: Path, search_paths: Iterable[Path], left_out: Iterable[Path]) -> bool:
    """Whether ``path``, which was imported or read, is a user's file that may decide a result.

    ``search_paths`` and ``left_out`` are resolved folders, as for `Watch`.
    """
    if not path.is_absolute() or is_core(path) or is_installed(path) or not path.is_file():
        return False
    if PRIVATE_FOLDERS & {*path.parts} or path.suffix in (".pyc", ".so"):
        return False
    if any(part.endswith((".egg-info", ".dist-info")) for part in path.parts):
        return False
    places = (path, path.resolve())
    if any(place.is_relative_to(folder) for place in places for folder in left_out):
        return False
    if any(place.is_relative_to(folder) for place in places for folder in search_paths):
        return True
    return not any(path.is_relative_to(folder) for folder in _foreign_places())


@contextlib.contextmanager
def unwatched() -> Iterator[None]:
    """Suspend all watches within the block."""
    active = [*_active]
    _active.clear()
    try:
        yield
    finally:
        _active[:] = active


def _foreign_places() -> list[Path]:
    """Return the folders whose files are not the user's, unless they are below a search path."""
    home = Path.home()
    variables = [os.environ[name] for name in CACHE_VARIABLES if os.environ.get(name)]
    names = (*SYSTEM_FOLDERS, tempfile.gettempdir(), sys.prefix, sys.base_prefix, *variables)
    return [*map(Path, names), home / ".cache", home / ".config"]


def _calling_frame() -> int:
    """Return the id() of the frame that started the watch."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename in (__file__, contextlib.__file__):
        frame = frame.f_back
    return id(frame)


@cache
def _is_watched_code(filename: str) -> bool:
    """Whether a frame is the user's code; the examples declare what they read, so they are not."""
    path = Path(filename)
    return path.is_absolute() and is_user_code(filename) and not path.is_relative_to(OWN_FOLDER)


def _command(arguments: tuple) -> str:
    command = arguments[1] if len(arguments) > 1 and arguments[1] else arguments[0]
    parts = command if isinstance(command, list | tuple) else [command]
    return " ".join(os.fsdecode(p) for p in parts if isinstance(p, str | bytes | os.PathLike))


def _hook(event: str, arguments: tuple) -> None:
    if not _active or not (
        event in ("open", "sqlite3.connect") or event.startswith(("os.", "subp"))
    ):
        return
    watch = _active.pop()  # files that the watch itself opens do not count
    try:
        if arguments:
            watch.note(event, arguments)
    finally:
        _active.append(watch)


@contextlib.contextmanager
def watching(search_paths: Iterable[str], left_out: Iterable[str | Path]) -> Iterator[Watch]:
    """Watch what is opened and imported within the block.

    ``search_paths`` and ``left_out`` are folders, as for `Watch`.
    """
    watch = Watch(search_paths, left_out)
    _install_once()
    _active.append(watch)
    try:
        yield watch
    finally:
        _active.remove(watch)


@cache
def _install_once() -> None:
    sys.addaudithook(_hook)


def not_followed(code: Iterable[str | Path], watch: Watch) -> list[str]:
    """Return warnings about what the user's files ``code`` may read unseen by ``watch``."""
    readers: dict[str, None] = {}
    variables: dict[str, None] = {}
    for path in code:
        with contextlib.suppress(OSError, SyntaxError, ValueError):
            for node in ast.walk(ast.parse(Path(path).read_bytes())):
                readers |= dict.fromkeys(_readers_in(node))
                variables |= dict.fromkeys(_variables_in(node))
    sentences = [
        f"changes of files that {name} reads are not noticed; to have them noticed, name the files in "
        "dataset.sources or in the arguments of the plug-in"
        for name in readers
    ]
    if variables:
        sentences.append(
            f"the plug-ins read the environment variables {', '.join(variables)}; changes of these are "
            "not noticed, so runs with different values count as the same experiment"
        )
    if watch.commands:
        shown = "; ".join(f"{command:.60}" for command in list(watch.commands)[:3])
        sentences.append(
            f"the plug-ins run other programs ({shown}); changes of what these read are not noticed"
        )
    if watch.truncated:
        sentences.append(
            f"the plug-ins opened more than {MOST_FILES} files, and changes of the others are not "
            "noticed; name their folder in dataset.sources"
        )
    return sentences


def _readers_in(node: ast.AST) -> Iterator[str]:
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and not node.level:
        names = [node.module or ""]
    yield from (top for name in names if (top := name.partition(".")[0]) in C_READERS)


def _variables_in(node: ast.AST) -> Iterator[str]:
    """Yield the names of the environment variables that an expression reads."""
    key: ast.AST | None = None
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        key = node.slice if ast.unparse(node.value) in ("os.environ", "environ") else None
    elif isinstance(node, ast.Call) and node.args:
        readers = ("os.getenv", "getenv", "os.environ.get", "environ.get")
        key = node.args[0] if ast.unparse(node.func) in readers else None
    if isinstance(key, ast.Constant) and isinstance(key.value, str):
        yield key.value
