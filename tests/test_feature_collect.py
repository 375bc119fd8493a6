"""Evidence of neurons and latents of a tiny model, each part against what a plain forward says."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from small_corpus import corpus
from tiny_models import tiny_model

from autointerp.errors import BadInput
from autointerp.feature_records import ACTIVE, RESTING, FeatureEvidence
from autointerp.features import first_pass
from autointerp.features.activations import read_activations
from autointerp.features.collect import CollectedFeatures, FeatureCollectSpec, collect_features
from autointerp.features.lens_words import DirectionLenses, lens_words
from autointerp.features.ranked import TEXT_COLUMNS, Ranked, ranked_activations
from autointerp.features.readout import DirectionReader
from autointerp.features.sample import Sample
from autointerp.features.text_rows import is_row
from autointerp.features.units import UnitSet, load_units
from autointerp.lenses.entity_checkpoint import EntityVectors, identity
from autointerp.lenses.entity_frame import Frame
from autointerp.lenses.selfie import SelfieOptions
from autointerp.model import LanguageModel, UnitSite
from autointerp.model.unit_sites import w_out
from autointerp.records import Feature
from autointerp.tables import read_csv_cells

N_LATENTS = 12
DEAD = Feature(kind="latent", layer=0, index=3)


@functools.cache
def latents() -> UnitSet:
    """Random latents of the stream after layer 0; one is dead."""
    generator = torch.Generator().manual_seed(0)
    decoder = torch.randn(N_LATENTS, 32, generator=generator)
    bias = torch.zeros(N_LATENTS)
    bias[DEAD.index] = -1e9

    def encode(x: torch.Tensor) -> torch.Tensor:
        return (x @ decoder.T - 3.0 + bias).relu()

    site = UnitSite("latent", 0, "resid_post", N_LATENTS, 32, encode, decoder)
    return UnitSet("sae:test", (site,), tuple(site.unit(i) for i in range(N_LATENTS)))


@functools.cache
def neurons() -> UnitSet:
    return load_units("neurons", tiny_model("gpt2"))


def collect(units: UnitSet, wanted: tuple[Feature, ...] | Sample) -> CollectedFeatures:
    spec = FeatureCollectSpec(seed=3, batch_size=4)
    return collect_features(tiny_model("gpt2"), corpus(), units, wanted, spec, lambda *_: None)


@functools.cache
def found() -> CollectedFeatures:
    return collect(neurons(), Sample(8))


@functools.cache
def found_latents() -> CollectedFeatures:
    return collect(latents(), latents().features)


def everything() -> list[tuple[UnitSet, CollectedFeatures, FeatureEvidence]]:
    both = ((neurons(), found()), (latents(), found_latents()))
    return [(units, of, e) for units, of in both for e in of.evidence.values() if e.stats.state == "ok"]


def share_of(units: UnitSet, of: CollectedFeatures, unit: Feature) -> np.ndarray:
    """The unit's share of its reference at every position of the corpus."""
    windows = corpus().windows
    raw = read_activations(tiny_model("gpt2"), units, [unit], windows.ids, windows.lengths, 4, signs=of.sign)
    return raw[:, :, 0] / of.reference[unit]


def test_a_sample_gives_that_many_living_units_with_all_their_evidence() -> None:
    assert len(found().evidence) == 8
    for _, of, evidence in everything():
        assert {"top", "random"} <= {e.stratum for e in evidence.examples}
        few = evidence.stats.density < 0.1  # then the top rows are nearly all
        assert few or "quantile" in {e.stratum for e in evidence.examples}
        assert evidence.rules or few  # all rows of a rare one may be in documents that rules are not learned on
        assert evidence.stats.reference == pytest.approx(of.reference[evidence.unit], rel=1e-5)


def test_examples_show_the_activation_at_every_token() -> None:
    windows = corpus().windows
    for units, of, evidence in everything():
        share = share_of(units, of, evidence.unit)
        for example in evidence.examples:
            document = windows.doc_ids.index(example.doc_id)
            window = np.flatnonzero(windows.doc == document)[example.window]
            n = int(windows.lengths[window])
            assert example.tokens == tuple(tiny_model("gpt2").strings[i] for i in windows.ids[window, :n])
            np.testing.assert_allclose(example.activations, np.maximum(share[window, :n], 0), atol=2e-3)
            at = max(float(share[window, example.dst]), 0) * of.reference[evidence.unit]
            assert example.activation == pytest.approx(at, abs=1e-4)
            following = example.tokens[example.dst + 1] if example.dst + 1 < n else None
            assert example.next_token == following


def test_strata_hold_one_row_a_document_and_no_row_twice() -> None:
    for _, of, evidence in everything():
        for stratum in ("top", "quantile", "random", "contrast"):
            documents = [e.doc_id for e in evidence.examples if e.stratum == stratum]
            assert len(documents) == len(set(documents))
        places = [(e.doc_id, e.window, e.dst) for e in evidence.examples]
        assert len(places) == len(set(places))
        top = [e.activation for e in evidence.examples if e.stratum == "top"]
        assert top == sorted(top, reverse=True)
        assert top[0] == pytest.approx(evidence.stats.maximum, rel=1e-3)
        weights = {e.weight for e in evidence.examples if e.stratum == "random"}
        assert weights == {evidence.stats.n_rows / sum(e.stratum == "random" for e in evidence.examples)}
        assert (
            all(f.kind == evidence.unit.kind for f in evidence.neighbours) and evidence.unit not in evidence.neighbours
        )
        assert set(evidence.neighbours) <= {of.table.feature(i) for i in range(len(of.table))}


def test_contrast_rows_are_at_rest_with_a_token_of_a_top_row_or_where_a_neighbour_is_active() -> None:
    seen = set()
    for units, of, evidence in everything():
        tops = {e.tokens[e.dst] for e in evidence.examples if e.stratum == "top"}
        near = [share_of(units, CollectedFeatures.of({f: evidence}, of.table), f) for f in evidence.neighbours[:3]]
        windows = corpus().windows
        for example in (e for e in evidence.examples if e.stratum == "contrast"):
            seen.add(example.tier)
            assert example.activations[example.dst] <= RESTING
            window = np.flatnonzero(windows.doc == windows.doc_ids.index(example.doc_id))[example.window]
            if example.tier == "token":
                assert example.tokens[example.dst] in tops
            else:
                assert max(share[window, example.dst] for share in near) >= ACTIVE - 1e-3
    assert seen == {"token", "neighbour"}


def test_statistics_are_those_of_all_rows() -> None:
    windows, model = corpus().windows, tiny_model("gpt2")
    rows = is_row(windows.ids, windows.lengths, model.special_ids)
    for units, of, evidence in everything():
        share = share_of(units, of, evidence.unit)[rows]
        stats = evidence.stats
        assert stats.n_rows == rows.sum() and stats.n_docs == 10
        assert stats.density == pytest.approx((share > 0).mean(), abs=1e-6)
        assert stats.active_share.value == pytest.approx((share >= ACTIVE).mean(), abs=0.004)  # ties with rounding
        assert stats.active_share.low <= stats.active_share.value <= stats.active_share.high
        assert stats.mean == pytest.approx(share.mean() * of.reference[evidence.unit], abs=1e-4)
        assert of.mean[evidence.unit] == pytest.approx(stats.mean * stats.sign, abs=1e-5)
        above = np.where(share > RESTING, share, 0)
        token = stats.top_tokens[0]
        at = np.array([model.strings[i] == token.token for i in windows.ids[rows]])
        assert token.part == pytest.approx(above[at].sum() / above.sum(), abs=1e-3)
        assert (token.rows, token.active) == (at.sum(), (share[at] >= ACTIVE).sum())


def test_what_is_lost_is_that_of_a_forward_with_the_unit_at_its_mean() -> None:
    model, windows = tiny_model("gpt2"), corpus().windows
    for units, of, evidence in everything():
        example = evidence.examples[0]
        window = np.flatnonzero(windows.doc == windows.doc_ids.index(example.doc_id))[example.window]
        ids = model.to_ids(windows.ids[window : window + 1, : example.dst + 1])
        site = units.site_of(evidence.unit)
        change = of.mean[evidence.unit] - example.activation * of.sign[evidence.unit]
        direction = site.directions([evidence.unit.index], model.device)[0] * change

        def add(tensor: torch.Tensor, hook: object, direction: torch.Tensor = direction) -> torch.Tensor:
            changed = tensor.clone()
            changed[:, -1] += direction
            return changed

        before = torch.log_softmax(model.logits(ids)[0, -1], -1)
        with model.hooks([(site.hook, add)]):
            after = torch.log_softmax(model.logits(ids)[0, -1], -1)
        kl = float((before.exp() * (before - after)).sum())
        assert example.abl_kl == pytest.approx(kl, rel=1e-2, abs=1e-5)
        if example.next_token is not None:
            following = int(windows.ids[window, example.dst + 1])
            assert example.abl_dlogp_next == pytest.approx(float(before[following] - after[following]), abs=1e-4)
        lost = before - after
        assert example.lowered[0].token == model.strings[int(lost.argmax())] and example.lowered[0].value < 0
        assert example.raised[0].token == model.strings[int(lost.argmin())] and example.raised[0].value > 0
        assert np.isnan([e.abl_kl for e in evidence.examples if e.stratum in ("random", "contrast")]).all()


def test_promoted_tokens_are_those_of_the_direction_at_the_reference() -> None:
    model = tiny_model("gpt2")
    reader = DirectionReader.of(model, corpus(), 3)
    for units, of, evidence in everything():
        unit, site = evidence.unit, units.site_of(evidence.unit)
        row = w_out(model, unit.layer)[unit.index] if site.decoder is None else site.decoder[unit.index]
        logits = reader.logits((row * of.reference[unit] * of.sign[unit])[None])[0]
        readout = evidence.readout
        assert readout is not None
        assert readout.up[0].token == model.strings[int(logits.argmax())]
        assert readout.up[0].value == pytest.approx(float(logits.max()), rel=1e-4)
        assert readout.down[0].token == model.strings[int(logits.argmin())]
        assert float(logits.mean()) == pytest.approx(0, abs=1e-4)
        assert readout.random_max == pytest.approx(reader.random * float(row.norm()) * of.reference[unit], rel=1e-4)


@pytest.mark.slow
def test_a_neuron_that_is_turned_writes_the_other_way() -> None:
    model = tiny_model("llama")
    units, spec = load_units("neurons", model), FeatureCollectSpec(seed=3, batch_size=4)
    of = collect_features(model, corpus(), units, Sample(40), spec, lambda *_: None)
    reader, turned = DirectionReader.of(model, corpus(), 3), [u for u, sign in of.sign.items() if sign < 0]
    assert turned
    windows = corpus().windows
    for unit in turned[:3]:
        evidence = of.evidence[unit]
        logits = reader.logits(-w_out(model, unit.layer)[unit.index][None] * of.reference[unit])[0]
        assert evidence.readout is not None
        assert evidence.readout.up[0].token == model.strings[int(logits.argmax())]
        raw = read_activations(model, units, [unit], windows.ids, windows.lengths)[:, 1:]
        assert evidence.stats.maximum == pytest.approx(-float(raw.min()), rel=1e-4)
        assert of.mean[unit] == pytest.approx(-evidence.stats.mean, rel=1e-4, abs=1e-6)
        assert max(e.activations[e.dst] for e in evidence.examples) > 0.9


def test_neighbours_have_the_largest_cosines_times_both_signs() -> None:
    model = tiny_model("gpt2")
    for units, of, evidence in everything():
        site = units.site_of(evidence.unit)
        whole = w_out(model, site.layer) if site.decoder is None else site.decoder
        start = of.table.row(site.unit(0))
        sign = torch.tensor(of.table.sign[start : start + site.n_units], dtype=torch.float32)
        cosine = torch.nn.functional.cosine_similarity(whole, whole[evidence.unit.index][None]) * sign
        cosine = cosine * sign[evidence.unit.index]
        like = of.table.state[start : start + site.n_units] == "ok"
        able = [i for i in range(site.n_units) if i != evidence.unit.index and like[i] and cosine[i] > 0]
        best = sorted(able, key=lambda i: -float(cosine[i]))[:5]
        assert [f.index for f in evidence.neighbours] == best


def near_half() -> UnitSet:
    """Latents that count how many of their 24 random directions a position is above: active at 8 and more, .3 of 24."""
    generator = torch.Generator().manual_seed(1)
    decoder = torch.randn(24, 32, generator=generator)
    levels = torch.linspace(-2.0, 6.0, 24)

    def encode(x: torch.Tensor) -> torch.Tensor:
        level = torch.tanh((x @ decoder.T).sum(-1, keepdim=True) / 20)
        return (level * 8 + levels).relu()

    site = UnitSite("latent", 0, "resid_post", 24, 32, encode, decoder)
    return UnitSet("sae:test", (site,), tuple(site.unit(i) for i in range(24)))


def test_units_about_the_line_are_dense_by_a_count_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_pass, "SHARED_ROWS", 48)  # a rough estimate, which errs about the line
    units = near_half()
    of = collect(units, units.features)
    windows = corpus().windows
    there = is_row(np.asarray(windows.ids), np.asarray(windows.lengths), tiny_model("gpt2").special_ids)
    near = 0
    for unit, evidence in of.evidence.items():
        exact = float((share_of(units, of, unit)[there] >= ACTIVE).mean())
        share = evidence.stats.active_share
        assert (evidence.stats.state == "dense") == (exact > 0.5) == (of.table.state[of.table.row(unit)] == "dense")
        assert share.low <= share.value <= share.high and (evidence.rules == ()) == (exact > 0.5)
        if 0.4 < exact < 0.6:
            near += 1
            assert share.value == pytest.approx(exact, abs=1e-5) == of.table.active_share[of.table.row(unit)]
    assert near >= 3


def test_every_example_stands_at_its_own_place_among_random_rows() -> None:
    seen = []
    for units, of, evidence in everything():
        state = first_pass.run_unit_pass(tiny_model("gpt2"), corpus(), units.sites, first_pass.PassPlan(3, 4))
        row = of.table.row(evidence.unit)
        among = np.maximum(state.shared[:, row].astype(np.float64) * of.sign[evidence.unit], 0)
        for example in evidence.examples:
            below, upto = (among < example.activation * 0.998).mean(), (among <= example.activation * 1.002).mean()
            assert below - 1e-9 <= example.quantile <= upto + 1e-9
            if example.stratum == "contrast" and example.activation > 0:
                seen.append(example.quantile - (among <= 0).mean())
    assert max(seen) > 0.01  # a row at rest is not always at 0


def test_a_dead_unit_has_statistics_and_nothing_else() -> None:
    evidence = found_latents().evidence[DEAD]
    assert evidence.stats.state == "dead" and evidence.stats.density == 0 and evidence.stats.quantiles == ()
    assert not evidence.rules and not evidence.examples and evidence.readout is None
    assert evidence.notes == ("never active on the explain split",)


def test_a_units_evidence_does_not_depend_on_which_others_are_wanted() -> None:
    unit = next(iter(found().evidence))
    alone, among = collect(neurons(), (unit,)).evidence[unit], found().evidence[unit]
    assert alone.stats == among.stats and alone.rules == among.rules and alone.neighbours == among.neighbours
    assert [(e.doc_id, e.window, e.dst, e.stratum, e.tier) for e in alone.examples] == [
        (e.doc_id, e.window, e.dst, e.stratum, e.tier) for e in among.examples
    ]


def test_activations_can_be_read_in_any_order_of_units() -> None:
    windows, model = corpus().windows, tiny_model("gpt2")
    some = [Feature(kind="neuron", layer=layer, index=i) for layer, i in ((1, 4), (0, 9), (1, 0), (0, 4))]
    both = read_activations(model, neurons(), some, windows.ids, windows.lengths, 4)
    for column, unit in enumerate(some):
        one = read_activations(model, neurons(), [unit], windows.ids, windows.lengths, 3)
        np.testing.assert_allclose(both[:, :, column], one[:, :, 0], atol=1e-5)
    assert (both[np.arange(both.shape[1]) >= windows.lengths[:, None]] == 0).all()
    assert np.ptp(both[:, 1:5], axis=(0, 1)).min() > 0
    assert read_activations(model, neurons(), [], windows.ids, windows.lengths).shape[2] == 0


@pytest.mark.parametrize("order", ["top", "bottom"])
def test_ranked_rows_are_the_extremes_of_documents(order: str) -> None:
    model, windows = tiny_model("gpt2"), corpus().windows
    unit = Feature(kind="neuron", layer=1, index=7)
    values = read_activations(model, neurons(), [unit], windows.ids, windows.lengths)[:, :, 0]
    rows = is_row(windows.ids, windows.lengths, model.special_ids)
    sign = 1 if order == "top" else -1
    best = [max((sign * values)[windows.doc == d][rows[windows.doc == d]]) for d in range(10)]
    table = ranked_activations(model, corpus(), neurons(), unit, Ranked(order, 4), 4)
    np.testing.assert_allclose([sign * r.activation for r in table.rows], sorted(best, reverse=True)[:4], atol=1e-5)
    assert table.population == rows.sum()
    sizes = [np.abs(values[windows.doc == d][rows[windows.doc == d]]).max() for d in range(10)]
    assert table.rows[0].share == pytest.approx(table.rows[0].activation / np.mean(sizes), rel=1e-4)
    row = table.rows[0]
    assert row.tokens[row.dst] == row.token and row.activations[row.dst] == pytest.approx(row.activation, abs=1e-4)


def test_ranked_rows_at_one_token_random_rows_and_the_forms_of_the_table() -> None:
    model = tiny_model("gpt2")
    unit = Feature(kind="neuron", layer=0, index=7)
    at = ranked_activations(model, corpus(), neurons(), unit, Ranked("top", 5, token=" dog"))
    assert {row.token for row in at.rows} == {" dog"} and at.population < 40
    first = ranked_activations(model, corpus(), neurons(), unit, Ranked("random", 6, seed=1), 3)
    again = ranked_activations(model, corpus(), neurons(), unit, Ranked("random", 6, seed=1), 5)
    other = ranked_activations(model, corpus(), neurons(), unit, Ranked("random", 6, seed=2), 5)
    assert [r.prefix_text for r in first.rows] == [r.prefix_text for r in again.rows]
    assert [r.prefix_text for r in first.rows] != [r.prefix_text for r in other.rows]
    cells = read_csv_cells(first.to_csv(), TEXT_COLUMNS)
    assert [c["token"] for c in cells] == [r.token for r in first.rows]
    assert "L0N7" in first.to_markdown() and '"population"' in first.to_json() and "<table" in first.to_html()
    with pytest.raises(BadInput, match="no token"):
        ranked_activations(model, corpus(), neurons(), unit, Ranked(token="nonesuch"))
    with pytest.raises(BadInput):
        Ranked(n=0)
    with pytest.raises(BadInput):
        Ranked("sideways")


def tiny_vectors(model: LanguageModel) -> EntityVectors:
    """Untrained vectors of the entity lens that belong to the model."""
    draw, size, layers = torch.Generator().manual_seed(0), 32, (0, 1)
    theta = torch.randn(len(layers), size, generator=draw)
    facts = {**identity(model, Frame.of(model)), "context": "none", "method": "in_context", "use_filter": False}
    mean, others = torch.randn(2, size, generator=draw), torch.randn(8, 2, size, generator=draw)
    return EntityVectors(layers, theta, theta[None].clone(), mean, others, None, facts)


def test_lens_words_name_their_controls_and_are_specific_only_by_the_lens_own_verdict() -> None:
    model = tiny_model("gpt2")
    some = [f for f, e in found().evidence.items() if e.stats.state == "ok"][:2]
    options = SelfieOptions(prompts=("thing",), placeholders=2, max_new_tokens=3, nulls=2)
    lenses = DirectionLenses(options, tiny_vectors(model))
    words = lens_words(model, neurons(), found().table, some, lenses)
    assert list(words) == some and words == lens_words(model, neurons(), found().table, some, lenses)
    for readings in words.values():
        assert [one.lens for one in readings] == ["entity", "selfie"]
        assert all(one.controls and one.detail for one in readings)
        assert not readings[1].specific  # one prompt and two nulls are too few for that
    assert lens_words(model, neurons(), found().table, some, DirectionLenses(None)) == {f: () for f in some}
