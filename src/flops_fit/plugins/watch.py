"""Watch which modules and files a trial run of the plug-ins imports and opens.

An audit hook sees every file that Python code opens. A file counts where it is opened for reading
while the user's code is on the stack, or in another thread; a module of the user counts where it is
imported by the end of the run, and a byte-compiled one with its source. Processes that are forked
from this one are watched too. The watch leaves out files that the process itself wrote (logs,
temporary files), files of Python, of installed packages and of flops-fit, caches, and everything below
the results. It cannot see files that other programs or libraries written in C open (Parquet,
tokenizers, databases); `flops_fit.plugins.unseen` names these.
"""

import contextlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from flops_fit.plugins.origin import OWN_FOLDER, is_core, is_installed, is_user_code
from flops_fit.plugins.uses import Uses, names_of

MOST_FILES = 10_000  # a dataset of more single files must be named by its folder
PRIVATE_FOLDERS = {"__pycache__", ".git", ".snakemake", ".venv"}
SYSTEM_FOLDERS = ("/proc", "/sys", "/dev", "/etc", "/usr", "/bin", "/lib")
RUNTIME_FOLDERS = ("/run/user", "/run/systemd", "/run/lock", "/run/shm")  # /run/media holds disks
COMPILED_FOLDERS = (".triton", ".cupy", ".nv")  # in the home folder
LIBRARY_CACHES = {"matplotlib", "numba", "fontconfig", "torch_extensions", "pip", "uv", "triton"}
CACHE_VARIABLES = (
    "HF_HOME",
    "MPLCONFIGDIR",
    "NUMBA_CACHE_DIR",
    "TORCHINDUCTOR_CACHE_DIR",
    "TORCH_EXTENSIONS_DIR",
    "TRITON_CACHE_DIR",
    "XDG_CACHE_HOME",
)
PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")
LIBRARIES = (".so", ".dylib", ".pyd")
OPENING = ("open", "sqlite3.connect", "ctypes.dlopen")
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
        self.listed: dict[str, bool] = {}  # False: only to find a module
        self.written: set[str] = set()
        self.commands: dict[str, None] = {}
        self.truncated = False
        self.shared = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the watch
        self.process = os.getpid()
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
            self.listed.setdefault(os.path.abspath(os.fsdecode(first)), False)
            if not _by_an_import():
                self.listed[os.path.abspath(os.fsdecode(first))] = True
        elif event in ("sqlite3.connect", "ctypes.dlopen") and named and self._called_by_user():
            self.opened[os.path.abspath(os.fsdecode(first))] = None
        elif event in PROGRAMS and self._called_by_user():
            self.commands[_command(arguments)] = None

    def _note_open(self, name: str, flags: Any) -> None:
        name = _source_of(name)
        if isinstance(flags, int) and flags & WRITING:
            self._tell("w", name)
            self.written.add(name)
        elif not self.truncated and name not in self.opened and self._called_by_user():
            self.truncated = len(self.opened) >= MOST_FILES
            if not self.truncated:
                self._tell("r", name)
                self.opened[name] = None

    def _tell(self, how: str, name: str) -> None:
        """Let a process that was forked, such as a worker of a loader, tell its parent of a file."""
        if os.getpid() != self.process and name not in (
            self.opened if how == "r" else self.written
        ):
            os.write(self.shared.fileno(), os.fsencode(f"{how}{name}\0"))

    def _hear(self) -> None:
        """Take over what forked processes have told."""
        number = self.shared.fileno()
        for line in os.pread(number, os.fstat(number).st_size, 0).split(b"\0")[:-1]:
            name = os.fsdecode(line[1:])
            if line.startswith(b"w"):
                self.written.add(name)
            else:
                self.opened.setdefault(name)

    def uses(self, roots: Iterable[Path]) -> Uses:
        """Return the user's modules and files that were seen, by names relative to ``roots``."""
        kinds: dict[str, list[Path]] = {"code": [], "files": []}
        for path in self._read():
            if is_input(path, self.search_paths, self.left_out):
                kinds["code" if path.suffix == ".py" else "files"].append(path)
        named = {kind: names_of(paths, [*roots]) for kind, paths in kinds.items()}
        code, files = (
            {name: str(path) for path, name in names.items()} for names in named.values()
        )
        return Uses(code, files)

    def read_elsewhere(self) -> list[Path]:
        """Return the files that were read in folders for temporary or cached files.

        They do not count, because most such files decide nothing; but data may lie there, too.
        """
        return [
            path
            for path in self._read()
            if path.suffix not in LIBRARIES
            and not LIBRARY_CACHES & {*path.parts}
            and not is_input(path, self.search_paths, self.left_out)
            and is_input(path, [*self.search_paths, *_own_places()], self.left_out)
        ]

    def imported(self) -> list[str]:
        """Return the files of the modules that were imported."""
        new = [module for name, module in [*sys.modules.items()] if name not in self.before]
        return [file for module in new if (file := getattr(module, "__file__", None))]

    def _read(self) -> list[Path]:
        """The modules that were imported, and the files that were read and not written."""
        self._hear()
        paths = [_in_archive(Path(text)) for text in (*self.imported(), *self.opened)]
        return [path for path in dict.fromkeys(paths) if str(path) not in self.written]

    def listed_by_user(self) -> list[str]:
        """Return the user's folders that were listed, but not those that Python searched."""
        folders = [Path(text).resolve() for text, by_user in self.listed.items() if by_user]
        return [
            str(folder)
            for folder in dict.fromkeys(folders)
            if not is_core(folder)
            and not is_installed(folder)
            and not PRIVATE_FOLDERS & {*folder.parts}
            and not any(folder.is_relative_to(place) for place in self.left_out)
            and (
                any(folder.is_relative_to(place) for place in self.search_paths)
                or not any(folder.is_relative_to(place) for place in _foreign_places())
            )
        ]

    def looked_into(self, folder: str) -> bool:
        """Whether ``folder`` was listed, or a file below it was opened."""
        top = Path(folder).resolve()
        return any(Path(p).resolve().is_relative_to(top) for p in (*self.opened, *self.listed))

    def _called_by_user(self) -> bool:
        """Whether the user's code is on the stack, below the frame that started the watch.

        The stack of another thread does not show who started it, which only the user's code does.
        """
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and id(frame) != self.boundary:
            if is_watched_code(frame.f_code.co_filename):
                return True
            frame = frame.f_back
        return frame is None


def is_input(path: Path, search_paths: Iterable[Path], left_out: Iterable[Path]) -> bool:
    """Whether ``path``, which was imported or read, is a user's file that may decide a result.

    ``search_paths`` and ``left_out`` are resolved folders, as for `Watch`.
    """
    if not path.is_absolute() or is_core(path) or is_installed(path) or not path.is_file():
        return False
    if PRIVATE_FOLDERS & {*path.parts}:
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
    names = (*SYSTEM_FOLDERS, sys.prefix, sys.base_prefix)
    compiled = [Path.home() / name for name in COMPILED_FOLDERS]
    return [*map(Path, names), *compiled, *_own_places()]


def _own_places() -> list[Path]:
    """Return the folders for temporary and cached files, in which a user may keep data as well."""
    variables = [os.environ[name] for name in CACHE_VARIABLES if os.environ.get(name)]
    names = (*RUNTIME_FOLDERS, tempfile.gettempdir(), *variables)
    return [*map(Path, names), Path.home() / ".cache", Path.home() / ".config"]


def _by_an_import() -> bool:
    """Whether Python lists a folder, to find a module in it."""
    frame: FrameType | None = sys._getframe(3)
    return frame is not None and frame.f_code.co_filename.startswith("<frozen importlib")


def _source_of(name: str) -> str:
    """The source of the byte-compiled module in the file ``name``; other names unchanged."""
    if name.endswith(".pyc"):
        with contextlib.suppress(ValueError, NotImplementedError):  # compiled without its source
            source = importlib.util.source_from_cache(name)
            return source if os.path.isfile(source) else name
    return name


def _in_archive(path: Path) -> Path:
    """The archive that holds the module with the name ``path``; other paths unchanged."""
    if not path.exists():
        return next((parent for parent in path.parents if parent.is_file()), path)
    return path


def _calling_frame() -> int:
    """Return the id() of the frame that started the watch."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename in (__file__, contextlib.__file__):
        frame = frame.f_back
    return id(frame)


@cache
def is_watched_code(filename: str) -> bool:
    """Whether a frame of the file ``filename`` is the user's code.

    The examples declare what they read, so they are not.
    """
    path = Path(filename)
    return path.is_absolute() and is_user_code(filename) and not path.is_relative_to(OWN_FOLDER)


def _command(arguments: tuple) -> str:
    command = arguments[1] if len(arguments) > 1 and arguments[1] else arguments[0]
    parts = command if isinstance(command, list | tuple) else [command]
    return " ".join(os.fsdecode(p) for p in parts if isinstance(p, str | bytes | os.PathLike))


def _hook(event: str, arguments: tuple) -> None:
    if not _active or not (event in OPENING or event.startswith(("os.", "subp"))):
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
