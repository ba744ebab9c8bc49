"""`Entries`, the conversation as an immutable sequence.

A longer sequence shares the earlier entries and does not copy them.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar, overload

T = TypeVar("T")


class Entries(Sequence[T], Generic[T]):
    """A sequence that never changes. Several sequences can share one list, and each shows the first items of the list.

    Adding to the longest sequence appends to the shared list. Adding to a shorter one copies the items that it shows.
    """

    __slots__ = ("_items", "_length")

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._items = list(items)
        self._length = len(self._items)

    def plus(self, *more: T) -> "Entries[T]":
        """Return a sequence with these items added at the end."""
        if not more:
            return self
        items = self._items
        if not self._length or len(items) != self._length:
            items = items[: self._length]
        items.extend(more)
        longer: Entries[T] = object.__new__(Entries)
        longer._items, longer._length = items, len(items)
        return longer

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        items = self._items
        return (items[index] for index in range(self._length))

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...

    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        if isinstance(index, slice):
            return tuple(self._items[one] for one in range(*index.indices(self._length)))
        return self._items[range(self._length)[index]]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Entries | tuple):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"Entries({tuple(self)!r})"
