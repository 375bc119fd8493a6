"""Tallies, predicate scores, first-token scores, ablation and verdicts against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autointerp.evidence.buckets import bucket_of
from autointerp.evidence.rows import Masks, OutputGeometry, write_norms
from autointerp.model import LanguageModel, Layer
from autointerp.predicate import TokenTable
from autointerp.records import Control, Description, Failure, Head, Interval, Score, Unscored
from autointerp.scoring.ablation import ablate_heads, scored_positions
from autointerp.scoring.first_token import score_first_token, tally_first_token
from autointerp.scoring.held_out import HeldOutRows, repeat_rows, text_rows
from autointerp.scoring.predicate_score import Contest, HeadTallies, Overlap, score_predicate
from autointerp.scoring.predicted import GENERIC, POSITIONAL_RIVALS, PredictedPairs, overlap
from autointerp.scoring.tallies import BY_HEAD, BY_PREDICATE, THETA_HIGH, THETA_LOW, tally
from autointerp.scoring.verdict import judge
from autointerp.stats.bootstrap import Resamples
from tests.tiny_models import tiny_model

PREDICATES = ["distance == 1", "src == dst and distance > 0", "distance <= 7", "src.position == 1"]


def rows_of(model: LanguageModel, n: int = 12, size: int = 24, seed: int = 0) -> HeldOutRows:
    rng = np.random.default_rng(seed)
    ids = rng.integers(3, model.d_vocab, (n, size)).astype(np.int32)
    ids[:, 0] = model.bos_id or 1
    lengths = np.full(n, size)
    lengths[1] = size - 7
    ids[2, 9] = model.special_ids[-1]
    return text_rows(ids, lengths, np.repeat(np.arange(n // 2), 2), "test", model.special_ids)


def truth_of(model: LanguageModel, rows: HeldOutRows, layer: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(attention off the sink, contribution) of each window, straight from the definitions."""
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    ids = model.to_ids(rows.ids)
    masks = Masks.of(ids, torch.as_tensor(rows.lengths), model.special_ids)

    def keep(seen: Layer) -> None:
        norms = write_norms(model, seen, OutputGeometry.of(model, layer))
        for window in range(len(rows.ids)):
            attention = seen.pattern[window] * masks.allowed[window][None, None, :]
            found.append((attention, attention * norms[window][:, None, :]))

    model.read_attention(ids, [layer], keep)
    return found


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_tallies_equal_a_count_pair_by_pair(kind: str) -> None:  # noqa: C901
    model = tiny_model(kind)
    rows = rows_of(model)
    table = TokenTable.from_strings(model.strings, model.special_ids)
    pairs = PredictedPairs(rows, table)
    masks = pairs.masks(PREDICATES)
    for found in tally(model, rows, lambda layer: masks, batch_size=5):
        truth = truth_of(model, rows, found.layer)
        head = 2
        weighted = ("fp", "fp_same_tokens", "same_tokens", "n_same_tokens")
        sums = {name: np.zeros((len(PREDICATES), rows.n_documents)) for name in BY_PREDICATE if name not in weighted}
        totals = {name: np.zeros(rows.n_documents) for name in BY_HEAD if name not in weighted}
        by_kind: dict[tuple[int, int, int], list[list[tuple[int, int, int]]]] = {}
        for window, document in enumerate(rows.documents):
            attention, contribution = (t[head].double() for t in truth[window])
            for dst in range(1, int(rows.lengths[window])):
                sources = [s for s in range(1, dst + 1) if rows.sources[window, s]]
                for p in range(len(PREDICATES)):
                    chosen = [s for s in sources if masks[p, window, dst, s]]
                    sums["covered"][p, document] += float(contribution[dst, chosen].sum())
                totals["contribution"][document] += float(contribution[dst, sources].sum())
                if float(attention[dst].sum()) < 0.1:
                    continue
                a = contribution[dst] / contribution[dst].sum()
                for s in sources:
                    positive, negative = float(a[s]) >= THETA_HIGH, float(a[s]) <= THETA_LOW
                    for name, value in zip(
                        ("positives", "negatives", "pairs", "sum_a", "sum_aa", "mass_positive"),
                        (positive, negative, 1, float(a[s]), float(a[s]) ** 2, float(a[s]) * positive),
                        strict=True,
                    ):
                        totals[name][document] += value
                    if positive or negative:
                        tokens = int(rows.ids[window, dst]), int(rows.ids[window, s])
                        kind_of = (*tokens, int(bucket_of(np.array([dst - s]))[0]))
                        by_kind.setdefault(kind_of, [[], []])[negative].append((window, dst, s))
                    for p in range(len(PREDICATES)):
                        if masks[p, window, dst, s]:
                            sums["tp"][p, document] += positive
                            sums["fp_natural"][p, document] += negative
                            sums["predicted"][p, document] += 1
                            sums["predicted_a"][p, document] += float(a[s])
        assert totals["positives"].sum() > 10
        alike = {kind: both for kind, both in by_kind.items() if both[0] and both[1]}
        assert len(alike) >= 3
        wanted = np.zeros((len(PREDICATES), rows.n_documents))
        for positives, negatives in alike.values():
            for window, dst, s in negatives:
                wanted[:, rows.documents[window]] += masks[:, window, dst, s] * len(positives) / len(negatives)
        place = BY_PREDICATE.index("fp_same_tokens")
        np.testing.assert_allclose(found.by_predicate[place, head], wanted, rtol=1e-4, atol=1e-4)
        ends = found.by_head[:, head].sum(-1)
        assert ends[BY_HEAD.index("same_tokens")] == pytest.approx(sum(len(p) for p, _ in alike.values()), rel=1e-4)
        assert ends[BY_HEAD.index("n_same_tokens")] == sum(len(n) for _, n in alike.values())
        for i, name in enumerate(totals):
            np.testing.assert_allclose(found.by_head[i, head], totals[name], rtol=2e-4, atol=1e-3, err_msg=name)
        for i, name in enumerate(BY_PREDICATE):
            if name not in weighted:
                np.testing.assert_allclose(found.by_predicate[i, head], sums[name], rtol=2e-4, atol=1e-3, err_msg=name)
        matched = found.by_predicate[1, head].sum(-1)
        assert np.all(matched <= totals["negatives"].sum() + 1e-3)


def test_matched_negatives_keep_their_total_and_follow_the_positives() -> None:
    model = tiny_model("gpt2")
    rows = rows_of(model, n=20)
    everything = np.ones((1, *rows.ids.shape, rows.ids.shape[1]), dtype=bool)
    first = next(iter(tally(model, rows, lambda layer: everything, batch_size=8)))
    negatives = first.by_head[BY_HEAD.index("negatives")].sum(-1)
    matched = first.by_predicate[BY_PREDICATE.index("fp"), :, 0].sum(-1)
    some = first.by_head[BY_HEAD.index("positives")].sum(-1) > 0
    np.testing.assert_allclose(matched[some], negatives[some], rtol=1e-4)


def test_tallies_do_not_depend_on_the_batch_size() -> None:
    model = tiny_model("llama")
    rows = rows_of(model)
    masks = PredictedPairs(rows, TokenTable.from_strings(model.strings, model.special_ids)).masks(PREDICATES)
    one, other = (list(tally(model, rows, lambda layer: masks, batch_size=n)) for n in (1, 12))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.by_predicate, b.by_predicate)


class Planted:
    """Tallies of one head whose positives are exactly what a mask says."""

    def __init__(self, truth: np.ndarray, masks: np.ndarray, rows: HeldOutRows) -> None:
        from autointerp.scoring.tallies import LayerTallies

        n_predicates, documents = len(masks), rows.n_documents
        by_predicate = np.zeros((len(BY_PREDICATE), 1, n_predicates, documents))
        by_head = np.zeros((len(BY_HEAD), 1, documents))
        able = (rows.rows[:, :, None] & rows.sources[:, None, :]) & np.tril(np.ones(truth.shape[1:], bool))
        for window, document in enumerate(rows.documents):
            t, w = truth[window] & able[window], able[window]
            by_head[:, 0, document] += [t.sum(), (w & ~t).sum(), w.sum(), *([t.sum()] * 4), 0, 0]
            for p in range(n_predicates):
                e = masks[p, window] & w
                wrong, hits = (e & ~t).sum(), (e & t).sum()
                by_predicate[:, 0, p, document] += [hits, wrong, wrong, e.sum(), hits, hits, 0]
        self.head = HeadTallies(LayerTallies(0, by_predicate, by_head, np.zeros(1)), 0)


def contest_scores(truth_predicate: str, own: str, n: int = 40) -> Score:
    model = tiny_model("gpt2")
    rows = rows_of(model, n=2 * n, seed=3)
    pairs = PredictedPairs(rows, TokenTable.from_strings(model.strings, model.special_ids))
    donors = ["src == dst and distance > 0", "distance == 5", "src.is_punctuation", "src.position <= 2"]
    names = list(dict.fromkeys([own, *POSITIONAL_RIVALS.values(), *GENERIC.values(), *donors]))
    masks = pairs.masks(names)
    index = {name: i for i, name in enumerate(names)}
    planted = Planted(pairs.mask(truth_predicate), masks, rows).head
    contest = Contest(
        own=index[own],
        rivals={k: index[v] for k, v in POSITIONAL_RIVALS.items()},
        others={},
        donors=tuple(index[d] for d in donors if d != own),
        generic=tuple(index[g] for g in GENERIC.values()),
    )
    both = overlap(masks)
    score = score_predicate(planted, planted, contest, Overlap(both, both), Resamples.of(rows.n_documents, 0), "text")
    assert isinstance(score, Score)
    return score


def test_a_perfect_predicate_scores_one_and_a_wrong_one_is_refuted() -> None:
    rule = "src.lower == dst.prev.lower and distance > 1"
    right = contest_scores(rule, rule)
    assert (right.value, right.low, right.high) == (1.0, 1.0, 1.0)
    assert all(c.beaten for c in right.controls)
    assert right.details["iou"] == right.details["auprc"] == right.details["coverage"] == 1.0
    assert right.chance == pytest.approx(2 * right.prevalence / (1 + right.prevalence))
    swapped = contest_scores(rule, "distance == 2")
    assert judge(claim(), (swapped,), (), effect()).verdict == "refuted"


def test_a_previous_token_claim_equals_the_positional_rule_and_is_supported() -> None:
    score = contest_scores("distance == 1", "distance == 1")
    rival = next(c for c in score.controls if c.kind == "rival")
    assert (rival.name, rival.same_rule) == ("previous token", True)
    verdict = judge(claim(), (score,), (), effect())
    assert verdict.verdict == "supported"
    assert verdict.compared_with.endswith("(= previous token)")
    assert verdict.margin is not None and verdict.margin > 0.5  # against the closest null, not against itself


def claim(**values: object) -> Description:
    fields = {"summary": "s", "looks_at": "l", "writes": "w", "label": "other", "predicate": "distance == 1"}
    return Description(**{**fields, **values})  # type: ignore[arg-type]


def effect(low: float = 0.01) -> Interval:
    return Interval(value=low * 2, low=low, high=low * 3, n=500)


def control(kind: str, low: float, high: float, *, same: bool = False) -> Control:
    return Control(
        name=f"{kind} control", kind="rival" if kind == "rival" else "null", value=0.1, difference=(low + high) / 2,
        low=low, high=high, beaten=low > 0, same_rule=same,
    )  # fmt: skip


def scored(*controls: Control, coverage: float | None = 0.5, state: str = "") -> Score:
    return Score(
        scorer="predicate", metric="f1", domain="text", value=0.6, low=0.5, high=0.7, n_items=1000, n_docs=50,
        prevalence=0.01, chance=0.02, controls=controls, state=state, details={"coverage": coverage},
    )  # fmt: skip


NULL, RIVAL = control("null", 0.2, 0.4), control("rival", 0.1, 0.3)


@pytest.mark.parametrize(
    ("score", "kl_low", "expected"),
    [
        (scored(NULL, RIVAL), 0.01, "supported"),
        (scored(NULL, RIVAL), 1e-5, "partly"),  # the head does not matter there
        (scored(NULL, RIVAL, coverage=0.24), 0.01, "partly"),
        (scored(NULL, RIVAL, coverage=0.25), 0.01, "supported"),
        (scored(NULL, RIVAL, coverage=None), 0.01, "partly"),
        (scored(control("null", -0.1, 0.2), RIVAL), 0.01, "refuted"),  # a null is not beaten
        (scored(NULL, control("rival", -0.1, 0.2)), 0.01, "partly"),  # no better than the rival
        (scored(NULL, control("rival", -0.4, -0.1)), 0.01, "refuted"),  # the rival is better
        (scored(NULL, control("rival", 0.0, 0.0, same=True)), 0.01, "supported"),  # it is the rival's rule
        (scored(NULL, RIVAL, state="underpowered"), 0.01, "unscored"),
    ],
)
def test_the_table_of_verdicts(score: Score, kl_low: float, expected: str) -> None:
    assert judge(claim(), (score,), (), effect(kl_low)).verdict == expected


def causal(*, supported: bool, state: str = "", domain: str = "text") -> Score:
    return Score(
        scorer="conditional_ablation", metric="kl_difference", domain=domain, value=0.01, low=0.005, high=0.02,
        n_items=80, n_docs=40, prevalence=0.1, chance=0.0, state=state,
        details={"supported": "yes" if supported else "no", "reason": "less than elsewhere"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("cause", "kl_low", "expected", "why"),
    [
        (causal(supported=True), 1e-9, "supported", "supported, covers"),  # the causal test decides, not the whole head
        (causal(supported=False), 0.01, "partly", "not causally: less than elsewhere"),
        (causal(supported=True, state="underpowered"), 0.01, "partly", "rests on 40 documents only"),
        (causal(supported=False, domain="repeats"), 0.01, "supported", ""),  # of another domain
        (Unscored(scorer="conditional_ablation", reason="no pair"), 0.01, "partly", "no causal test: no pair"),
    ],
)
def test_where_there_is_a_causal_test_it_decides(
    cause: Score | Unscored, kl_low: float, expected: str, why: str
) -> None:
    scores = (scored(NULL, RIVAL), *((cause,) if isinstance(cause, Score) else ()))
    judged = judge(claim(), scores, (cause,) if isinstance(cause, Unscored) else (), effect(kl_low))
    assert judged.verdict == expected
    assert why in judged.reason


def test_failures_abstentions_and_missing_scores_are_unscored() -> None:
    assert judge(Failure(stage="explain", reason="cut off"), (scored(NULL),), (), effect()).verdict == "unscored"
    assert judge(claim(abstained=True), (scored(NULL),), (), effect()).verdict == "unscored"
    nothing = judge(claim(), (), (Unscored(scorer="predicate", reason="no positive"),), effect())
    assert (nothing.verdict, nothing.metric) == ("unscored", None)
    assert "no positive" in nothing.reason


def test_the_margin_is_the_best_rivals_and_else_the_closest_null() -> None:
    far = control("null", 0.5, 0.7)
    with_rival = judge(claim(), (scored(far, NULL, RIVAL),), (), effect())
    assert (with_rival.margin, with_rival.compared_with) == (RIVAL.difference, "rival control")
    without = judge(claim(), (scored(far, NULL),), (), effect())
    assert (without.margin, without.compared_with) == (NULL.difference, "null control")


def test_a_rule_that_another_rival_beats_has_the_margin_over_that_rival() -> None:
    same, better = control("rival", 0.0, 0.0, same=True), control("rival", -0.3, -0.1)
    equal = judge(claim(), (scored(NULL, RIVAL, same),), (), effect())
    assert (equal.margin, equal.compared_with) == (NULL.difference, "null control (= rival control)")
    beaten = judge(claim(), (scored(NULL, same, better),), (), effect())
    assert (beaten.verdict, beaten.margin) == ("refuted", better.difference)
    assert beaten.compared_with == "rival control"


def test_a_claim_on_the_first_position_is_scored_with_the_sink() -> None:
    model = tiny_model("gpt2")
    rows = rows_of(model, n=80)
    pairs = PredictedPairs(rows, TokenTable.from_strings(model.strings, model.special_ids))
    assert pairs.only_sink("src.is_first")
    assert not pairs.only_sink("distance == 1")
    sums = tally_first_token(model, rows, 16)
    layer, head = 1, 3
    patterns: list[torch.Tensor] = []
    model.read_attention(model.to_ids(rows.ids), [layer], lambda seen: patterns.append(seen.pattern[:, head]))
    hits = misses = positives = 0
    for window in range(len(rows.ids)):
        for dst in range(1, int(rows.lengths[window])):
            row = patterns[0][window, dst, : dst + 1]
            hits += int(row[0] >= THETA_HIGH)
            misses += int(row[0] <= THETA_LOW)
            positives += int((row >= THETA_HIGH).sum())
    score = score_first_token(sums, Head(layer=layer, index=head), Resamples.of(rows.n_documents, 0), "text")
    assert isinstance(score, Score)
    assert score.value == pytest.approx(2 * hits / (hits + misses + positives))


def test_ablation_equals_a_full_forward_with_the_head_replaced() -> None:
    model = tiny_model("llama")
    rows = rows_of(model, n=6)
    rng = np.random.default_rng(0)
    z_mean = rng.normal(size=(model.n_layers, model.n_heads, model.W_O(0).shape[1]))
    heads = (Head(layer=0, index=1), Head(layer=1, index=3))
    effects = ablate_heads(model, rows, heads, z_mean, seed=0)
    ids = model.to_ids(rows.ids)
    before = torch.log_softmax(model.logits(ids), -1)
    for number, head in enumerate(heads):

        def replace(z: torch.Tensor, hook: object, head: Head = head) -> torch.Tensor:
            shaped = z.reshape(*z.shape[:2], model.n_heads, -1).clone()
            shaped[:, 1:, head.index] = torch.as_tensor(z_mean[head.layer, head.index], dtype=z.dtype)
            return shaped.reshape(z.shape)

        with model.hooks([(f"blocks.{head.layer}.attn.hook_z", replace)]):
            after = torch.log_softmax(model.logits(ids), -1)
        for window in range(len(rows.ids)):
            length = int(rows.lengths[window])
            for pos in range(1, length - 1):
                following = int(rows.ids[window, pos + 1])
                rise = float(before[window, pos, following] - after[window, pos, following])
                assert effects.loss[number, window, pos] == pytest.approx(rise, abs=1e-4)
                kl = float((before[window, pos].exp() * (before[window, pos] - after[window, pos])).sum())
                assert effects.kl[number, window, pos] == pytest.approx(kl, abs=1e-4)
            assert np.isnan(effects.loss[number, window, 0])
            assert np.isnan(effects.loss[number, window, length - 1 :]).all()
    whole = effects.mean(heads[0], "kl")
    assert whole.low <= whole.value <= whole.high
    part = effects.mean(heads[0], "kl", np.zeros(rows.ids.shape, bool))
    assert part.n == 0 and np.isnan(part.value)


def test_positions_are_sampled_where_the_vocabulary_is_large() -> None:
    model = tiny_model("gpt2")
    rows = rows_of(model, n=8)
    few = scored_positions(rows, 10**9, np.random.default_rng(0))
    assert (few.sum(1) == 12).all()
    assert not (few & ~rows.rows).any()
    assert scored_positions(rows, 100, np.random.default_rng(0)).sum() == (rows.lengths - 2).sum()


def test_repeats_count_destinations_of_the_second_copy_only() -> None:
    rows = repeat_rows(np.tile(np.arange(9), (3, 1)), 4, "test")
    assert rows.rows[0].tolist() == [False] * 5 + [True] * 4
    assert rows.n_documents == 3
