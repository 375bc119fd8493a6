"""Activations of neurons and latents from a notebook."""

from __future__ import annotations

import numpy as np
import pytest

from autointerp.errors import BadInput
from autointerp.features.activations import read_activations
from autointerp.features.text_windows import gathered
from autointerp.features.units import load_units
from autointerp.notebook import open_model
from autointerp.records import Feature
from tests.tiny_models import tiny_model

TEXTS = ["the cat sat on the mat .", "the dog ran to the red ball and the cat", "a big dog sat", "the dog ran to a mat"]


def test_a_neuron_s_activations_are_ranked_over_texts() -> None:
    model = tiny_model("gpt2")
    m, unit = open_model(model), Feature(kind="neuron", layer=1, index=7)
    explain = gathered(m.windows(TEXTS))
    windows = explain.windows
    values = read_activations(model, load_units("neurons", model), [unit], windows.ids, windows.lengths)[:, :, 0]
    best = [values[row, 1:length].max() for row, length in enumerate(windows.lengths)]
    table = m.activations("L1N7", TEXTS, n=3)
    assert [row.activation for row in table.rows] == pytest.approx(sorted(best, reverse=True)[:3], abs=1e-5)
    assert [row.doc_id for row in table.rows] == [windows.doc_ids[i] for i in np.argsort(best)[::-1][:3]]
    assert table.population == int((windows.lengths - 1).sum())
    frame = table.to_dataframe()
    assert list(frame["token"]) == [row.token for row in table.rows] and "<table" in table._repr_html_()
    cats = m.activations(unit, TEXTS, order="bottom", token=" cat")
    assert {row.token for row in cats.rows} == {" cat"} and len(cats.rows) == 2


def test_windows_of_one_document_stay_together() -> None:
    model = tiny_model("gpt2")
    explain = gathered(open_model(model).windows([" ".join(TEXTS), TEXTS[0]], context=12))
    assert explain.windows.doc.tolist() == sorted(explain.windows.doc.tolist())
    assert explain.windows.window_in_doc.tolist()[:2] == [0, 1] and len(explain.windows.doc_ids) == 2
    assert (explain.windows.ids[np.arange(explain.context) >= explain.windows.lengths[:, None]] == 0).all()
    with pytest.raises(BadInput, match="no windows"):
        gathered([])


def test_what_cannot_be_asked_is_refused() -> None:
    m = open_model(tiny_model("gpt2"))
    for unit, units, why in (
        ("L1H2", "", "L1H2"), ("L2F17", "", "say of which autoencoder"), ("L1N99999", "", "99999"),
        ("L1N7", "neurons:L0", "L1N7"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=why):
            m.activations(unit, TEXTS, units)
