"""How destinations are matched: on token frequency, position, and the model's entropy (scoring_validity rule 12)."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

from autointerp.evidence.buckets import bucket_of
from autointerp.scoring.head_values import RowFacts
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.matching import CALIPER, Kind, Matched, match, quantile_classes

FREQUENCY_CLASSES, QUINTILES = 5, 5
NEARLY_ALL = 0.05  # a rest of the rows below this is no group to compare with


class DestinationKinds:
    """Classes and values of the destinations of some rows."""

    def __init__(self, held_out: HeldOutRows, facts: RowFacts) -> None:
        self._held_out, self._facts = held_out, facts

    def kind(self, window: Int[np.ndarray, " row"], dst: Int[np.ndarray, " row"]) -> Kind:
        """As cases to match."""
        classes = {
            "frequency": self.frequency[window, dst],
            "position": bucket_of(dst),
            "entropy": self._entropy[window, dst],
        }
        values = {
            "frequency": np.log(self._facts.count[window, dst]),
            "position": np.log(dst),
            "entropy": self._facts.entropy[window, dst].astype(np.float64),
        }
        return Kind(classes, values)

    @cached_property
    def frequency(self) -> Int[np.ndarray, "window pos"]:
        """How common each token is: its class among the destinations."""
        return self._classes(self._facts.count, FREQUENCY_CLASSES)

    @cached_property
    def _entropy(self) -> Int[np.ndarray, "window pos"]:
        return self._classes(self._facts.entropy, QUINTILES)

    def _classes(self, values: np.ndarray, n: int) -> Int[np.ndarray, "window pos"]:
        return quantile_classes(values.ravel(), values[self._held_out.rows], n).reshape(values.shape)


def match_nearly(first: Kind, second: Kind, rng: np.random.Generator) -> tuple[Matched, str]:
    """Match as closely as leaves at most half of the first kind without a match, and say on what.

    Exactly (all classes, values within the caliper), on classes alone, on all classes but the token's frequency (a unit
    that knows one common token has nothing as frequent to compare with), or the nearest.
    """
    loose = [name for name in first.classes if name != "frequency"]
    tries: tuple[tuple[tuple[str, ...], float, str], ...] = (
        (tuple(first.classes), CALIPER, "frequency, position, entropy"),
        (tuple(first.classes), np.inf, "classes of frequency, position, entropy"),
        (tuple(loose), np.inf, "classes of position, entropy"),
        ((), np.inf, "nearest in frequency, position, entropy"),
    )
    results = (
        (match(_only(first, classes), _only(second, classes), rng, caliper), said) for classes, caliper, said in tries
    )
    found = next(results)
    while 2 * len(found[0]) < len(first) and (nearer := next(results, None)) is not None:
        found = nearer
    return found


def _only(kind: Kind, classes: tuple[str, ...]) -> Kind:
    return Kind({name: kind.classes[name] for name in classes}, kind.values)


def always_active(rows: Bool[np.ndarray, "window pos"], active: Bool[np.ndarray, "window pos"]) -> bool:
    """Whether (nearly) every destination is named. Positions at which no row is say nothing: they may be too early to
    have a source."""
    possible = rows & active.any(0)
    return bool((possible & ~active).sum() < NEARLY_ALL * possible.sum())
