"""The random-weights null: what a description gains on the same head of a model that learned nothing (rule 10).

The description's own predicate is scored on the same held-out rows, on a model of the same shape with fresh weights.
Its positives and negatives are that model's own, so prevalence and chance line differ; what counts is the gain over
chance, added to the chance of the described head. A description that gains as much there follows from the shape of
the rows (short rows, causal order), not from what the head learned. (Random transformers reach similar scores,
arXiv 2501.17727.)
"""

from __future__ import annotations

import numpy as np

from autointerp.errors import ModelError
from autointerp.model import LanguageModel, random_twin
from autointerp.records import Control, Unscored
from autointerp.scoring.controls import compared
from autointerp.stats.bootstrap import Draws

RANDOM = "random-weights model"
MISSING = "no_random_weights_control"  # in the details of a score: why there is none
Twin = LanguageModel | Unscored


def twin_of(model: LanguageModel, seed: int) -> Twin:
    """A model of the same shape with random weights, or why there is none."""
    try:
        return random_twin(model, seed)
    except (ModelError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Unscored(scorer=RANDOM, reason=f"no model with random weights could be made: {first[:200]}")


def random_control(score: tuple[float, Draws], chance: tuple[float, Draws], gained: tuple[float, Draws]) -> Control:
    """The null from points and resampled values: of the score, of its chance line, and of what the description gains
    over chance on random weights. A loss there counts as no gain, and so does an undefined score."""
    point, drawn = (np.maximum(np.nan_to_num(np.asarray(value), nan=0.0), 0.0) for value in gained)
    return compared(RANDOM, score[0], chance[0] + float(point), score[1] - (chance[1] + drawn))
