"""What objects handed over in Python are, by their content: equal content, equal digest.

A model class, a loss or a data set from a notebook has no import path and no file to be known by.
Here everything that an object's behaviour rests on becomes one graph: bytecode, defaults, closures,
the globals that code names, the members of classes, the state of instances, the bytes of tensors.
The digest of an object depends on its part of that graph alone. The order of dictionaries and sets,
addresses, files, lines, and whether equal parts are one object or several do not count.

Library code (the standard library, installed packages, our own core) is known by name and version.
"""

import hashlib
import sys
import time
import types
from collections import ChainMap, Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flops_fit.plugins.data_files import FileHashes
from flops_fit.plugins.objects import kind_in_words, part_of
from flops_fit.plugins.parts import ATOMS, Part
from flops_fit.plugins.randomness import is_generator

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
CHUNK, SECONDS = 2**26, 2.0


class Contents:
    """Digests of objects; what was hashed is kept alive, and taken as unchanged since.

    ``hashes`` remembers the hashes of files. ``say`` is given a sentence where hashing takes longer
    than two seconds. ``generators`` are the random generators in the objects hashed so far, and
    ``bytes_read`` counts their tensors, arrays and tables.
    """

    def __init__(self, hashes: FileHashes, say: Callable[[str], None]):
        self.hashes, self.say = hashes, say
        self.generators: list[Any] = []
        self.bytes_read = 0
        self._numbers: dict[Any, int] = {}
        self._values: list[Any] = []  # kept alive, so that no id is met twice
        self._origins: list[tuple[int, str]] = []  # how each was reached first
        self._labels: list[bytes] = []
        self._children: list[list[int]] = []
        self._unordered: list[bool] = []
        self._unhashable: dict[int, str] = {}
        self._bytecode: set[int] = set()
        self._unread: list[tuple[int, int, Callable[[], Iterable[Any]]]] = []
        self._digests: dict[int, bytes] = {}  # of all that reaches no cycle

    def digest(self, value: Any, name: str) -> tuple[str, list[str]]:
        """The digest of ``value``, and what in it cannot be hashed, each as a clause.

        Where it rests on bytecode, the digest ends in the version of Python. What cannot be hashed
        (a lock, an open file, a generator) counts by its kind alone; the clause leads to it from
        ``name``: "loss_fn.table is a lock".
        """
        root = self._number(value, -1, name)
        while len(self._labels) < len(self._values):
            self._describe(len(self._labels))
        self._read()
        reached = self._postorder(root)
        digest = self._combine(root, reached).hex()
        if any(at in self._bytecode for at in reached):
            digest += f"-py{PYTHON}"
        refused = [at for at in reached if at in self._unhashable]
        return digest, sorted(f"{self._way(at)} is {self._unhashable[at]}" for at in refused)

    def _number(self, value: Any, parent: int, way: str) -> int:
        kind = type(value)
        key: Any = id(value)
        if kind in ATOMS:
            key = (kind, repr(value) if kind in (float, complex) else value)
        if key not in self._numbers:
            self._numbers[key] = len(self._values)
            self._values.append(value)
            self._origins.append((parent, way))
        return self._numbers[key]

    def _describe(self, at: int) -> None:
        value = self._values[at]
        try:
            part = value if type(value) is Part else part_of(value, self.hashes)
        except Exception:  # an object may raise anything when it is looked at
            part = None
        if part is None:
            part = Part(f"unhashable {type(value).__module__}:{type(value).__qualname__}")
            self._unhashable[at] = kind_in_words(value)
        if type(value) is types.CodeType:
            self._bytecode.add(at)
        if is_generator(value):
            self.generators.append(value)
        text = part.label
        self._labels.append(
            text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        )
        self._unordered.append(part.unordered)
        self._children.append([self._number(child, at, way) for way, child in part.parts])
        if part.chunks is not None:
            self._unread.append((at, part.size, part.chunks))

    def _way(self, at: int) -> str:
        steps: list[str] = []
        while at >= 0:
            at, step = self._origins[at]
            steps.insert(0, step)
        return "".join(steps)

    def _read(self) -> None:
        """Hash what was met in bytes; how much that is, is known by now."""
        total, started, said = sum(size for _, size, _ in self._unread), time.monotonic(), False
        for at, _, chunks in self._unread:
            digest = hashlib.blake2b(self._labels[at], digest_size=20)
            for chunk in chunks():
                view = memoryview(chunk).cast("B")
                for start in range(0, len(view), CHUNK):
                    digest.update(view[start : start + CHUNK])
                    if not said and time.monotonic() - started > SECONDS:
                        said = True
                        self.say(
                            f"hashing {total / 1e9:.3g} GB of data, to see whether they changed"
                        )
            self._labels[at] = digest.digest()
        self.bytes_read += total
        self._unread.clear()

    def _postorder(self, root: int) -> list[int]:
        order, seen, stack = [], {root}, [(root, iter(self._children[root]))]
        while stack:
            at, children = stack[-1]
            child = next((child for child in children if child not in seen), None)
            if child is None:
                order.append(at)
                stack.pop()
            else:
                seen.add(child)
                stack.append((child, iter(self._children[child])))
        return order

    def _combine(self, root: int, order: list[int]) -> bytes:
        """The digest of ``root``, from the leaves up.

        A digest does not depend on where a cycle was entered, nor on how often equal parts were
        copied: what only leads to a cycle is told from what is in one by its digest alone.
        """
        known, rest = self._digests, []
        for at in order:
            if at not in known:
                if all(child in known for child in self._children[at]):
                    known[at] = self._hash(at, known)
                else:
                    rest.append(at)
        if root in known:
            return known[root]
        core = self._within_cycles(rest)
        found = self._tell_apart(core)
        together = ChainMap(found, known)
        same = {self._hash(at, together): found[at] for at in core}
        for at in rest:
            if at not in found:
                digest = self._hash(at, together)
                found[at] = same.get(digest, digest)
        return found[root]

    def _within_cycles(self, rest: list[int]) -> list[int]:
        """``rest`` without what only leads to a cycle."""
        left = set(rest)
        parents = Counter(child for at in rest for child in self._children[at])
        for at in reversed(rest):  # parents come before their children, but for cycles
            if not parents[at]:
                left.remove(at)
                parents.subtract(self._children[at])
        return [at for at in rest if at in left]

    def _tell_apart(self, core: list[int]) -> dict[int, bytes]:
        """Digests within cycles, in rounds: each tells parts apart one step further than before."""
        colours, count = {at: _hash(self._labels[at]) for at in core}, 0
        while len(set(colours.values())) > count:
            count = len(set(colours.values()))
            around = ChainMap(colours, self._digests)
            colours = {at: _hash(colours[at], [self._hash(at, around)]) for at in core}
        everything = _hash(b"", sorted(set(colours.values())))
        return {at: _hash(colours[at], [everything]) for at in core}

    def _hash(self, at: int, known: Mapping[int, bytes]) -> bytes:
        parts = [known[child] for child in self._children[at]]
        return _hash(self._labels[at], sorted(parts) if self._unordered[at] else parts)


def _hash(label: bytes, parts: Iterable[bytes] = ()) -> bytes:
    whole = b"".join([len(label).to_bytes(8, "little"), label, *parts])
    return hashlib.blake2b(whole, digest_size=20).digest()
