"""A bounded shelf: the least recently used things make room for others."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """Something that knows how much memory it takes."""

    @property
    def num_bytes(self) -> int:
        """Bytes of memory."""
        ...


T = TypeVar("T", bound=Sized)


class LruBytes(Generic[T]):
    """Things by key, in the order of their use, with the memory they take together.

    It does not enforce its budget by itself: `overflow` says what has to go.

    Args:
        budget_bytes: How much may stay.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._items: OrderedDict[str, tuple[T, int]] = OrderedDict()
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: str) -> bool:
        return key in self._items

    def put(self, key: str, item: T) -> None:
        """Add a thing as the one used last."""
        self.pop(key)
        num_bytes = item.num_bytes
        self._items[key] = (item, num_bytes)
        self.num_bytes += num_bytes

    def pop(self, key: str) -> T | None:
        """Take a thing out; None if it is not here."""
        item, num_bytes = self._items.pop(key, (None, 0))
        self.num_bytes -= num_bytes
        return item

    def overflow(self, held_bytes: int = 0) -> Iterator[tuple[str, T]]:
        """Take out what was used longest ago until the rest is within the budget.

        Args:
            held_bytes: Memory under the same budget that is not on this shelf.
        """
        while self._items and self.num_bytes + held_bytes > self._budget_bytes:
            key = next(iter(self._items))
            item = self.pop(key)
            if item is not None:
                yield key, item
