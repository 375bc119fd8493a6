"""What a unit does in composed texts: its strength at the marked token and at the others.

Strength is 10 times the share of the reference activation, so that 3 and more is active, .2 and less at rest; negative
shares count as 0, as everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from autointerp.agent.feature_subject import FeatureSubject
from autointerp.agent.plain import Plain, number, token
from autointerp.agent.reading import Fed, padded
from autointerp.explain.feature_view import STRENGTH
from autointerp.feature_records import ACTIVE
from autointerp.scoring.token_identity import ExplainRows

SHOWN_ACTIVE = 6
FIRST = "the first position; the unit is never scored there"


def strength(share: float) -> float | None:
    """From 0 up; three digits, of which none stands after the third place."""
    return number(round(STRENGTH * max(share, 0.0), 3))


@dataclass(frozen=True, eq=False)
class ReadText:
    """A text with the unit's share at every token."""

    fed: Fed
    shares: Float32[np.ndarray, " pos"]

    @property
    def share(self) -> float:
        """At the marked token."""
        return float(self.shares[self.fed.dst])

    def view(self) -> Plain:
        """As it is shown: the strength at the mark, and the strongest other active tokens in the order of the text."""
        fed, dst = self.fed, self.fed.dst
        others = [at for at in range(1, len(fed.ids)) if at != dst and self.shares[at] >= ACTIVE]
        chosen = sorted(sorted(others, key=lambda at: (-self.shares[at], at))[:SHOWN_ACTIVE])
        found: Plain = {
            "at": token(fed.tokens[dst]),
            "strength": strength(self.share),
            "active_tokens": [[token(fed.tokens[at]), at - dst, strength(float(self.shares[at]))] for at in chosen],
        }
        return found if dst else found | {"note": FIRST}


def read_texts(subject: FeatureSubject, texts: Sequence[Fed]) -> list[ReadText]:
    """The unit's shares in each text; they are fed together, padded."""
    ids, lengths = padded(texts)
    shares = subject.reading.shares([subject.unit], ExplainRows(ids, lengths))[0]
    return [ReadText(fed, row[: len(fed.ids)]) for fed, row in zip(texts, shares, strict=True)]
