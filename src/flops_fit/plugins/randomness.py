"""Identify random generators by their seeds, and run code as if all had just been seeded."""

import contextlib
import hashlib
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from flops_fit.plugins.parts import Part

SMALLEST_ENTROPY = 2**64  # seeds from the operating system have 128 bits; written ones are smaller


def generator_part(value: Any) -> Part | None:
    """Describe a random generator by its seed, or by its state where it does not keep the seed.

    Returns None where ``value`` is no random generator. A seed that the operating system chose
    does not count, and neither does the state of a generator that the whole process shares.
    """
    torch = sys.modules.get("torch")
    kind = type(value).__name__
    if any(value is shared for shared in _shared(torch)):
        return Part(f"shared {kind}")
    if torch is not None and isinstance(value, torch.Generator):
        return Part(f"generator {value.initial_seed()}")
    if isinstance(value, random.Random):
        return Part("generator", [("", type(value)), ("", value.getstate())])
    if isinstance(value, np.random.BitGenerator):
        seeds = value.seed_seq
        if not isinstance(seeds, np.random.SeedSequence):
            return Part(f"generator {kind}", [("", value.state)])
        by_system = isinstance(seeds.entropy, int) and seeds.entropy >= SMALLEST_ENTROPY
        return Part(
            f"generator {kind}", [("", None if by_system else seeds.entropy), ("", seeds.spawn_key)]
        )
    if isinstance(value, np.random.Generator):
        return Part("generator", [("", value.bit_generator)])
    if isinstance(value, np.random.RandomState):
        return Part("generator", [("", value._bit_generator)])
    return None


def is_generator(value: Any) -> bool:
    """Whether ``value`` itself holds the state of a random generator."""
    torch = sys.modules.get("torch")
    kinds = (random.Random, np.random.BitGenerator)
    return isinstance(value, kinds if torch is None else (*kinds, torch.Generator))


def _shared(torch: Any) -> list[Any]:
    """Return the generators behind ``random.random``, ``numpy.random.rand`` and ``torch.rand``."""
    numpys = np.random.mtrand._rand
    torchs = [] if torch is None else [torch.default_generator]
    return [random._inst, numpys, numpys._bit_generator, *torchs]


@contextlib.contextmanager
def fixed_seeds(generators: Iterable[Any]) -> Iterator[None]:
    """Within the block, let all random generators draw as if freshly seeded; then restore them.

    These are ``generators`` and the ones that the whole process shares.
    """
    torch = sys.modules.get("torch")
    before: list[tuple[Callable[[Any], object], Any]] = []
    for generator in [*_shared(torch), *generators]:
        if isinstance(generator, random.Random):
            before.append((generator.setstate, generator.getstate()))
            generator.seed(0)
        elif isinstance(generator, np.random.BitGenerator):
            before.append((_state_setter(generator), generator.state))
            generator.state = type(generator)(0).state
        elif torch is not None and isinstance(generator, torch.Generator):
            before.append((generator.set_state, generator.get_state()))
            generator.manual_seed(0)
    try:
        yield
    finally:
        for restore, state in reversed(before):  # a generator may be listed twice
            restore(state)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within the block, let Python and NumPy draw as if seeded with ``seed``; then restore them."""
    before = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


def random_state() -> tuple[str, str]:
    """Return digests of the states of the generators of Python and of NumPy that all code shares."""
    numpys = [np.asarray(part).tobytes() for part in np.random.get_state(legacy=True)]
    states = repr(random.getstate()), repr(numpys)
    python, numpy = (hashlib.sha256(state.encode()).hexdigest() for state in states)
    return python, numpy


def states_of_all() -> tuple[str, ...]:
    """Return digests of the states of the generators of Python, NumPy and torch that all code shares."""
    torch = sys.modules.get("torch")
    if torch is None:
        return random_state()
    state = torch.default_generator.get_state().numpy().tobytes()
    return (*random_state(), hashlib.sha256(state).hexdigest())


def _state_setter(generator: np.random.BitGenerator) -> Callable[[Any], None]:
    return lambda state: setattr(generator, "state", state)
