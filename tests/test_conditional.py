"""Explanation-conditioned ablation: replaced z, matching and one-position runs against hand counts; planted heads."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.errors import BadInput
from autointerp.evidence.buckets import bucket_of, n_buckets
from autointerp.model import LanguageModel, one_position
from autointerp.model.one_position import RowChanges, run_changes, run_whole, steps_exactly
from autointerp.predicate import TokenTable
from autointerp.records import Head, Score, Unscored
from autointerp.scoring.conditional import (
    Claim,
    ConditionalSpec,
    claimed_sign,
    conditional_results,
    run_cases,
    score_conditional,
)
from autointerp.scoring.conditional_cases import Cases, Planner, spread
from autointerp.scoring.conditional_effects import ConditionalResult
from autointerp.scoring.head_values import ExplainMeans, HeadValues, RowFacts, layer_values, value_means
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.matching import BALANCED, CALIPER, Kind, balance, match, quantile_classes
from autointerp.scoring.predicted import PredictedPairs
from tests.causal_model import GATED, LENGTH, NAMES, SEEN, causal_model, causal_rows
from tests.test_scoring import rows_of
from tests.tiny_models import boot, planted, random_network, tiny_model, tiny_tokenizer


@functools.cache
def means_of(kind: str) -> ExplainMeans:
    model = tiny_model(kind)
    rows = rows_of(model, n=10, seed=5)
    rng = np.random.default_rng(1)
    z = rng.normal(size=(model.n_layers, model.n_heads, model.W_O(0).shape[1]))
    return ExplainMeans(z, value_means(model, [(rows.ids, rows.lengths)], rows.ids.shape[1]))


def values_of(kind: str, rows: HeldOutRows, head: Head) -> HeadValues:
    layers = layer_values(tiny_model(kind), rows, means_of(kind), [head.layer], 5)
    return next(v for values in layers for v in values if v.head == head)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_mean_values_by_distance_equal_a_loop(kind: str) -> None:
    model = tiny_model(kind)
    rows = rows_of(model, n=5, seed=5)
    parts = [(rows.ids[:3], rows.lengths[:3]), (rows.ids[3:], rows.lengths[3:])]
    found = value_means(model, parts, 60)
    assert found.shape == (2, model.n_kv_heads, n_buckets(60), model.W_O(0).shape[1])
    seen: list[torch.Tensor] = []
    model.read_attention(model.to_ids(rows.ids), [1], lambda layer: seen.append(layer.v))
    sums: dict[int, list[np.ndarray]] = {}
    for window, length in enumerate(rows.lengths):
        for dst in range(1, int(length)):
            for src in (s for s in range(1, dst + 1) if rows.sources[window, s]):
                sums.setdefault(int(bucket_of(np.array([dst - src]))[0]), []).append(seen[0][window, src, 1].numpy())
    for bucket, vectors in sums.items():
        np.testing.assert_allclose(found[1, 1, bucket], np.mean(vectors, 0), rtol=1e-4, atol=1e-5)
    everything = np.mean([v for vectors in sums.values() for v in vectors], 0)
    np.testing.assert_allclose(found[1, 1, -1], everything, rtol=1e-4, atol=1e-5)  # no pair is that far apart


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_replacing_nothing_and_everything(kind: str) -> None:
    rows = rows_of(tiny_model(kind), n=4)
    head = Head(layer=1, index=3)
    values, means = values_of(kind, rows, head), means_of(kind)
    window, dst = np.array([0, 2, 2, 3]), np.array([5, 15, 2, 23])
    none = values.without(window, dst, np.zeros((4, 24), bool))
    np.testing.assert_array_equal(none, values.z[window, dst])
    whole = values.without(window, dst, np.ones((4, 24), bool))
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    model = tiny_model(kind)
    model.read_attention(model.to_ids(rows.ids), [1], lambda layer: seen.append((layer.pattern[:, 3], layer.v)))
    pattern, v = seen[0]
    kv = 3 // (model.n_heads // model.n_kv_heads)
    for i, (w, d) in enumerate(zip(window, dst, strict=True)):
        expected = np.zeros(values.z.shape[-1])
        for s in range(d + 1):
            moved = v[w, s, kv].numpy()
            if rows.sources[w, s]:
                moved = means.v[1, kv, bucket_of(np.array([d - s]))[0]]
            expected += float(pattern[w, d, s]) * moved
        np.testing.assert_allclose(whole[i], expected, rtol=1e-4, atol=1e-5)


def changes_of(model: LanguageModel, n: int = 40) -> tuple[np.ndarray, RowChanges]:
    rng = np.random.default_rng(2)
    ids = rng.integers(3, model.d_vocab, (5, 18))
    draw = [rng.integers(low, high, n) for low, high in ((0, 5), (1, 18), (0, 2), (0, 4))]
    return ids, RowChanges(*draw, rng.normal(size=(n, model.W_O(0).shape[1])).astype(np.float32))


def gathered(model: LanguageModel, ids: np.ndarray, changes: RowChanges, run: object) -> list[np.ndarray]:
    found = [np.full((len(changes), model.d_vocab), np.nan) for _ in range(2)]

    def read(rows: np.ndarray, before: torch.Tensor, after: torch.Tensor) -> None:
        found[0][rows], found[1][rows] = before.numpy(), after.numpy()

    run(model, ids, changes, 7, read)  # type: ignore[operator]
    return found


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_one_position_equals_a_whole_forward_with_a_hook(kind: str) -> None:
    model = tiny_model(kind)
    ids, changes = changes_of(model)
    assert steps_exactly(model, ids[:2])
    quick = gathered(model, ids, changes, run_changes)
    slow = gathered(model, ids, changes, run_whole)
    for i in range(0, len(changes), 5):
        window, dst, layer, head = (int(a[i]) for a in (changes.window, changes.dst, changes.layer, changes.head))

        def replace(z: torch.Tensor, hook: object, i: int = i, dst: int = dst, head: int = head) -> torch.Tensor:
            shaped = z.reshape(1, z.shape[1], model.n_heads, -1).clone()
            shaped[0, dst, head] = torch.from_numpy(changes.z[i])
            return shaped.reshape(z.shape)

        before = torch.log_softmax(model.logits(model.to_ids(ids[window : window + 1])), -1)[0, dst]
        with model.hooks([(f"blocks.{layer}.attn.hook_z", replace)]):
            after = torch.log_softmax(model.logits(model.to_ids(ids[window : window + 1])), -1)[0, dst]
        for found in (quick, slow):
            np.testing.assert_allclose(found[0][i], before.numpy(), atol=1e-4)
            np.testing.assert_allclose(found[1][i], after.numpy(), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["GPTNeoX", "Gemma3", "OPT", "Bloom"])
def test_one_position_equals_whole_rows_on_other_architectures(architecture: str) -> None:
    from autointerp.notebook import open_model

    model = open_model(boot(random_network(architecture, len(tiny_tokenizer())))).model
    ids, changes = changes_of(model, 20)
    assert steps_exactly(model, ids)
    for one, other in zip(
        gathered(model, ids, changes, run_changes), gathered(model, ids, changes, run_whole), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-4)


def native_model(**options: object) -> LanguageModel:
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    from autointerp.model.loading import wrap_bridge

    tokenizer = tiny_tokenizer()
    shape = {"n_layers": 2, "n_heads": 4, "d_model": 16, "d_head": 4, "d_mlp": 24, "n_ctx": 24, "act_fn": "gelu"}
    config = TransformerBridgeConfig(**shape, d_vocab=len(tokenizer), seed=0, **options)
    bridge = TransformerBridge.boot_native(config, tokenizer=tokenizer, device="cpu", dtype=torch.float32)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for parameter in bridge.original_model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return wrap_bridge(bridge, "native", "none")[0]


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"normalization_type": "LN"}, True),
        ({"normalization_type": "RMS", "n_key_value_heads": 2}, True),
        ({"normalization_type": None, "attn_only": True, "final_rms": True}, True),
        ({"normalization_type": "RMS", "positional_embedding_type": "rotary", "rotary_dim": 4}, False),
        ({"normalization_type": "LN", "attn_scores_soft_cap": 0.5}, False),
    ],
)
def test_one_position_of_a_native_model_equals_whole_rows(options: dict[str, object], steps: bool) -> None:
    model = native_model(**options)
    ids, changes = changes_of(model, 20)
    assert steps_exactly(model, ids) is steps
    for one, other in zip(
        gathered(model, ids, changes, run_changes), gathered(model, ids, changes, run_whole), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_model_whose_step_is_not_exact_runs_whole_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2")
    ids, changes = changes_of(model, 10)
    expected = gathered(model, ids, changes, run_whole)
    honest = one_position._cached

    def wrong(model: LanguageModel, ids: np.ndarray) -> object:
        found = honest(model, ids)
        return None if found is None else [(k + 0.5, v) for k, v in found]

    monkeypatch.setattr(one_position, "_cached", wrong)
    assert not steps_exactly(model, ids)
    for one, other in zip(gathered(model, ids, changes, run_changes), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    monkeypatch.setattr(one_position, "_cached", lambda model, ids: None)
    assert not steps_exactly(model, ids)


def kind_of(classes: list[int], values: list[float]) -> Kind:
    return Kind({"class": np.array(classes)}, {"value": np.array(values, np.float64)})


def test_matching_by_hand() -> None:
    first = kind_of([0, 0, 1, 2], [0.0, 1.0, 5.0, 9.0])
    second = kind_of([0, 0, 1, 3], [1.01, 4.0, 5.0, 9.0])
    found = match(first, second, np.random.default_rng(0))
    # 0 finds nothing near, 3 no case of its class
    assert list(zip(found.first.tolist(), found.second.tolist(), strict=True)) == [(1, 0), (2, 2)]
    spread_of = np.sqrt((np.var([0, 1, 5, 9]) + np.var([1.01, 4, 5, 9])) / 2)
    assert balance(first, second, found)["value"] == pytest.approx((3 - 3.005) / spread_of)
    with pytest.raises(BadInput, match="differ"):
        match(first, Kind({}, first.values), np.random.default_rng(0))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2), st.floats(-2, 2)), max_size=40), st.integers(0, 5))
def test_matching_is_without_replacement_within_classes_and_caliper(
    cases: list[tuple[bool, int, float]], seed: int
) -> None:
    first, second = (
        kind_of([c for s, c, _ in cases if s == side], [v for s, _, v in cases if s == side]) for side in (True, False)
    )
    found = match(first, second, np.random.default_rng(seed))
    assert len(set(found.second.tolist())) == len(set(found.first.tolist())) == len(found)
    deviation = np.concatenate([first.values["value"], second.values["value"]]).std() if cases else 1.0
    for one, other in zip(found.first, found.second, strict=True):
        assert first.classes["class"][one] == second.classes["class"][other]
        gap = abs(first.values["value"][one] - second.values["value"][other])
        assert gap <= CALIPER * (deviation or 1.0) * (1 + 1e-9)
    free = np.setdiff1d(np.arange(len(second)), found.second)
    left = np.setdiff1d(np.arange(len(first)), found.first)
    for one in left:  # nothing that could have been matched is left over
        near = np.abs(second.values["value"][free] - first.values["value"][one]) <= CALIPER * (deviation or 1.0) * (
            1 - 1e-9
        )
        assert not (near & (second.classes["class"][free] == first.classes["class"][one])).any()


def test_quantile_classes() -> None:
    reference = np.arange(100.0)
    classes = quantile_classes(np.array([-5.0, 9.0, 10.5, 55.0, 1e9]), reference, 10)
    assert classes.tolist() == [0, 0, 1, 5, 9]
    assert quantile_classes(np.full(4, 3.0), np.full(9, 3.0), 10).tolist() == [1] * 4  # all alike: one class


def test_rows_are_spread_over_documents() -> None:
    documents = np.repeat(np.arange(10), 20)
    rng = np.random.default_rng(0)
    assert sorted(documents[spread(documents, 10, rng)].tolist()) == list(range(10))
    assert np.bincount(documents[spread(documents, 25, rng)]).max() == 3
    assert len(spread(documents, 1000, rng)) == 200 and len(spread(np.zeros(0, np.int64), 5, rng)) == 0
    heavy = np.tile([1e6] + [1.0] * 19, 10)
    assert (spread(documents, 10, rng, heavy) % 20 == 0).mean() > 0.9


def spec_of(rows: HeldOutRows, **changes: object) -> ConditionalSpec:
    model = causal_model()
    explain = causal_rows(60, seed=7)
    z: list[np.ndarray] = []
    model.read_attention(model.to_ids(explain.ids), [0], lambda layer: z.append(layer.z[:, 1:].mean((0, 1)).numpy()))
    v = value_means(model, [(explain.ids, explain.lengths)], LENGTH)
    return ConditionalSpec(
        **{"model": model, "held_out": rows, "means": ExplainMeans(z[0][None], v), "seed": 0, **changes}
    )  # type: ignore[arg-type]


@functools.cache
def judged(predicate: str, index: int, sign: int = 0, n: int = 48, seed: int = 0) -> ConditionalResult:
    rows = causal_rows(n)
    pairs = PredictedPairs(rows, TokenTable.from_strings(causal_model().strings, causal_model().special_ids))
    head = Head(layer=0, index=index)
    claim = Claim(pairs.mask(predicate), pairs.mask("distance == 3"), sign)
    found = conditional_results(spec_of(rows, seed=seed), [head], lambda _: claim)[head]
    assert isinstance(found, ConditionalResult)
    return found


def among(side: str, words: tuple[str, ...]) -> str:
    return f"{side}.lower in {{{', '.join(repr(word.lower()) for word in words)}}}".replace("'", '"')


UNSEEN = tuple(name for name in NAMES if name not in SEEN)


def test_the_right_description_of_a_one_purpose_head_has_no_matched_pairs_and_passes() -> None:
    found = judged("distance == 1", 0, 1)
    score = found.score("text")
    assert found.supported and score.state == "no_matched_pairs, always_active"
    assert score.details["design"] == "destination" and score.details["unmatched_pairs"] == 1
    assert score.low > 0.1 and score.value == score.details["destination_E1"]
    assert score.details["share"] == pytest.approx(1) and score.details["mass_share"] == pytest.approx(1)
    assert score.details["sign"] == 1
    control = next(c for c in score.controls if "share" in c.name)
    assert control.beaten and control.value < 0.01
    assert score.details["shuffled_supported"] == "no"


def test_the_wrong_sign_is_not_supported() -> None:
    assert "claimed sign" in str(judged("distance == 1", 0, -1).score("text").details["reason"])
    assert not judged("distance == 1", 0, -1).supported


def test_a_head_that_looks_but_writes_nothing_is_not_supported() -> None:
    for sign in (0, 1):
        found = judged("distance == 1", 1, sign).score("text")
        assert found.details["supported"] == "no" and found.value == 0
        assert found.details["mass_share"] == pytest.approx(1)  # by attention, where nothing is written
        assert np.isnan(float(found.details["share"] or 0))
        assert found.details.get("sign") == (0 if sign else None)


def test_destinations_decide_where_no_pair_can_be_matched() -> None:
    score = judged(f"{among('dst', GATED)} and distance == 1", 2).score("text")
    assert score.details["supported"] == "yes" and score.details["design"] == "destination"
    assert score.state == "no_matched_pairs" and score.low > 0 and score.details["share"] == pytest.approx(1, abs=1e-3)
    wrong = judged(f"{among('dst', NAMES[1::4])} and distance == 1", 2).score("text")
    assert wrong.details["supported"] == "no" and wrong.value < 0
    for name, gap in score.details.items():
        if name.startswith("destination_balance"):
            assert abs(float(gap or 0)) < BALANCED


def test_pairs_decide_where_others_like_them_exist() -> None:
    score = judged(f"{among('src', SEEN)} and 1 <= distance <= 2", 3, 1, n=150).score("text")
    assert score.details["supported"] == "yes" and score.details["design"] == "pair" and score.state == ""
    assert float(score.details["pair_resample_difference_low"] or 0) > 0
    assert float(score.details["pair_ratio"] or 0) > 2
    table = {n: float(g or 0) for n, g in score.details.items() if n.startswith("pair_balance")}
    assert len(table) == 4 and all(abs(gap) < BALANCED for gap in table.values())
    other = judged(f"{among('src', UNSEEN)} and 1 <= distance <= 2", 3, n=150).score("text")
    assert other.details["design"] == "pair" and other.details["supported"] == "no" and other.high < 0


def test_outcomes_are_worked_out_by_hand() -> None:
    rows = causal_rows(4)
    spec = spec_of(rows)
    facts = RowFacts.of(spec.model, rows, 2)
    rng = np.random.default_rng(0)
    z = rng.normal(size=(3, 32)).astype(np.float32)
    cases = Cases(np.array([0, 1, 1]), np.array([4, 9, LENGTH - 1]), z, np.array([-1, 50, 60]))
    head = Head(layer=0, index=2)
    key = (head, "own", "some")
    empty = Cases(np.zeros(0, np.int64), np.zeros(0, np.int64), z[:0], np.zeros(0, np.int64))
    found = run_cases(spec, facts, {key: cases, (head, "own", "none"): empty})
    assert len(found[head, "own", "none"].kl) == 0
    assert found[key].documents.tolist() == [0, 1, 1]
    for i, (window, dst, token) in enumerate(zip(cases.window, cases.dst, cases.token, strict=True)):

        def replace(kept: torch.Tensor, hook: object, i: int = i, dst: int = dst) -> torch.Tensor:
            shaped = kept.reshape(1, LENGTH, 5, -1).clone()
            shaped[0, dst, 2] = torch.from_numpy(z[i])
            return shaped.reshape(kept.shape)

        ids = spec.model.to_ids(rows.ids[window : window + 1])
        before = spec.model.logits(ids)[0, dst].double()
        with spec.model.hooks([("blocks.0.attn.hook_z", replace)]):
            after = spec.model.logits(ids)[0, dst].double()
        p, q = torch.softmax(before, 0), torch.softmax(after, 0)
        assert found[key].kl[i] == pytest.approx(float((p * (p / q).log()).sum()), abs=1e-5)
        if dst == LENGTH - 1:
            assert np.isnan(found[key].next[i])
        else:
            following = int(rows.ids[window, dst + 1])
            assert found[key].next[i] == pytest.approx(float((p[following] / q[following]).log()), abs=1e-4)
        if token < 0:
            assert np.isnan(found[key].logit[i])
        else:
            change = (before[token] - before.mean()) - (after[token] - after.mean())
            assert found[key].logit[i] == pytest.approx(float(change), abs=1e-4)


def test_row_facts_by_hand() -> None:
    model = tiny_model("gpt2")
    rows = rows_of(model, n=4)
    facts = RowFacts.of(model, rows, 3)
    p = torch.softmax(model.logits(model.to_ids(rows.ids)), -1).double()
    np.testing.assert_allclose(facts.entropy, -(p * p.log()).sum(-1).numpy(), rtol=1e-3)
    fed = np.concatenate([row[:length] for row, length in zip(rows.ids, rows.lengths, strict=True)])
    assert facts.count[0, 3] == (fed == rows.ids[0, 3]).sum()
    assert facts.next_id[1, rows.lengths[1] - 1] == -1 and facts.next_id[1, 0] == rows.ids[1, 1]


def test_a_share_counts_the_rows_without_a_predicted_source() -> None:
    """Half of the destinations of the previous-token head: about half of its effect, all of it where described."""
    words = NAMES[::2]
    score = judged(f"{among('dst', words)} and distance == 1", 0).score("text")
    described, rest = score.details["rows_described"], score.details["rows_rest"]
    expected = float(described or 0) / (float(described or 0) + float(rest or 0))
    assert score.details["share_described"] == pytest.approx(1)
    assert score.details["share"] == pytest.approx(expected, abs=0.25)
    assert (
        float(score.details["share_low"] or 0)
        < float(score.details["share"] or 0)
        < float(score.details["share_high"] or 0)
    )


def test_the_seed_decides_and_nothing_else() -> None:
    predicate = f"{among('dst', GATED)} and distance == 1"
    one = judged(predicate, 2).score("text")
    judged.cache_clear()
    np.random.seed(99)
    assert judged(predicate, 2).score("text").model_dump_json() == one.model_dump_json()
    assert judged(predicate, 2, seed=1).score("text").details["destination_E1"] != one.details["destination_E1"]


def test_a_description_without_a_pair_off_the_sink_is_unscored() -> None:
    rows = causal_rows(30)
    nothing = np.zeros((30, LENGTH, LENGTH), bool)
    head = Head(layer=0, index=0)
    found = score_conditional(spec_of(rows), [head], lambda _: Claim(nothing))[head]
    assert isinstance(found, Unscored) and "no pair" in found.reason


def test_few_documents_are_said_to_be_few() -> None:
    rows = causal_rows(12)
    previous = np.zeros((12, LENGTH, LENGTH), bool)
    previous[:, np.arange(2, LENGTH), np.arange(1, LENGTH - 1)] = True
    head = Head(layer=0, index=0)
    found = score_conditional(spec_of(rows), [head], lambda _: Claim(previous))[head]
    assert isinstance(found, Score) and found.state.endswith("underpowered") and found.controls == ()


def test_silent_rows_fall_back_to_attention() -> None:
    model = planted(lambda ids: torch.tril(torch.ones(4, len(ids), len(ids))) / torch.arange(1, len(ids) + 1)[:, None])
    rows = rows_of(model, n=4)
    values = next(iter(layer_values(model, rows, means_of("gpt2"), [0], 4)))[1]
    quiet = HeadValues(
        values.head, values.attention, values.norms * 0, values.v, values.z, values.v_mean, values.z_mean, 1e-3
    )
    np.testing.assert_array_equal(quiet.contributions(), values.attention)
    assert quiet.shares()[0, 10].sum() == pytest.approx(1)
    assert values.shares()[0, 0].sum() == 0  # position 0 is no row


def test_labels_that_claim_a_sign() -> None:
    signs = {"copying": 1, "name_mover": 1, "induction": 1, "copy_suppression": -1, "previous_token": 0, "other": 0}
    assert {label: claimed_sign(label) for label in signs} == signs


def test_pairs_of_other_documents_replace_at_like_distances() -> None:
    rows = rows_of(tiny_model("gpt2"), n=8)
    values = values_of("gpt2", rows, Head(layer=0, index=0))
    planner = Planner(values, rows, RowFacts.of(tiny_model("gpt2"), rows, 4), 0, 10)
    cases = planner._resampled(
        np.array([0, 3]), np.array([20, 9]), np.array([12, 8]), draws=5, rng=np.random.default_rng(0)
    )
    assert cases.window.tolist() == [0] * 5 + [3] * 5
    for i in range(10):
        w, d, s = (0, 20, 12) if i < 5 else (3, 9, 8)
        weight = values.attention[w, d, s]
        moved_in = (cases.z[i] - values.z[w, d]) / weight + values.v[w, s]
        same = [
            (ow, os) for ow in range(8) for os in range(1, d + 1)
            if rows.documents[ow] != rows.documents[w] and rows.sources[ow, os]
            and bucket_of(np.array([d - os]))[0] == bucket_of(np.array([d - s]))[0]
        ]  # fmt: skip
        assert min(np.abs(values.v[ow, os] - moved_in).max() for ow, os in same) < 1e-2
