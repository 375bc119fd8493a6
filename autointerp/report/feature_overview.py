"""The facts of a run over neurons or latents: those of any run, with how many units there are and how well the
dictionary rebuilds what it reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from autointerp.report.feature_units import UnitRows
from autointerp.report.overview import Facts, Overview, flatten, text_of

FIRST = ("explained variance", "loss recovered", "l0", "alive share", "n tokens")


@dataclass(frozen=True)
class FeatureOverview(Overview):
    """`units`: all units of the model's places that were read; the reported ones alone where no table was kept."""

    units: UnitRows = UnitRows((), (), {})  # noqa: RUF009 (frozen)

    @property
    def states(self) -> Counter[str]:
        """How many of all units are ok, dead and dense."""
        return self.units.counts()

    @property
    def reconstruction(self) -> Facts:
        """How well the dictionary rebuilds the activations, from run.json; nothing for neurons."""
        found = self.run.get("reconstruction")
        if not isinstance(found, Mapping):
            return []
        return flatten({name: _with_interval(value) for name, value in found.items()})

    @property
    def rebuilt(self) -> Facts:
        """The few of these numbers that stand at the top of the page."""
        return [(name, text) for name, text in self.reconstruction if name in FIRST]

    def facts(self) -> dict[str, Facts]:
        """The groups of any run, with the units' first."""
        states = self.states
        about: Facts = [("all", f"{len(self.units):,}"), ("dead", f"{states['dead']:,}, never above 0")]
        about += [("dense", f"{states['dense']:,}, active in more than half of the positions")]
        about += [("reported", f"{self.summary.n_total:,}")]
        told = self.run.get("units")
        if isinstance(told, Mapping):
            about += flatten({name: value for name, value in told.items() if name not in {"all", "states"}})
        groups = {self.nouns.many.capitalize(): about, "Reconstruction": self.reconstruction, **super().facts()}
        return {name: facts for name, facts in groups.items() if facts}


def _with_interval(value: object) -> object:
    """An interval of run.json as text; all else as it is."""
    if not isinstance(value, Mapping) or not {"value", "low", "high"} <= set(value):
        return value
    return f"{text_of(value['value'])} [{text_of(value['low'])}, {text_of(value['high'])}]"
