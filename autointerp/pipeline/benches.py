"""Where the experiments of a run's loops are made: one laboratory a unit, one experiment at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol

from autointerp.agent.requests import Request
from autointerp.pipeline.describing import U

Plain = dict[str, Any]


class Lab(Protocol):
    """The experiments of one unit."""

    def run(self, request: Request) -> Plain:
        """Numbers, or `{"error": ...}`; no request makes it raise."""


@dataclass(frozen=True, eq=False)
class Workshop(Generic[U]):
    """Hands out the benches of a run's units; experiments of all of them run one after the other."""

    make: Callable[[U], Lab]
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def bench(self, unit: U) -> LabBench[U]:
        """A bench for the experiments on one unit."""
        return LabBench(unit, lambda: self.make(unit), self.lock)


class LabBench(Generic[U]):
    """See `agent.loop.Bench`: a laboratory that works in a thread while it is its turn, and is made when needed: what
    it holds of its own (masks, sums) would be too much for all units of a large model."""

    def __init__(self, unit: U, make: Callable[[], Lab], lock: asyncio.Lock) -> None:
        self.unit: U = unit
        self._make, self._lock = make, lock
        self._laboratory: Lab | None = None

    async def run(self, request: Request) -> Plain:
        """See `agent.loop.Bench.run`."""
        async with self._lock:
            self._laboratory = self._laboratory or self._make()
            return await asyncio.to_thread(self._laboratory.run, request)

    def close(self) -> None:
        """Let the laboratory go; what it read stays in the data of all laboratories as long as it fits."""
        self._laboratory = None
