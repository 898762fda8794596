"""What a trial run of the plug-ins is seen to import and open.

An audit hook sees every file that Python code opens. Counted are those opened for reading with a
frame of the user's on the stack, and the user's modules that are imported by the end. Left out is what
the process itself wrote (logs, temporary files), what belongs to Python, to installed packages or to
us, caches, and everything below the results. Readers written in C (Parquet, tokenizers, databases) and
other processes open files unseen: `not_followed` says so.
"""

import ast
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from flops_fit.plugins.origin import INSTALLED, OWN_FOLDER, STANDARD_LIBRARY, is_core, is_installed
from flops_fit.plugins.uses import Uses, name_of

MOST_FILES = 10_000  # a data set of single files: beyond, its folder has to be named instead
PRIVATE = {"__pycache__", ".git", ".snakemake", ".venv"}
SYSTEM = ("/proc", "/sys", "/dev", "/etc", "/usr", "/run", "/bin", "/lib")
CACHES = (
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

_active: list["Watch"] = []  # a hook cannot be removed: there is one, which asks whom to tell


class Watch:
    """What was opened and imported while it was active.

    ``search_paths``: files below them count even in places that are otherwise left out, such as the
    temporary folder. ``left_out``: folders that never count.
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
        self.boundary = _calling_frame()  # whoever called from further up is not looked at

    def note(self, event: str, arguments: tuple) -> None:
        """Called by the hook at each audit event that concerns files or programs."""
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
        """The user's modules and files that were seen, by names relative to ``roots``."""
        roots = list(roots)
        code: dict[str, str] = {}
        files: dict[str, str] = {}
        new = [module for name, module in [*sys.modules.items()] if name not in self.before]
        modules = [getattr(module, "__file__", None) for module in new]
        for text in [*filter(None, modules), *self.opened]:
            path = Path(text)
            if text in self.written or not path.is_absolute() or not self._counts(path):
                continue
            kind = code if path.suffix == ".py" else files
            kind[name_of(path, roots)] = text
        return Uses(code, files)

    def looked_into(self, folder: str) -> bool:
        """Whether a folder was listed, or anything below it opened."""
        place = Path(folder).resolve()
        return any(Path(t).resolve().is_relative_to(place) for t in (*self.opened, *self.listed))

    def _called_by_user(self) -> bool:
        """Whether a frame of the user's code led here, from where the watch was started."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and id(frame) != self.boundary:
            if _is_users(frame.f_code.co_filename):
                return True
            frame = frame.f_back
        return False

    def _counts(self, path: Path) -> bool:
        if is_core(path) or is_installed(path) or not path.is_file():
            return False
        if PRIVATE & {*path.parts} or path.suffix in (".pyc", ".so"):
            return False
        if any(part.endswith((".egg-info", ".dist-info")) for part in path.parts):
            return False
        places = (path, path.resolve())
        if any(place.is_relative_to(folder) for place in places for folder in self.left_out):
            return False
        if any(place.is_relative_to(folder) for place in places for folder in self.search_paths):
            return True
        return not any(path.is_relative_to(folder) for folder in _foreign_places())


@contextlib.contextmanager
def unwatched() -> Iterator[None]:
    """Let no watch see what happens meanwhile."""
    active = [*_active]
    _active.clear()
    try:
        yield
    finally:
        _active[:] = active


def _foreign_places() -> list[Path]:
    """Where files lie that are not the user's, unless a search path lies there too."""
    home = Path.home()
    variables = [os.environ[name] for name in CACHES if os.environ.get(name)]
    names = (*SYSTEM, tempfile.gettempdir(), sys.prefix, sys.base_prefix, *variables)
    return [*map(Path, names), home / ".cache", home / ".config"]


def _calling_frame() -> int:
    """The identity of the frame that started to watch."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename in (__file__, contextlib.__file__):
        frame = frame.f_back
    return id(frame)


_judged: dict[str, bool] = {}


def _is_users(filename: str) -> bool:
    if filename not in _judged:
        path = Path(filename)
        _judged[filename] = (
            path.is_absolute()
            and not path.is_relative_to(OWN_FOLDER)
            and not path.is_relative_to(STANDARD_LIBRARY)
            and not any(part in INSTALLED for part in path.parts)
        )
    return _judged[filename]


def _command(arguments: tuple) -> str:
    words = arguments[1] if len(arguments) > 1 and arguments[1] else arguments[0]
    words = words if isinstance(words, list | tuple) else [words]
    return " ".join(os.fsdecode(w) for w in words if isinstance(w, str | bytes | os.PathLike))


def _hook(event: str, arguments: tuple) -> None:
    if not _active or not (
        event in ("open", "sqlite3.connect") or event.startswith(("os.", "subp"))
    ):
        return
    watch = _active.pop()  # what the watch itself opens is not to be noted
    try:
        if arguments:
            watch.note(event, arguments)
    finally:
        _active.append(watch)


@contextlib.contextmanager
def watching(search_paths: Iterable[str], left_out: Iterable[str | Path]) -> Iterator[Watch]:
    """Note what is opened and imported within; the arguments are those of `Watch`."""
    watch = Watch(search_paths, left_out)
    _install_once()
    _active.append(watch)
    try:
        yield watch
    finally:
        _active.remove(watch)


def _install_once(installed: list = []) -> None:  # noqa: B006 - remembers for the process
    if not installed:
        sys.addaudithook(_hook)
        installed.append(True)


def not_followed(code: Iterable[str | Path], watch: Watch) -> list[str]:
    """Sentences on what the user's files ``code`` may read without being seen."""
    readers: dict[str, None] = {}
    variables: dict[str, None] = {}
    for path in code:
        with contextlib.suppress(OSError, SyntaxError, ValueError):
            for node in ast.walk(ast.parse(Path(path).read_bytes())):
                readers |= dict.fromkeys(_readers_in(node))
                variables |= dict.fromkeys(_variables_in(node))
    sentences = [
        f"files that {name} reads are not followed: name them in dataset.sources, or in the arguments "
        "of the plug-in, so that a change of them is noticed"
        for name in readers
    ]
    if variables:
        sentences.append(
            f"environment variables are not followed: the plug-ins read {', '.join(variables)}, and "
            "runs made with other values count as the same"
        )
    if watch.commands:
        shown = "; ".join(f"{command:.60}" for command in list(watch.commands)[:3])
        sentences.append(f"what other programs read is not followed: the plug-ins run {shown}")
    if watch.truncated:
        sentences.append(
            f"more than {MOST_FILES} files were opened, and the others are not followed: name their "
            "folder in dataset.sources"
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
    """Names of environment variables that an expression reads."""
    key: ast.AST | None = None
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        key = node.slice if ast.unparse(node.value) in ("os.environ", "environ") else None
    elif isinstance(node, ast.Call) and node.args:
        readers = ("os.getenv", "getenv", "os.environ.get", "environ.get")
        key = node.args[0] if ast.unparse(node.func) in readers else None
    if isinstance(key, ast.Constant) and isinstance(key.value, str):
        yield key.value
