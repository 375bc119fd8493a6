"""What a run's units are called on its pages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from autointerp.feature_records import FeatureReport, UnitState
from autointerp.records import Feature, HeadReport, Unit

Report = HeadReport | FeatureReport


@dataclass(frozen=True)
class Nouns:
    """`file`: the stem of the run's table and reports; `mass`: what a description covers a part of."""

    one: str
    many: str
    title: str
    file: str
    mass: str

    def count(self, n: int) -> str:
        """`1 head`, `2 heads`."""
        return f"{n:,} {self.one if n == 1 else self.many}"


HEADS = Nouns("head", "heads", "Attention heads", "heads", "contribution")
NEURONS = Nouns("neuron", "neurons", "Neurons", "features", "activation")
LATENTS = Nouns("latent", "latents", "Latents", "features", "activation")
FEATURES = Nouns("unit", "units", "Neurons and latents", "features", "activation")


def feature_nouns(units: Iterable[Feature]) -> Nouns:
    """Neurons, latents, or units where both or none are there."""
    kinds = {unit.kind for unit in units}
    return FEATURES if len(kinds) != 1 else NEURONS if "neuron" in kinds else LATENTS


def unit_of(report: Report) -> Unit:
    """The unit that a report is about."""
    return report.head if isinstance(report, HeadReport) else report.unit


def state_of(report: Report) -> UnitState:
    """`dead` or `dense` of a neuron or latent that is not described for it; `ok` else."""
    return "ok" if isinstance(report, HeadReport) else report.evidence.stats.state
