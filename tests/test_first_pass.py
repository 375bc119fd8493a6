"""The first pass against brute force; the same state for any batch size, order and number of kills."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_corpus import CONTEXT, HEADS, WINDOWS_OF, by_hand, corpus, spec_of, whole, windows_of
from tiny_models import tiny_model

from autointerp.evidence import accumulate
from autointerp.evidence.accumulate import ROW_VALUES, STATISTICS, DocumentMeans, Reservoir
from autointerp.evidence.buckets import bucket_of, n_buckets
from autointerp.evidence.collect import ExplainWindows
from autointerp.evidence.first_pass import Batch, FirstPass, PassSpec, run_first_pass
from autointerp.evidence.hashing import document_keys, row_hashes
from autointerp.evidence.pairs import RowPairs
from autointerp.evidence.rows import TAU
from autointerp.evidence.statistics import QUANTILES, head_stats


def row_values(pairs: RowPairs) -> dict[str, np.ndarray]:
    n = np.where(pairs.n_allowed.numpy() >= 2, pairs.n_allowed.numpy(), np.nan)
    share = pairs.share.numpy()
    values = {name: getattr(pairs, name).numpy() for name in ("sink_mass", "self_mass", "prev_mass", "mean_distance")}
    values |= {"entropy_nats": pairs.entropy.numpy(), "entropy": pairs.entropy.numpy() / np.log(n)}
    top = np.where(np.isnan(share).all(1), np.nan, np.nan_to_num(share).max(1))
    low = (pairs.mass.numpy() < TAU).astype(float)
    return values | {"max_share": top, "low_mass": low, "activity": pairs.activity.numpy(), "mass": pairs.mass.numpy()}


def test_document_means_are_those_of_plain_loops() -> None:
    found, _ = by_hand()
    for i, name in enumerate(STATISTICS):
        for head in range(HEADS):
            means = []
            for document in range(len(WINDOWS_OF)):
                rows = np.concatenate([row_values(found[w, head])[name] for w in windows_of(document)])
                if not np.isnan(rows).all():
                    means.append(np.nanmean(rows))
            assert whole().means.mean()[i, head] == pytest.approx(np.mean(means), abs=1e-5), (name, head)
            assert whole().means.counts[i, head] == len(means)
    assert whole().progress.tolist() == [18, sum(int(n) - 1 for n in corpus().windows.lengths), 10]


def test_histogram_and_expected_shares_are_those_of_plain_loops() -> None:
    found, _ = by_hand()
    buckets = n_buckets(CONTEXT)
    for head in range(HEADS):
        histograms, means = [], []
        for document in range(len(WINDOWS_OF)):
            sums, pairs, rows = np.zeros((buckets, buckets)), np.zeros((buckets, buckets)), 0
            for p in (found[w, head] for w in windows_of(document)):
                for r in np.flatnonzero(p.mass.numpy() >= TAU):
                    dst, rows = int(r) + 1, rows + 1
                    for src in range(1, dst + 1):
                        cell = bucket_of(np.array([dst, dst - src]))
                        sums[cell[0], cell[1]] += np.nan_to_num(p.share[r, src])
                        pairs[cell[0], cell[1]] += bool(p.allowed[r, src])
            histograms += [sums.sum(0) / rows] if rows else []
            means.append(np.divide(sums, pairs, out=np.full_like(sums, np.nan), where=pairs > 0))
        got = whole().histogram[head] / whole().histogram_documents[head]
        np.testing.assert_allclose(got, np.mean(histograms, 0), atol=1e-5)
        assert got.sum() == pytest.approx(1, abs=1e-5)
        stack = np.array(means)
        there = ~np.isnan(stack).all(0)
        np.testing.assert_allclose(whole().expected_share()[head][there], np.nanmean(stack[:, there], 0), atol=1e-5)
        assert np.isnan(whole().expected_share()[head][~there]).all()


def test_token_totals_and_mean_z_are_those_of_plain_loops() -> None:
    found, z_sum = by_hand()
    windows, tokens = corpus().windows, corpus().token_ids()
    sources, destinations = np.zeros((len(tokens), HEADS)), np.zeros((len(tokens), HEADS))
    counts = np.zeros(len(tokens))
    for (w, head), p in found.items():
        contribution = torch.where(p.allowed, p.contribution, 0.0).double().numpy()
        for position in range(1, int(windows.lengths[w])):
            token = int(np.searchsorted(tokens, windows.ids[w, position]))
            counts[token] += head == 0
            sources[token, head] += contribution[:, position].sum()
            destinations[token, head] += contribution[position - 1].sum()
    np.testing.assert_allclose(whole().source_totals, sources, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(whole().destination_totals, destinations, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(whole().token_counts, counts)
    np.testing.assert_allclose(whole().z_mean(), z_sum / whole().progress[1], atol=1e-6)


def test_top_rows_are_the_most_active_row_of_each_document() -> None:
    found, _ = by_hand()
    windows = corpus().windows
    keys = document_keys(windows.doc_ids).tolist()
    for head in range(HEADS):
        best = []
        for document in range(len(WINDOWS_OF)):
            rows = [(-float(a), w, r + 1) for w in windows_of(document) for r, a in enumerate(found[w, head].activity)]
            best.append((*min(rows), document))
        best.sort()
        columns = {name: array[head] for name, array in whole().top.columns.items()}
        assert columns["window"].tolist() == [w for _, w, _, _ in best]
        assert columns["dst"].tolist() == [dst for _, _, dst, _ in best]
        assert columns["document"].tolist() == [keys[d] for *_, d in best]
        np.testing.assert_allclose(columns["activity"], [-a for a, *_ in best], rtol=1e-4)
        for (_, w, dst, _), src in zip(best, columns["src"], strict=True):
            p = found[w, head]
            assert int(torch.where(p.allowed, p.contribution, -1.0)[dst - 1].argmax()) == src


def test_the_reservoir_holds_every_row_of_a_small_corpus_in_hash_order() -> None:
    found, _ = by_hand()
    windows = corpus().windows
    for head in (0, 5):
        sample = whole().reservoir.of_head(head)
        assert len(sample["hash"]) == whole().progress[1]
        assert (np.diff(sample["hash"].astype(object)) > 0).all()
        for hashed, w, dst, values in zip(*(sample[n] for n in ("hash", "window", "dst", "values")), strict=True):
            key = document_keys([windows.doc_ids[int(windows.doc[w])]])
            place = np.array([[head // 4, head % 4]])
            in_doc = windows.window_in_doc[w : w + 1]
            assert hashed == row_hashes(7, key, in_doc, place, CONTEXT)[0, 0, dst]
            wanted = row_values(found[int(w), head])
            np.testing.assert_allclose(values, [wanted[n][dst - 1] for n in ROW_VALUES], rtol=1e-4, atol=1e-5)


# -- the same result however it is run


def arrays_of(state: FirstPass) -> dict[str, np.ndarray]:
    names = ("source_totals", "destination_totals", "token_counts", "share_sums", "share_documents", "histogram",
             "histogram_documents", "z_sum", "progress")  # fmt: skip
    found = {name: getattr(state, name) for name in names}
    found |= {f"means.{n}": getattr(state.means, n) for n in ("sums", "counts", "boot_sums", "boot_counts")}
    found |= {f"reservoir.{n}": a for n, a in state.reservoir.rows.items()}
    return found | {f"top.{n}": a for n, a in state.top.columns.items()}


def assert_same(got: FirstPass, wanted: FirstPass, atol: float) -> None:
    """The same rows; numbers to `atol` of their scale (0: to the bit)."""
    for name, array in arrays_of(wanted).items():
        other = arrays_of(got)[name]
        if atol == 0 or not np.issubdtype(array.dtype, np.floating):
            np.testing.assert_array_equal(other, array, err_msg=name)
        else:
            np.testing.assert_allclose(other, array, atol=atol * max(np.nanmax(np.abs(array)), 1), rtol=0, err_msg=name)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 64])
def test_the_batch_size_changes_nothing(batch_size: int) -> None:
    assert_same(whole(batch_size), whole(), 1e-6)  # the model's own float32 differs by batch, the rows kept do not


def test_the_order_of_documents_changes_nothing() -> None:
    explain = corpus()
    order = np.random.default_rng(0).permutation(len(WINDOWS_OF))
    numbers = np.concatenate([windows_of(int(d)) for d in order])
    assert numbers.tolist() != sorted(numbers.tolist())
    shuffled = ExplainWindows(explain.windows, numbers, explain.cluster, CONTEXT)
    assert_same(run_first_pass(tiny_model("gpt2"), spec_of(shuffled, 1)), whole(1), 1e-9)


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [1, 2, 3, 4, 5])
def test_a_pass_killed_after_any_batch_goes_on_to_the_same_state(after: int, tmp_path: Path) -> None:
    spec, model, path = spec_of(corpus()), tiny_model("gpt2"), tmp_path / "state.npz"
    read: list[int] = []

    def dies(batches: Callable[[int], Iterator[Batch]], limit: int) -> Callable[[int], Iterator[Batch]]:
        def start_at(first: int) -> Iterator[Batch]:
            for n, batch in enumerate(batches(first)):
                if n == limit:
                    raise Killed
                read.extend(batch.windows.tolist())
                yield batch
            if limit == BATCHES:  # after the last batch
                raise Killed

        return start_at

    mortal = PassSpec(dies(spec.batches, after), *(getattr(spec, n) for n in FIELDS))
    with pytest.raises(Killed):
        run_first_pass(model, mortal, path, every=-1)
    again = PassSpec(dies(spec.batches, 99), *(getattr(spec, n) for n in FIELDS))
    state = run_first_pass(model, again, path, every=-1)
    assert read == list(range(18)), "a window was read twice or never"
    assert_same(state, whole(), 0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state.npz"]


BATCHES = 5
FIELDS = ("document_keys", "window_in_doc", "token_ids", "context", "seed")


def test_reservoirs_and_top_rows_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    full = whole()
    monkeypatch.setattr(accumulate, "RESERVOIR_ROWS", 30)
    monkeypatch.setattr(accumulate, "TOP_ROWS", 4)
    small = run_first_pass(tiny_model("gpt2"), spec_of(corpus(), 1))
    for head in range(HEADS):
        for name, array in small.reservoir.of_head(head).items():
            np.testing.assert_allclose(array, full.reservoir.of_head(head)[name][:30], rtol=1e-5, atol=1e-6)
    for name, array in small.top.columns.items():
        np.testing.assert_allclose(array, full.top.columns[name][:, :4], rtol=1e-5)
    waiting = Reservoir(2)
    peak = 0
    for n in range(40):
        hashes = np.random.default_rng(n).integers(0, 2**63, (2, 3, 5), dtype=np.uint64)
        waiting.add(hashes, np.ones((3, 5), bool), np.arange(3), [np.zeros((2, 3, 5))] * len(ROW_VALUES))
        peak = max(peak, len(waiting.rows["head"]) + sum(len(p["head"]) for p in waiting.pending))
    assert peak <= 2 * 30 + 2 * 15 + 30


# -- what is made of the state


def test_statistics_of_a_head() -> None:
    explain, model = corpus(), tiny_model("gpt2")
    stats = head_stats(whole(), spec_of(explain), model.strings)
    sample = whole().reservoir.of_head(6)["values"]
    six = stats[6]
    assert (six.n_rows, six.n_docs, len(stats)) == (int(whole().progress[1]), 10, HEADS)
    assert six.self_mass.value == whole().means.mean()[STATISTICS.index("self_mass"), 6]
    assert six.low_mass_rows.value == whole().means.mean()[STATISTICS.index("low_mass"), 6]
    assert six.entropy_median == pytest.approx(np.nanmedian(sample[:, ROW_VALUES.index("entropy")]))
    np.testing.assert_allclose(six.activity_quantiles, np.quantile(sample[:, 0], QUANTILES))
    order = np.argsort(-whole().source_totals[:, 6])
    ids = explain.token_ids()[order]
    assert [t.token for t in six.top_sources] == [model.strings[int(i)] for i in ids[:20]]
    assert six.top_sources[0].base_rate == whole().token_counts[order[0]] / whole().token_counts.sum()
    totals = whole().source_totals[:, 6]
    assert six.top_sources[0].part == pytest.approx(totals.max() / totals.sum())
    assert sum(t.part for t in six.top_destinations) <= 1


def test_the_bootstrap_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    hits, widths, draw = 0, [], np.random.default_rng(0)
    for trial in range(60):
        means = DocumentMeans.empty(1, trial)
        for document, value in enumerate(draw.normal(3.0, 1.0, 40)):
            means.add(np.uint64(document * 7919 + trial), np.full((len(STATISTICS), 1), value))
        low, high = means.interval()
        widths.append(high[0, 0] - low[0, 0])
        hits += low[0, 0] <= 3.0 <= high[0, 0]
        assert low[0, 0] < means.mean()[0, 0] < high[0, 0]
    assert 50 <= hits <= 60
    assert np.mean(widths) == pytest.approx(2 * 1.96 / np.sqrt(40), rel=0.12)


def test_a_statistic_without_rows_is_undefined_and_not_zero() -> None:
    means = DocumentMeans.empty(1, 0)
    values: Any = np.full((len(STATISTICS), 1), np.nan)
    values[0] = 0.25
    means.add(np.uint64(5), values)
    assert means.mean()[0, 0] == 0.25
    assert np.isnan(means.mean()[1:]).all()
    assert np.isnan(means.interval()[0][1:]).all()
