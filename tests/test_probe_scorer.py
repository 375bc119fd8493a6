"""Labels of the probe scorer: the token of the nearest predicted source."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import tiny_model

from autointerp.predicate import TokenTable
from autointerp.records import Head, Score
from autointerp.scoring.held_out import HeldOutRows, text_rows
from autointerp.scoring.predicted import PredictedPairs
from autointerp.scoring.probes import labelled_windows, score_probes
from tests.test_scoring import rows_of


def few_words(rows: HeldOutRows) -> HeldOutRows:
    """The rows with four different tokens only, none of them a control token."""
    ids = 20 + rows.ids % 4
    ids[:, 0] = rows.ids[:, 0]
    return text_rows(ids, rows.lengths, rows.documents, "test", (1, 2))


def test_a_destination_is_labelled_with_its_nearest_predicted_source() -> None:
    model = tiny_model("gpt2")
    rows = few_words(rows_of(model))
    pairs = PredictedPairs(rows, TokenTable.from_strings(model.strings, model.special_ids))
    found = labelled_windows(pairs, "distance == 2 or distance == 3", model.strings)
    for window in range(len(rows.ids)):
        for dst in range(rows.ids.shape[1]):
            label = int(found.labels[window, dst])
            if dst < 3 or dst >= rows.lengths[window]:
                assert label == -1
            else:
                assert found.class_names[label] == model.strings[int(rows.ids[window, dst - 2])]
    assert (found.labels[:, 3] >= 0).all()
    assert len(set(found.class_names)) == len(found.class_names)


@pytest.mark.slow
def test_every_claim_gets_a_number_or_a_reason() -> None:
    model = tiny_model("gpt2")
    rows = few_words(rows_of(model, n=40))
    pairs = PredictedPairs(rows, TokenTable.from_strings(model.strings, model.special_ids))
    said: list[tuple[str, int, int]] = []
    claims = {Head(layer=0, index=1): "distance == 1", Head(layer=1, index=0): 'src.text == "zebra"'}
    found = score_probes(model, pairs, claims, 0, lambda *step: said.append(step))
    first, second = (found[head] for head in sorted(claims))
    assert isinstance(first, Score)
    assert first.domain == "text"
    assert 0 <= first.low <= first.value <= first.high <= 1
    assert first.controls
    assert not isinstance(second, Score)
    assert second.reason
    assert said == [("probing heads on text", 1, 2), ("probing heads on text", 2, 2)]
    assert np.isfinite(first.chance)
