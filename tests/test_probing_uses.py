"""The causal check, and the probe of a described head."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from probe_helpers import NOUNS, TEMPLATES, noun_items, noun_set
from tiny_models import tiny_model

from autointerp.errors import BadInput
from autointerp.model import LanguageModel
from autointerp.model.sites import Row, Site, read_sites
from autointerp.probing import ProbeItem, place_items
from autointerp.probing.causal import CausalResult, run_causal
from autointerp.probing.causal_conditions import CausalInputs
from autointerp.probing.collection import collect
from autointerp.probing.head_score import LabelledWindows, ProbeBudget, probe_head
from autointerp.probing.study import task_of
from autointerp.records import Head, Score, Unscored

# causal check


def behaviour_items(model: LanguageModel) -> list[ProbeItem]:
    """Texts that end with the noun; each noun's own continuation is what the model prefers after it."""
    words = [i for i, s in enumerate(model.strings) if s.startswith(" ") and s[1:].isalpha() and len(s) > 2]
    texts = [template.split("{}")[0] + "{}" for template in TEMPLATES]
    mean = {}
    for noun in NOUNS:
        rows = [model.encode(text.format(noun))[0] for text in texts]
        fed = [np.concatenate([[] if model.bos_id is None else [model.bos_id], row]) for row in rows]
        mean[noun] = torch.stack([model.logits(model.to_ids(row[None]))[0, -1, words] for row in fed]).mean(0)
    overall = torch.stack(list(mean.values())).mean(0)
    top = {noun: model.strings[words[int((logits - overall).argmax())]] for noun, logits in mean.items()}
    assert len(set(top.values())) > 3
    pairs = [(noun, next(o for o in NOUNS if top[o] != top[noun])) for noun in NOUNS]
    return [
        ProbeItem(text.format(noun), f" {noun}", noun, {"template": f"t{t}"}, last=True,
                  correct=top[noun], incorrect=top[other])
        for t, text in enumerate(texts) for noun, other in pairs
    ]  # fmt: skip


def causal(site: Site, subspace: Any = "class_means", other: Site | None = None) -> CausalResult:
    model = tiny_model()
    probe_set = place_items(model, behaviour_items(model))
    x = collect(model, probe_set, [site, *([other] if other else [])])
    task = task_of(probe_set, "template", 0)
    pair = (other, x[other]) if other else None
    return run_causal(CausalInputs(model, probe_set, task, site, x[site], pair), subspace)


@pytest.mark.slow
@pytest.mark.parametrize("subspace", ["class_means", "probe_rows"])
def test_erasing_and_exchanging_what_the_output_is_read_from_changes_it(subspace: str) -> None:
    found = causal(Site("resid_post", 1), subspace)
    effects = {(e.name, e.kind): e for e in found.effects}
    label, random = effects["label subspace", "erase"], effects["random subspace", "erase"]
    assert found.rank == 5 and found.size == 32 and found.n_items == 36
    assert label.drop.value > 3 * abs(random.drop.value)
    if subspace == "class_means":
        assert found.erase_margin.low > 0 and found.used
        assert found.flip_margin.low > 0, (found.flip_margin, found.flip_control)
        assert label.accuracy == pytest.approx(1 / 6, abs=0.1)
    assert label.accuracy < random.accuracy > 0.9, "one probe's rows do not hold all there is"
    assert effects["LEACE", "erase"].accuracy == pytest.approx(1 / 6, abs=0.1)
    exchanged = effects["label subspace", "interchange"]
    assert exchanged.flipped is not None and exchanged.flipped.value > 0.4
    assert np.isnan(label.kl.value), "no position comes after the changed one"


def test_a_head_is_compared_with_another_head() -> None:
    found = causal(Site("result", 0, 0), other=Site("result", 0, 1))
    assert ("another head", "erase") in {(e.name, e.kind) for e in found.effects}
    assert found.status == "" and found.erase_control != "label subspace"


def test_the_causal_check_needs_single_token_continuations() -> None:
    model = tiny_model()
    probe_set = noun_set(model)
    site = Site("z", 0, 0)
    x = collect(model, probe_set, [site])[site]
    with pytest.raises(BadInput, match="no correct continuation"):
        CausalInputs(model, probe_set, task_of(probe_set, "template", 0), site, x)
    item = noun_items()[0]
    long = ProbeItem(item.text, item.position, item.label, item.groups, last=True, correct=" cat sat", incorrect=" dog")
    with pytest.raises(BadInput, match="' cat sat' is 2 tokens"):
        CausalInputs(model, place_items(model, [long]), task_of(probe_set, "template", 0), site, x)


# described heads


def windows(model: LanguageModel, n: int = 24, size: int = 16, *, planted: bool = True) -> LabelledWindows:
    """Random word windows; the label is the side of L0H1's z along a planted direction, or noise."""
    draw = np.random.default_rng(0)
    words = [i for i, s in enumerate(model.strings) if s.startswith(" ") and s[1:].isalpha()]
    ids = draw.choice(words, size=(n, size)).astype(np.int32)
    ids[:, 0] = model.bos_id
    rows = [Row(row, position) for row in ids for position in range(size)]
    z = read_sites(model, rows, [Site("z", 0, 1)])[Site("z", 0, 1)].numpy().reshape(n, size, -1)
    side = z @ draw.normal(size=z.shape[-1])
    labels = (side > np.median(side)).astype(np.int64) if planted else draw.integers(2, size=ids.shape)
    labels[:, 0] = -1
    labels[:, ::3] = -1
    return LabelledWindows(ids, np.full(n, size), np.arange(n), labels, ("low", "high"))


@pytest.mark.slow
def test_a_described_head_gets_a_result_line_with_controls_and_a_warning_where_items_are_few() -> None:
    model = tiny_model()
    budget = ProbeBudget(max_items=150, shuffles=2, other_heads=2)
    found = probe_head(model, Head(layer=0, index=1), windows(model), budget)
    assert isinstance(found, Score)
    assert found.scorer == "probe" and found.metric == "accuracy"
    assert found.n_items == 150 and found.n_docs == 24 and found.state == ""
    assert found.low <= found.value <= found.high
    assert {c.name for c in found.controls} == {
        "majority", "shuffled_labels", "embedding", "positional", "earlier_layer", "random_ov", "control_task",
    }  # fmt: skip
    assert {c.kind for c in found.controls} == {"null", "rival"}
    assert found.details["n_other_heads"] == 2
    assert found.details["margin"] is not None and "conclusion" in found.details
    assert probe_head(model, Head(layer=0, index=1), windows(model), budget) == found
    few = probe_head(model, Head(layer=0, index=0), windows(model, n=4), ProbeBudget(shuffles=1, other_heads=0))
    assert isinstance(few, Score) and few.state == "underpowered"


@pytest.mark.slow
def test_a_direction_planted_in_a_heads_output_is_found_and_noise_is_not() -> None:
    model = tiny_model()
    budget = ProbeBudget(max_items=150, shuffles=1, other_heads=0)
    carried = probe_head(model, Head(layer=0, index=1), windows(model), budget)
    noise = probe_head(model, Head(layer=0, index=1), windows(model, planted=False), budget)
    assert isinstance(carried, Score) and isinstance(noise, Score)
    assert carried.value > 0.85 > 0.65 > noise.value
    margin = carried.details["margin_low"]
    assert isinstance(margin, float) and margin > 0
    assert str(carried.details["conclusion"]).startswith("present")
    assert str(noise.details["conclusion"]).startswith("not shown")


def test_a_described_head_without_enough_labels_is_unscored_with_a_reason() -> None:
    model = tiny_model()
    one = windows(model)
    alone = LabelledWindows(one.ids, one.lengths, one.documents, np.minimum(one.labels, 0), ("odd",))
    found = probe_head(model, Head(layer=0, index=0), alone)
    assert isinstance(found, Unscored) and "1 classes" in found.reason
    same = LabelledWindows(one.ids, one.lengths, np.zeros(24, dtype=int), one.labels, one.class_names)
    assert isinstance(probe_head(model, Head(layer=0, index=0), same), Unscored)
    with pytest.raises(BadInput, match="has no name"):
        LabelledWindows(one.ids, one.lengths, one.documents, one.labels, ("odd",))
    with pytest.raises(BadInput, match="one a position"):
        LabelledWindows(one.ids, one.lengths, one.documents, one.labels[:, 1:], one.class_names)
