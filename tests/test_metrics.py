"""Metrics against numbers worked out by hand, their sanity tests, and intervals over documents."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.errors import BadInput
from autointerp.stats import bootstrap as b
from autointerp.stats import metrics as m

Array = np.ndarray[Any, np.dtype[Any]]
ALL = m.HEADLINE_METRICS | m.DETAIL_METRICS
BINARY = [name for name in ALL if name not in ("pearson", "cosine", "auprc", "roc_auc")]


def floats(*values: float) -> Array:
    return np.array(values, dtype=np.float64)


# --- numbers worked out by hand

E = floats(1, 1, 1, 0, 0, 0)
A = floats(1, 1, 0, 1, 0, 0)  # tp 2, fp 1, fn 1, tn 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("f1", 4 / 6),
        ("iou", 2 / 4),
        ("pearson", (2 / 6 - 1 / 4) / (1 / 4)),
        ("cosine", 2 / 3),
        ("auprc", 2 / 3 * 2 / 3 + 1 / 3 * 1 / 2),  # up to e = 1: recall 2/3 at precision 2/3; all: 1 at 1/2
        ("accuracy", 4 / 6),
        ("balanced_accuracy", 2 / 3),
        ("roc_auc", (2 * 2 + 2 * 1 * 0.5 + 1 * 2 * 0.5) / 9),
        ("recall", 2 / 3),
        ("precision", 2 / 3),
    ],
)
def test_binary_items_by_hand(name: str, expected: float) -> None:
    assert ALL[name].function(E, A, None) == pytest.approx(expected, abs=1e-12)
    assert ALL[name].function(E.astype(bool), A.astype(bool), np.full(6, 3.0)) == pytest.approx(expected)


def test_weights_count_items() -> None:
    """An item of weight 3 is three items, an item of weight 0 is none."""
    weights = np.array([1, 3, 2, 0, 4, 1])
    repeated = np.repeat(np.arange(6), weights)
    for name, metric in ALL.items():
        expected = metric.function(E[repeated], A[repeated], None)
        assert metric.function(E, A, weights) == pytest.approx(expected, abs=1e-12), name


def test_graded_items_by_hand() -> None:
    e, a, w = floats(0.9, 0.5, 0.1), floats(0.8, 0.0, 0.4), floats(1, 2, 1)
    assert m.cosine(e, a, w) == pytest.approx((0.72 + 0.04) / math.sqrt((0.81 + 0.5 + 0.01) * (0.64 + 0.16)))
    # means .5 and .3; deviations (.4, 0, -.4) and (.5, -.3, .1); covariance .2 - .04 = .16
    assert m.pearson(e, a, w) == pytest.approx(0.16 / math.sqrt(0.32 * (0.25 + 0.18 + 0.01)))


def test_auprc_groups_ties_and_takes_steps() -> None:
    e, a = floats(0.9, 0.8, 0.8, 0.3, 0.1), floats(1, 0, 1, 1, 0)
    expected = 1 / 3 * 1 + 1 / 3 * 2 / 3 + 1 / 3 * 3 / 4
    assert m.auprc(e, a) == pytest.approx(expected)
    shuffled = np.random.default_rng(0).permutation(5)
    assert m.auprc(e[shuffled], a[shuffled]) == pytest.approx(expected)
    assert m.auprc(e, a, floats(1, 2, 1, 1, 1)) == pytest.approx(1 / 3 + 1 / 3 * 2 / 4 + 1 / 3 * 3 / 5)


def test_roc_auc_counts_ordered_pairs() -> None:
    rng = np.random.default_rng(1)
    e, a, w = rng.integers(0, 6, 60) / 5, rng.integers(0, 2, 60), rng.random(60)
    pos, neg = np.flatnonzero(a == 1), np.flatnonzero(a == 0)
    won = sum(w[p] * w[n] * ((e[p] > e[n]) + 0.5 * (e[p] == e[n])) for p in pos for n in neg)
    assert m.roc_auc(e, a, w) == pytest.approx(won / (w[pos].sum() * w[neg].sum()))


def test_counts_of_many_conditions_at_once() -> None:
    tp, fp, fn = np.array([[2, 0], [0, 0]]), np.array([[1, 5], [3, 0]]), np.array([[1, 4], [0, 0]])
    f1, iou = m.f1_from_counts(tp, fp, fn), m.iou_from_counts(tp, fp, fn)
    np.testing.assert_allclose(f1, [[4 / 6, 0], [np.nan, np.nan]])
    np.testing.assert_allclose(iou, [[2 / 4, 0], [np.nan, np.nan]])


# --- what a sample does not define, and what is no sample


@pytest.mark.parametrize("name", list(ALL))
def test_nothing_to_find_is_nan(name: str) -> None:
    if name in ("accuracy", "precision"):
        return  # both are defined without a positive item
    assert math.isnan(ALL[name].function(E, np.zeros(6), None))


def test_bad_scores_are_scores_and_undefined_ones_are_nan() -> None:
    nothing = np.zeros(6)
    assert m.f1(nothing, A) == 0
    assert m.iou(nothing, A) == 0
    assert m.recall(nothing, A) == 0
    assert m.pearson(nothing, A) == 0  # a constant explains nothing: the chance line
    assert m.auprc(nothing, A) == pytest.approx(0.5)
    assert math.isnan(m.cosine(nothing, A))
    assert math.isnan(m.precision(nothing, A))
    assert math.isnan(m.pearson(E, np.full(6, 0.3)))
    assert math.isnan(m.roc_auc(E, np.ones(6)))
    assert math.isnan(m.balanced_accuracy(E, np.ones(6)))
    assert m.f1(nothing, A, floats(1, 1, 1, 0, 1, 1)) == 0


@pytest.mark.parametrize("name", list(ALL))
def test_no_item_list_is_refused(name: str) -> None:
    metric = ALL[name].function
    with pytest.raises((BadInput, TypeError)):  # TypeError where shapes are checked at run time
        metric(E, A[:5], None)
    with pytest.raises(BadInput, match="NaN"):
        metric(E, floats(1, 0, 0, 1, 0, np.nan), None)
    with pytest.raises(BadInput, match="weights"):
        metric(E, A, floats(1, 1, 1, 1, 1, -1))
    with pytest.raises(BadInput, match="weights"):
        metric(E, A, np.zeros(6))
    with pytest.raises(BadInput, match="weights"):
        metric(np.zeros(0), np.zeros(0), None)


@pytest.mark.parametrize("name", BINARY)
def test_graded_predictions_need_a_threshold(name: str) -> None:
    with pytest.raises(BadInput, match=r"0\.5"):
        ALL[name].function(floats(1, 0.5, 0, 0, 0, 0), A, None)


# --- chance lines and order (invariants 2 and 5)


@pytest.mark.parametrize("prevalence", [0.3, 0.04])
def test_perfect_constant_and_inverted_explanations(prevalence: float) -> None:
    rng = np.random.default_rng(2)
    a = (rng.random(5000) < prevalence).astype(float)
    w = rng.random(5000) + 0.5
    pi = float(w @ a / w.sum())
    chance = m.chance_lines(pi)
    for name, metric in m.HEADLINE_METRICS.items():
        assert metric.function(a, a, w) == pytest.approx(1), name
        assert metric.function(np.ones(5000), a, w) == pytest.approx(chance[name]), name
        assert metric.function(1 - a, a, w) < chance[name], name
    assert chance["f1"] == pytest.approx(2 * pi / (1 + pi))
    assert chance["iou"] == chance["auprc"] == pi
    assert m.accuracy(np.zeros(5000), a, w) == pytest.approx(chance["accuracy"])
    assert m.balanced_accuracy(np.ones(5000), a, w) == chance["balanced_accuracy"] == 0.5
    assert m.roc_auc(np.ones(5000), a, w) == pytest.approx(chance["roc_auc"])


def test_cosine_of_a_constant_for_graded_activations() -> None:
    a, w = floats(0.9, 0.2, 0.0, 0.4), floats(1, 2, 3, 1)
    chance = m.chance_lines(0.1, mean=w @ a / w.sum(), mean_square=w @ a**2 / w.sum())
    assert m.cosine(np.full(4, 0.7), a, w) == pytest.approx(chance["cosine"])


def test_answering_none_has_no_margin() -> None:
    """4 positives of 14: the answer "none" is right 10 times of 14 and worth nothing."""
    a, none = np.array([1] * 4 + [0] * 10), np.zeros(14)
    chance = m.chance_lines(4 / 14)
    assert m.accuracy(none, a) == pytest.approx(10 / 14)
    assert m.accuracy(none, a) - chance["accuracy"] == pytest.approx(0, abs=1e-15)
    assert m.f1(none, a) == 0 < chance["f1"]


def test_chance_lines_without_positives() -> None:
    chance = m.chance_lines(0.0)
    assert all(math.isnan(chance[name]) for name in ("f1", "iou", "auprc", "cosine"))
    assert chance["accuracy"] == 1
    assert chance["pearson"] == 0
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(BadInput, match="prevalence"):
            m.chance_lines(wrong)


# --- rule 6: headline metrics notice missing and superfluous labels

PREVALENCES = (0.499, 0.1, 0.01, 0.001, 0.0001)
N_ITEMS = 100_000
CELLS_E, CELLS_A = floats(1, 1, 0, 0), floats(1, 0, 1, 0)


def cells(metric: m.Metric, tp: int, fp: int, fn: int) -> float:
    """The metric on N_ITEMS binary items, given as four weighted ones."""
    return metric.function(CELLS_E, CELLS_A, floats(tp, fp, fn, N_ITEMS - tp - fp - fn))


def noticed(metric: m.Metric, prevalence: float, damage: str, draws: int) -> float:
    """Share of draws in which the damaged perfect explanation loses more than .001 of the metric's range."""
    rng = np.random.default_rng([7, round(prevalence * 1e6), damage == "extra"])
    falls = 0
    for _ in range(draws):
        positives = int(rng.binomial(N_ITEMS, prevalence))
        negatives = N_ITEMS - positives
        missing = int(rng.binomial(positives, 0.5)) if damage == "missing" else 0
        extra = int(rng.binomial(negatives, min(positives / negatives, 1))) if damage == "extra" else 0
        fall = cells(metric, positives, 0, 0) - cells(metric, positives - missing, extra, missing)
        falls += fall > 0.001 * (metric.high - metric.low)
    return falls / draws


def passes_sanity_test(metric: m.Metric) -> bool:
    usable = [prevalence for prevalence in PREVALENCES if prevalence * N_ITEMS >= 50]
    assert len(usable) == 4
    return all(noticed(metric, p, damage, 200) >= 0.95 for p in usable for damage in ("missing", "extra"))


@pytest.mark.parametrize("name", list(m.HEADLINE_METRICS))
def test_headline_metrics_pass_the_sanity_test(name: str) -> None:
    assert passes_sanity_test(m.HEADLINE_METRICS[name])


@pytest.mark.parametrize("name", list(m.DETAIL_METRICS))
def test_detail_metrics_fail_the_sanity_test(name: str) -> None:
    assert not passes_sanity_test(m.DETAIL_METRICS[name])


def test_the_headline_is_the_five() -> None:
    assert set(m.HEADLINE_METRICS) == {"f1", "iou", "pearson", "cosine", "auprc"}
    assert not set(m.HEADLINE_METRICS) & set(m.DETAIL_METRICS)


@pytest.mark.parametrize("prevalence", [0.499, 0.001])
def test_four_weighted_cells_stand_for_all_items(prevalence: float) -> None:
    """The sanity test on cells equals the one on 100 000 single items."""
    rng = np.random.default_rng(3)
    a = rng.random(N_ITEMS) < prevalence
    e = a & (rng.random(N_ITEMS) < 0.5) | ~a & (rng.random(N_ITEMS) < a.sum() / (~a).sum())
    tp, fp, fn = int((e & a).sum()), int((e & ~a).sum()), int((~e & a).sum())
    for name, metric in ALL.items():
        assert metric.function(e, a, None) == pytest.approx(cells(metric, tp, fp, fn), abs=1e-9), name


# --- invariant 4: weights undo stratified sampling


def test_weighted_sample_estimates_the_population() -> None:
    rng = np.random.default_rng(4)
    a = np.where(rng.random(40_000) < 0.03, rng.uniform(0.3, 1, 40_000), rng.uniform(0, 0.02, 40_000))
    e = np.clip(a + rng.normal(0, 0.3, 40_000), 0, 1)
    chosen = np.where(a > 0.2, 0.6, 0.03)  # inclusion probabilities: rich in positives
    for name in ("pearson", "cosine", "f1", "auprc"):
        truth = (a > 0.2) if name in ("f1", "auprc") else a
        guess = (e > 0.5) if name == "f1" else e
        metric = m.HEADLINE_METRICS[name].function
        population, samples = metric(guess, truth, None), []
        for _ in range(10):
            kept = rng.random(40_000) < chosen
            samples.append(metric(guess[kept], truth[kept], 1 / chosen[kept]))
        error = np.std(samples, ddof=1) / math.sqrt(10)
        assert abs(np.mean(samples) - population) < 3 * error + 1e-3, name
        assert abs(metric(guess[kept], truth[kept], None) - population) > 0.03, name


# --- bootstrap


def test_resamples_draw_documents_with_replacement() -> None:
    resamples = b.Resamples.of(40, seed=5, n_resamples=2000)
    assert resamples.counts.shape == (2000, 40)
    assert (resamples.counts.sum(1) == 40).all()
    assert resamples.counts.mean(0) == pytest.approx(np.ones(40), abs=0.12)
    assert resamples.counts.var() == pytest.approx(1 - 1 / 40, rel=0.05)
    assert (resamples.counts == b.Resamples.of(40, seed=5, n_resamples=2000).counts).all()
    assert (resamples.counts != b.Resamples.of(40, seed=6, n_resamples=2000).counts).any()
    with pytest.raises(BadInput, match="nothing to draw"):
        b.Resamples.of(0, seed=5)


def test_totals_of_handmade_draws() -> None:
    resamples = b.Resamples(floats(2, 0, 1, 0, 3, 0).reshape(2, 3))
    per_doc = floats(1, 10, 100)
    assert resamples.totals(per_doc).tolist() == [102, 30]
    assert resamples.totals(np.stack([per_doc, 2 * per_doc], 1)).tolist() == [[102, 204], [30, 60]]
    estimate = b.ratio_interval(floats(1, 2, 3), floats(2, 2, 2), resamples)
    assert estimate.value == 1.0
    assert (estimate.low, estimate.high) == pytest.approx((5 / 6 + 0.025 / 6, 1 - 0.025 / 6))


def test_interval_takes_percentiles_and_minds_undefined_draws() -> None:
    values = np.random.default_rng(6).permutation(np.arange(1001) / 1000)
    assert b.interval(values) == pytest.approx((0.025, 0.975))
    assert b.interval(values, level=0.8) == pytest.approx((0.1, 0.9))
    few, many = values.copy(), values.copy()
    few[:40], many[:60] = np.nan, np.nan
    assert b.interval(few) == pytest.approx((0.025, 0.975), abs=0.02)
    assert np.isnan(b.interval(many)).all()
    assert np.isnan(b.interval(np.full(10, np.nan))).all()


def test_f1_and_pearson_intervals_are_those_of_resampled_items() -> None:
    rng = np.random.default_rng(8)
    document = np.sort(rng.integers(0, 30, 600))
    a, w = rng.random(600), rng.random(600) + 0.5
    e = np.clip(a + rng.normal(0, 0.4, 600), 0, 1)
    hard_e, hard_a = (e > 0.5).astype(float), (a > 0.5).astype(float)
    resamples = b.Resamples.of(30, seed=9, n_resamples=200)
    counts = b.confusion_counts(hard_e, hard_a, w, document, 30)
    whole = m.confusion(hard_e, hard_a, w)
    assert counts.sum(0) == pytest.approx([whole.tp, whole.fp, whole.fn])
    f1 = b.f1_interval(counts[:, 0], counts[:, 1], counts[:, 2], resamples)
    pearson = b.pearson_interval(b.pearson_sums(e, a, w, document, 30), resamples)
    assert f1.value == pytest.approx(m.f1(hard_e, hard_a, w))
    assert pearson.value == pytest.approx(m.pearson(e, a, w))
    weights = [w * draws[document] for draws in resamples.counts]
    by_items = np.array([[m.f1(hard_e, hard_a, x), m.pearson(e, a, x)] for x in weights])
    assert (f1.low, f1.high) == pytest.approx(b.interval(by_items[:, 0]))
    assert (pearson.low, pearson.high) == pytest.approx(b.interval(by_items[:, 1]))
    assert f1.low < f1.value < f1.high
    assert pearson.low < pearson.value < pearson.high


def test_pearson_from_sums_knows_constants() -> None:
    e, a, one = floats(0.3, 0.3, 0.3), floats(0.1, 0.5, 0.2), np.ones(3)
    document = np.zeros(3, dtype=np.int64)
    for constant in (e, np.zeros(3), np.full(3, 0.1), np.full(3, 1 / 3)):
        assert m.pearson_from_sums(b.pearson_sums(constant, a, one, document, 1)).tolist() == [0.0]
    assert np.isnan(m.pearson_from_sums(b.pearson_sums(a, e, one, document, 1))).all()
    assert np.isnan(m.pearson_from_sums(np.zeros((2, 6)))).all()


def test_clustered_items_give_wider_intervals() -> None:
    """Invariant 15: items of one document are alike, so 600 items are worth 30."""
    rng = np.random.default_rng(10)
    hit = np.repeat(rng.random(30) < 0.6, 20).astype(float)
    ones = np.ones(600)
    document = np.repeat(np.arange(30), 20)
    docs = b.ratio_interval(np.bincount(document, hit), np.bincount(document, ones), b.Resamples.of(30, seed=1))
    items = b.ratio_interval(hit, ones, b.Resamples.of(600, seed=1))
    assert docs.value == items.value
    assert docs.high - docs.low == pytest.approx((items.high - items.low) * math.sqrt(20), rel=0.25)


def test_interval_covers_the_truth() -> None:
    rng, covered = np.random.default_rng(11), 0
    for seed in range(200):
        values = rng.normal(0.3, 1, 80)
        estimate = b.ratio_interval(values, np.ones(80), b.Resamples.of(80, seed=seed, n_resamples=400))
        covered += estimate.low <= 0.3 <= estimate.high
    assert 0.89 <= covered / 200 <= 0.99


def test_paired_differences_share_their_draws() -> None:
    rng = np.random.default_rng(12)
    hard = rng.normal(0, 1, 50)  # documents differ far more than the two conditions
    first, second, ones = hard + 0.1 + rng.normal(0, 0.01, 50), hard, np.ones(50)
    resamples = b.Resamples.of(50, seed=2)
    totals = resamples.totals(np.stack([first, second, ones], 1))
    means = totals[:, :2] / totals[:, 2:]
    paired = b.paired_difference(means[:, 0], means[:, 1], first.mean() - second.mean())
    assert paired.low > 0.09
    assert paired.high < 0.11
    assert b.interval(means[:, 0])[0] < b.interval(means[:, 1])[1]  # apart, the two intervals overlap
    assert b.one_sided_p(means[:, 0] - means[:, 1]) == pytest.approx(1 / 1001)
    assert b.one_sided_p(means[:, 1] - means[:, 0]) == 1.0
    assert b.one_sided_p(floats(np.nan, 0, 1)) == 3 / 4
    with pytest.raises((BadInput, TypeError)):
        b.paired_difference(means[:, 0], means[:5, 1], 0.1)


def test_poisson_weights_belong_to_the_document() -> None:
    hashes = np.random.default_rng(13).integers(0, 2**64, 500, dtype=np.uint64)
    weights = b.poisson_weights(hashes, 300, seed=4)
    assert weights.shape == (500, 300)
    order = np.random.default_rng(14).permutation(500)
    assert (b.poisson_weights(hashes[order], 300, seed=4) == weights[order]).all()
    assert (b.poisson_weights(hashes[7:8], 300, seed=4)[0] == weights[7]).all()
    assert (b.poisson_weights(hashes, 100, seed=4) == weights[:, :100]).all()
    assert (b.poisson_weights(hashes, 300, seed=5) != weights).mean() > 0.5
    assert (b.poisson_weights(hashes, 3, seed=-1) >= 0).all()


@pytest.mark.parametrize("start", [0, 2**63])
def test_poisson_weights_are_poisson_even_for_hashes_in_a_row(start: int) -> None:
    weights = b.poisson_weights(np.arange(start, start + 1000, dtype=np.uint64), 400, seed=0)
    for k in range(5):
        assert (weights == k).mean() == pytest.approx(math.exp(-1) / math.factorial(k), abs=4e-3)
    assert weights.mean(0).std() == pytest.approx(1 / math.sqrt(1000), rel=0.15)  # documents are independent
    assert weights.mean(1).std() == pytest.approx(1 / math.sqrt(400), rel=0.15)  # and so are resamples
    neighbours = np.corrcoef(weights[:-1].ravel(), weights[1:].ravel())[0, 1]
    assert abs(neighbours) < 0.01
    assert abs(np.corrcoef(weights[:, :-1].ravel(), weights[:, 1:].ravel())[0, 1]) < 0.01


def test_poisson_bootstrap_agrees_with_the_multinomial_one() -> None:
    values = np.random.default_rng(15).normal(1, 2, 300)
    weights = b.poisson_weights(np.arange(300, dtype=np.uint64), 2000, seed=3)
    streamed = b.interval((weights.T @ values) / weights.sum(0))
    drawn = b.ratio_interval(values, np.ones(300), b.Resamples.of(300, seed=3, n_resamples=2000))
    assert streamed == pytest.approx((drawn.low, drawn.high), abs=0.04)


# --- rates and p-values


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.3084971),
        (10, 10, 0.6915029, 1.0),
        (5, 10, 0.1870860, 0.8129140),
        (49, 50, 0.8935309, 0.9994938),
        (1, 1, 0.025, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_clopper_pearson_known_values(k: int, n: int, low: float, high: float) -> None:
    assert b.clopper_pearson(k, n) == pytest.approx((low, high), abs=1e-6)


def binomial_tail(k: int, n: int, p: float) -> float:
    """P(X >= k) for X of n trials with rate p, summed term by term."""
    return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_clopper_pearson_inverts_the_binomial_tails(case: tuple[int, int], level: float) -> None:
    k, n = case
    low, high = b.clopper_pearson(k, n, level)
    assert 0 <= low <= k / n <= high <= 1
    if k > 0:
        assert binomial_tail(k, n, low) == pytest.approx((1 - level) / 2, rel=1e-6)
    if k < n:
        assert 1 - binomial_tail(k + 1, n, high) == pytest.approx((1 - level) / 2, rel=1e-6)


@pytest.mark.parametrize(("k", "n"), [(-1, 4), (5, 4), (0, -1)])
def test_clopper_pearson_refuses_what_is_no_rate(k: int, n: int) -> None:
    with pytest.raises(BadInput, match="no rate"):
        b.clopper_pearson(k, n)


def test_benjamini_hochberg_by_hand() -> None:
    p = floats(0.01, 0.04, 0.039, 0.005, 0.9)
    assert b.benjamini_hochberg(p) == pytest.approx([0.025, 0.05, 0.05, 0.025, 0.9])
    with_gap = floats(0.01, np.nan, 0.04, 0.039, 0.005, 0.9)
    adjusted = b.benjamini_hochberg(with_gap)
    assert np.isnan(adjusted[1])
    assert np.delete(adjusted, 1) == pytest.approx([0.025, 0.05, 0.05, 0.025, 0.9])
    assert len(b.benjamini_hochberg(np.zeros(0))) == 0
    with pytest.raises(BadInput, match="p-values"):
        b.benjamini_hochberg(floats(0.5, 1.5))


def test_benjamini_hochberg_holds_the_false_share() -> None:
    rng, shares = np.random.default_rng(16), []
    for _ in range(200):
        p = np.concatenate([rng.random(80), rng.random(20) * 1e-4])
        found = b.benjamini_hochberg(p) <= 0.05
        shares.append(found[:80].sum() / max(found.sum(), 1))
        assert found[80:].all()
    assert 0.02 < np.mean(shares) <= 0.055
