"""Measurements that do not depend on descriptions, kept by runs that score other descriptions of the same heads."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar, cast

T = TypeVar("T")


class Memo:
    """Values by key, for as long as the memo lives. Only runs of one model, corpus and configuration may share one:
    keys name what differs inside such a run, and nothing else."""

    def __init__(self) -> None:
        self._values: dict[Hashable, object] = {}

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of a key, made the first time. A key belongs to values of one type."""
        if key not in self._values:
            self._values[key] = make()
        return cast(T, self._values[key])


class NoMemo(Memo):
    """Keeps nothing: for runs that stand alone, and wherever nobody says that they may share."""

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Made anew each time."""
        return make()
