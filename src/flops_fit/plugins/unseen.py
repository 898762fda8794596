"""Name what code may read that a watch of its trial run cannot see."""

import ast
import contextlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from flops_fit.plugins.watch import MOST_FILES, Watch

C_READERS = (
    "av",
    "cv2",
    "decord",
    "duckdb",
    "h5py",
    "lmdb",
    "polars",
    "pyarrow",
    "sentencepiece",
    "soundfile",
    "sqlite3",
    "tiktoken",
    "tokenizers",
    "torchaudio",
    "zarr",
)
READER_CALLS = {
    "imread": "cv2",
    "read_feather": "pyarrow",
    "read_hdf": "h5py",
    "read_image": "torchvision",
    "read_orc": "pyarrow",
    "read_parquet": "pyarrow",
    "read_video": "torchvision",
}
SPAWNED = "parts of themselves in new processes"
OTHER_PROCESSES = ("multiprocessing.popen_forkserver", "multiprocessing.popen_spawn_posix")


def unseen_readers(code: Iterable[str | Path]) -> list[str]:
    """Return the libraries by which the user's files ``code`` may read files unseen by a watch."""
    nodes = (node for path in code for node in _nodes(path))
    return [*dict.fromkeys(name for node in nodes for name in _readers_in(node))]


def _nodes(path: str | Path) -> list[ast.AST]:
    with contextlib.suppress(OSError, SyntaxError, ValueError):
        return [*ast.walk(ast.parse(Path(path).read_bytes()))]
    return []


def variables_in(code: Iterable[str | Path]) -> list[str]:
    """Return the environment variables that the user's files ``code`` read by a constant name."""
    nodes = (node for path in code for node in _nodes(path))
    return [*dict.fromkeys(name for node in nodes for name in _variables_in(node))]


def not_followed(
    code: Iterable[str | Path],
    watch: Watch,
    elsewhere: Iterable[Path] = (),
    key: str = "dataset.sources or in the arguments of the plug-in",
) -> list[str]:
    """Return warnings about what the user's files ``code`` may read unseen by ``watch``.

    ``elsewhere`` are files that were read in folders for temporary or cached files. ``key`` says
    where in a config files can be named.
    """
    places = [*elsewhere]
    sentences = [
        f"changes of files that {name} reads are not noticed; to have them noticed, name the files in "
        f"{key}"
        for name in unseen_readers(code)
    ]
    if places:
        more = f" and {len(places) - 1} more" if len(places) > 1 else ""
        sentences.append(
            f"the plug-ins read {places[0]}{more} in a folder for temporary or cached files; changes of "
            f"such files are not noticed, so name them in {key}"
        )
    commands = dict(watch.commands)
    if {*OTHER_PROCESSES} & {*sys.modules} - watch.before:
        commands[SPAWNED] = None
    if commands:
        shown = "; ".join(f"{command:.60}" for command in list(commands)[:3])
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
    if isinstance(node, ast.Attribute | ast.Name):
        called = node.attr if isinstance(node, ast.Attribute) else node.id
        yield from filter(None, [READER_CALLS.get(called)])
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
