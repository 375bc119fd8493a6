"""What was read of heads, kept for as long as it fits a number of bytes; what was used least recently goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Protocol, TypeVar, cast

MOST_BYTES = 512 * 2**20


class Sized(Protocol):
    """A value that knows its size."""

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        ...


S = TypeVar("S", bound=Sized)


class Kept:
    """Values by key, of at most `most` bytes together; a value larger than that is made anew each time."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most = most
        self._values: OrderedDict[Hashable, Sized] = OrderedDict()
        self.nbytes = 0

    def get(self, key: Hashable, make: Callable[[], S]) -> S:
        """The value of a key, made where it is not kept. A key belongs to values of one type."""
        if key in self._values:
            self._values.move_to_end(key)
            return cast(S, self._values[key])
        value = make()
        size = value.nbytes
        if size <= self._most:
            while self.nbytes + size > self._most:
                self.nbytes -= self._values.popitem(last=False)[1].nbytes
            self._values[key] = value
            self.nbytes += size
        return value
