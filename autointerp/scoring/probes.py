"""The scorer `probe` on described heads: does the head's output carry which token its description says it looks at?

The label of a destination is the token of the nearest source that the predicate names there; its classes are the most
frequent such tokens. Documents are the groups of the split. What the numbers mean, and the controls, are those of
`probing.head_score`. It costs about as much as all other scorers together and runs only where it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from autointerp.model import LanguageModel
from autointerp.probing.head_score import LabelledWindows, ProbeBudget, probe_head
from autointerp.records import Head, Score, Unscored
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.predicted import PredictedPairs

PROBE = "probe"
MAX_ITEMS = 500


def labelled_windows(pairs: PredictedPairs, predicate: str, strings: Sequence[str]) -> LabelledWindows:
    """Destinations labelled with the token of the nearest predicted source; -1 where none is predicted."""
    rows: HeldOutRows = pairs.held_out
    mask = pairs.mask(predicate)
    size = mask.shape[-1]
    nearest = size - 1 - mask[:, :, ::-1].argmax(-1)
    found = mask.any(-1)
    tokens = np.take_along_axis(rows.ids, nearest, axis=1)
    present, labels = np.unique(tokens[found], return_inverse=True)
    out = np.full(rows.ids.shape, -1, np.int64)
    out[found] = labels.reshape(-1)
    names = tuple(strings[int(token)] for token in present)
    return LabelledWindows(rows.ids, rows.lengths, rows.documents, out, names)


def score_probes(
    model: LanguageModel,
    pairs: PredictedPairs,
    claims: Mapping[Head, str],
    seed: int,
    progress: Callable[[str, int, int], None],
) -> dict[Head, Score | Unscored]:
    """Probe the head of every claim."""
    found: dict[Head, Score | Unscored] = {}
    for number, (head, predicate) in enumerate(sorted(claims.items()), 1):
        windows = labelled_windows(pairs, predicate, model.strings)
        score = probe_head(model, head, windows, ProbeBudget(max_items=MAX_ITEMS, seed=seed))
        found[head] = score.model_copy(update={"domain": pairs.held_out.domain}) if isinstance(score, Score) else score
        progress(f"probing heads on {pairs.held_out.domain}", number, len(claims))
    return found
