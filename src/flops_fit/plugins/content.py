"""Hash Python objects by their content: equal content gives an equal digest.

A model class, a loss or a dataset from a notebook has no import path and no file that could
identify it. Here everything that determines an object's behaviour becomes one graph: bytecode,
defaults, closures, the globals that code names, the members of classes, the state of instances, the
bytes of tensors. The digest of an object depends only on its part of that graph. It does not depend
on the order of dictionaries and sets, on addresses, files or lines, or on whether equal parts are
one object or several.

Library code (the standard library, installed packages, the core of flops-fit) is identified by its
name and version.
"""

import hashlib
import sys
import time
import types
from collections import ChainMap, Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flops_fit.plugins.data_files import FileHashes
from flops_fit.plugins.objects import describe_type, part_of
from flops_fit.plugins.parts import ATOMS, Part
from flops_fit.plugins.randomness import is_generator

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
CHUNK = 2**26  # bytes that are hashed at once
PATIENCE_SECONDS = 2.0  # hashing that takes longer is announced


class Contents:
    """Computes digests of objects; it keeps them alive, and assumes that they do not change.

    ``hashes`` caches the hashes of files. ``say`` is called with a sentence where hashing takes
    longer than two seconds. ``generators`` lists the random generators in the objects hashed so
    far, and ``bytes_read`` is the size in bytes of their tensors, arrays and tables.
    """

    def __init__(self, hashes: FileHashes, say: Callable[[str], None]):
        self.hashes, self.say = hashes, say
        self.generators: list[Any] = []
        self.bytes_read = 0
        self._numbers: dict[Any, int] = {}
        self._values: list[Any] = []  # kept alive, so that no id() is used twice
        self._origins: list[tuple[int, str]] = []  # parent and step by which each was first reached
        self._labels: list[bytes] = []
        self._children: list[list[int]] = []
        self._unordered: list[bool] = []
        self._unhashable: dict[int, str] = {}
        self._bytecode: set[int] = set()
        self._unread: list[tuple[int, int, Callable[[], Iterable[Any]]]] = []
        self._digests: dict[int, bytes] = {}  # of the nodes that lead to no cycle

    def digest(self, value: Any, name: str) -> tuple[str, list[str]]:
        """Return the digest of ``value``, and one clause for each part that cannot be hashed.

        Where bytecode is part of it, the digest ends in the version of Python. A part that cannot
        be hashed (a lock, an open file, a generator) is represented by its type; its clause gives
        the path to it, starting at ``name``: "loss_fn.table is a lock".
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
        return digest, sorted(f"{self._path(at)} is {self._unhashable[at]}" for at in refused)

    def _number(self, value: Any, parent: int, step: str) -> int:
        kind = type(value)
        key: Any = id(value)
        if kind in ATOMS:
            key = (kind, repr(value) if kind in (float, complex) else value)
        if key not in self._numbers:
            self._numbers[key] = len(self._values)
            self._values.append(value)
            self._origins.append((parent, step))
        return self._numbers[key]

    def _describe(self, at: int) -> None:
        value = self._values[at]
        try:
            part = value if type(value) is Part else part_of(value, self.hashes)
        except Exception:  # an object may raise anything when it is looked at
            part = None
        if part is None:
            part = Part(f"unhashable {type(value).__module__}:{type(value).__qualname__}")
            self._unhashable[at] = describe_type(value)
        if type(value) is types.CodeType:
            self._bytecode.add(at)
        if is_generator(value):
            self.generators.append(value)
        text = part.label
        self._labels.append(
            text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        )
        self._unordered.append(part.unordered)
        self._children.append([self._number(child, at, step) for step, child in part.parts])
        if part.chunks is not None:
            self._unread.append((at, part.size, part.chunks))

    def _path(self, at: int) -> str:
        steps: list[str] = []
        while at >= 0:
            at, step = self._origins[at]
            steps.insert(0, step)
        return "".join(steps)

    def _read(self) -> None:
        """Hash the tensors, arrays and tables that were met; their total size is known by now."""
        total = sum(size for _, size, _ in self._unread)
        started, announced = time.monotonic(), False
        for at, _, chunks in self._unread:
            digest = hashlib.blake2b(self._labels[at], digest_size=20)
            for chunk in chunks():
                view = memoryview(chunk).cast("B")
                for start in range(0, len(view), CHUNK):
                    digest.update(view[start : start + CHUNK])
                    if not announced and time.monotonic() - started > PATIENCE_SECONDS:
                        announced = True
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
        """Compute the digest of ``root`` from the leaves up.

        A digest depends neither on where a cycle was entered nor on how often equal parts were
        copied: a node that only leads to a cycle gets the digest of the equal node within it.
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
        digests = self._refine(core)
        together = ChainMap(digests, known)
        same = {self._hash(at, together): digests[at] for at in core}
        for at in rest:
            if at not in digests:
                digest = self._hash(at, together)
                digests[at] = same.get(digest, digest)
        return digests[root]

    def _within_cycles(self, rest: list[int]) -> list[int]:
        """Return ``rest`` without the nodes that only lead to a cycle."""
        remaining = set(rest)
        parents = Counter(child for at in rest for child in self._children[at])
        for at in reversed(rest):  # parents come before their children, except in cycles
            if not parents[at]:
                remaining.remove(at)
                parents.subtract(self._children[at])
        return [at for at in rest if at in remaining]

    def _refine(self, core: list[int]) -> dict[int, bytes]:
        """Compute digests within cycles in rounds; each separates nodes by one more step."""
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
