"""Count simulations while they go on, for a bar on a terminal."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Counted(Generic[Item]):
    """The ``items`` of a loop; ``each`` is called when the work on one of them has ended."""

    items: Sequence[Item]
    each: Callable[[], object]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Item]:
        for item in self.items:
            yield item
            self.each()
