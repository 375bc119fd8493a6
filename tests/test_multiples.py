"""The ranked and the random query: exact, independent of order, and safe to show."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import random
from collections import Counter
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import HOSTILE, N_CTX, planted, tiny_model, tiny_texts, uniform
from torch import Tensor

from autointerp.display import parse_tokens
from autointerp.errors import BadInput
from autointerp.evidence.cells import Best, Cell, Row
from autointerp.evidence.head_windows import HeadReader
from autointerp.evidence.multiples import RandomQuery, RankedQuery, random_multiples, ranked_multiples
from autointerp.evidence.pairs import row_pairs
from autointerp.evidence.rows import Masks, OutputGeometry, write_norms
from autointerp.evidence.table import COLUMNS, TEXT_COLUMNS, PairRow, PairTable
from autointerp.evidence.windows import Window, text_windows
from autointerp.model import Layer
from autointerp.notebook import NotebookModel, open_model
from autointerp.records import Head
from autointerp.tables import read_csv_cells

HEAD = Head(layer=0, index=0)
ALL_BY = ("multiple", "share", "contribution", "column_lift", "position_lift")


def identity(table: PairTable) -> list[tuple[str, int, int, int]]:
    return [(row.doc_id, row.window_id, row.dst, row.src) for row in table.rows]


@pytest.mark.parametrize("by", ALL_BY)
@pytest.mark.parametrize("order", ["top", "bottom"])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_ranked_equals_a_greedy_walk_over_all_pairs(kind: str, by: Any, order: Any) -> None:
    model = tiny_model(kind)
    windows = list(text_windows(model, tiny_texts(7, length=24)))
    everything = ranked_multiples(model, windows, HEAD, RankedQuery(by, order, n=10_000, dedupe=False))
    assert len(everything) == everything.population > 1000
    keys = [getattr(row, by) for row in everything.rows]
    ordered = sorted(keys, reverse=order == "top")
    assert keys == pytest.approx(ordered, rel=2e-6), "ranked by something else"
    chosen: list[PairRow] = []
    for row in everything.rows:
        pairs = Counter((c.dst_token, c.src_token) for c in chosen)
        if row.doc_id not in {c.doc_id for c in chosen} and pairs[row.dst_token, row.src_token] < 2:
            chosen.append(row)
    got = ranked_multiples(model, windows, HEAD, RankedQuery(by, order, n=5))
    assert identity(got) == [(r.doc_id, r.window_id, r.dst, r.src) for r in chosen[:5]]
    assert got.population == everything.population
    assert [r.rank for r in got.rows] == [1, 2, 3, 4, 5]


def test_values_and_columns_against_the_pattern() -> None:
    model = tiny_model("llama")
    windows = {w.doc_id: w for w in text_windows(model, tiny_texts(4))}
    for row in random_multiples(model, list(windows.values()), Head(layer=1, index=3), RandomQuery(n=20)).rows:
        ids = model.to_ids(windows[row.doc_id].ids[None])
        layers: list[Layer] = []
        model.read_attention(ids, [1], layers.append)
        attn = layers[0].pattern[0, 3, row.dst].double()
        mass = float(attn[1 : row.dst + 1].sum())
        assert row.attn == pytest.approx(float(attn[row.src]))
        assert (row.sink_mass, row.n_allowed) == (pytest.approx(float(attn[0])), row.dst)
        if mass >= 0.1:
            assert row.share == pytest.approx(row.attn / mass)
        multiple = row.attn / mass * row.dst
        undefined = row.dst < 8 or mass < 0.1
        assert math.isnan(row.multiple) if undefined else row.multiple == pytest.approx(multiple)
        norm = write_norms(model, layers[0], OutputGeometry.of(model, 1))[0, 3, row.src]
        assert row.contribution == pytest.approx(row.attn * float(norm), rel=1e-5)
        assert row.dst_token == model.strings[int(ids[0, row.dst])]
        assert row.distance == row.dst - row.src
        assert row.prefix_text == "".join(model.strings[i] for i in ids[0, 1 : row.dst + 1].tolist())
        assert row.pattern == pytest.approx(attn[: row.dst + 1].tolist())
        assert row.src > 0


@pytest.mark.slow
def test_order_of_documents_does_not_matter() -> None:
    model = tiny_model("gpt2")
    windows = list(text_windows(model, tiny_texts(7, length=80)))
    assert len(windows) == 14
    groups: dict[str, list[Window]] = {}
    for window in windows:
        groups.setdefault(window.doc_id, []).append(window)
    for seed in range(2):
        shuffled = list(groups.values())
        random.Random(seed).shuffle(shuffled)
        other = [window for group in shuffled for window in group]
        for by in ALL_BY:
            query = RankedQuery(by, n=5)
            got, wanted = (ranked_multiples(model, source, HEAD, query) for source in (other, windows))
            assert got.to_json() == wanted.to_json()
            assert len(got) == 5
        drawn = random_multiples(model, windows, HEAD, RandomQuery(n=7, seed=seed))
        again = random_multiples(model, other, HEAD, RandomQuery(n=7, seed=seed))
        assert drawn.to_json() == again.to_json()
        assert identity(drawn) != identity(random_multiples(model, windows, HEAD, RandomQuery(n=7, seed=seed + 9)))


def test_padding_and_batches_change_nothing() -> None:
    model = tiny_model("gpt2")
    windows = list(text_windows(model, tiny_texts(3, length=20) + tiny_texts(2, seed=5, length=33)))
    width = max(len(w.ids) for w in windows) + 4
    ids = np.full((len(windows), width), 7)
    for row, window in enumerate(windows):
        ids[row, : len(window.ids)] = window.ids
    batch = model.to_ids(ids)
    lengths = torch.tensor([len(w.ids) for w in windows])
    masks = Masks.of(batch, lengths, model.special_ids)
    layers: list[Layer] = []
    model.read_attention(batch, [0], layers.append)
    norms = write_norms(model, layers[0], OutputGeometry.of(model, 0))
    for row, window in enumerate(windows):
        size = len(window.ids)
        alone = HeadReader(model, HEAD).read(window).pairs
        pattern = layers[0].pattern[row, 0, 1:size].double()
        padded = row_pairs(pattern, norms[row, 0].double(), masks.allowed[row], torch.arange(1, size))
        for name in ("share", "multiple", "contribution"):
            got, wanted = getattr(padded, name), getattr(alone, name)
            torch.testing.assert_close(got[:, :size], wanted, equal_nan=True, atol=1e-6, rtol=1e-5)
            assert not got[:, size:].nan_to_num(0).any()
        torch.testing.assert_close(padded.n_allowed, alone.n_allowed)


def test_relabelled_heads_give_relabelled_answers() -> None:
    def plant(order: list[int]) -> Any:
        def attend(ids: Tensor) -> Tensor:
            draw = torch.Generator().manual_seed(int(ids.sum()))
            scores = torch.randn(4, len(ids), len(ids), generator=draw)
            mask = torch.triu(torch.ones(len(ids), len(ids)), 1) > 0
            return torch.softmax(scores.masked_fill(mask, -torch.inf), -1)[order]

        return attend

    one, other = planted(plant([0, 1, 2, 3])), planted(plant([2, 0, 3, 1]))
    windows = list(text_windows(one, tiny_texts(5)))
    for place, original in enumerate([2, 0, 3, 1]):
        a = ranked_multiples(one, windows, Head(layer=0, index=original))
        b = ranked_multiples(other, windows, Head(layer=0, index=place))
        assert len(a) == len(b) == 5
        for row, same in zip(a.rows, b.rows, strict=True):
            assert _numbers(row) == pytest.approx(_numbers(same), nan_ok=True)


def _numbers(row: PairRow) -> list[float]:
    return [row.dst, row.src, row.attn, row.multiple, row.contribution, row.column_lift, row.position_lift]


def test_a_uniform_head_is_not_ranked_by_position() -> None:
    """The ancestor's first ten would be last tokens looking at themselves; ours are 1, in document order."""

    def nearly(ids: Tensor) -> Tensor:
        noise = torch.randn(len(ids), len(ids), generator=torch.Generator().manual_seed(int(ids.sum())))
        return (uniform(len(ids)) * (1 + 1e-7 * noise)).expand(4, -1, -1)

    model = planted(nearly)
    windows = [w for k in range(12) for w in text_windows(model, tiny_texts(1, seed=k, length=14 + 2 * k))]
    table = ranked_multiples(model, windows, HEAD, RankedQuery(n=10))
    assert [row.multiple for row in table.rows] == pytest.approx([1.0] * 10)
    first = sorted(w.doc_id for w in windows)[:10]
    assert [row.doc_id for row in table.rows] == first, "noise ranks a pair above its equals"
    assert not any(row.src == row.dst == len(row.tokens) - 1 == 29 for row in table.rows)
    assert len(random_multiples(model, windows, HEAD, RandomQuery(population="all"))) == 10


def test_bottom_means_ignored_tokens_and_filters_combine() -> None:
    model = tiny_model("gpt2")
    windows = list(text_windows(model, tiny_texts(15)))
    low = ranked_multiples(model, windows, HEAD, RankedQuery(order="bottom", src_token=" cat", dedupe=False))
    high = ranked_multiples(model, windows, HEAD, RankedQuery(src_token=" cat", dedupe=False))
    assert {row.src_token for row in (*low.rows, *high.rows)} == {" cat"}
    assert max(row.multiple for row in low.rows) < 0.7 < 1.2 < min(row.multiple for row in high.rows)
    assert low.title == f"L0H0: lowest 10 of {low.population} pairs by multiple for source ' cat'"
    both = ranked_multiples(model, windows, HEAD, RankedQuery(src_token=" cat", dst_token=" the"))
    assert {(r.dst_token, r.src_token) for r in both.rows} == {(" the", " cat")}
    assert len(both) > 2, "the rule on token pairs cannot apply where the pair is asked for"
    assert both.population < high.population
    share = ranked_multiples(model, windows, HEAD, RankedQuery("share"))
    assert all(row.n_allowed >= 8 for row in share.rows), "a lone source has share 1 in every head"


def test_above_average_and_all_differ() -> None:
    model = tiny_model("gpt2")
    windows = list(text_windows(model, tiny_texts(5)))
    all_pairs = random_multiples(model, windows, HEAD, RandomQuery(n=60))
    above = random_multiples(model, windows, HEAD, RandomQuery(n=60, population="above_average"))
    assert all_pairs.population == sum(k for w in windows for k in range(1, len(w.ids)))
    assert above.population < all_pairs.population
    assert all(row.multiple > 1 for row in above.rows)
    assert any(row.multiple < 1 for row in all_pairs.rows)
    repeated = Counter(row.doc_id for row in all_pairs.rows)
    assert max(repeated.values()) > 1, "a uniform draw has no rule on documents"


def test_the_random_draw_is_uniform() -> None:
    model = planted(lambda ids: uniform(len(ids)).expand(4, -1, -1))
    windows = list(text_windows(model, tiny_texts(2, length=9)))
    drawn = Counter(
        (row.doc_id, row.dst, row.src)
        for seed in range(120)
        for row in random_multiples(model, windows, HEAD, RandomQuery(n=9, seed=seed)).rows
    )
    cells = 2 * 9 * 10 // 2
    expected = 120 * 9 / cells
    assert len(drawn) == cells
    chi = sum((count - expected) ** 2 / (expected * (1 - 9 / cells)) for count in drawn.values())
    assert chi < 150, "chi square of 89 degrees of freedom"


@given(st.integers(0, 10**9), st.integers(1, 4), st.sampled_from([None, 2]))
@settings(max_examples=40, deadline=None)
def test_bounded_selection_is_the_greedy_one(seed: int, n: int, per_pair: int | None) -> None:
    draw = random.Random(seed)
    nowhere = Row(Window("", 0, np.zeros(1, np.int32), lambda dst: ""), 0, torch.zeros(1), 0.0, 0)
    cells = {}
    for _ in range(900):
        place = f"{draw.randrange(draw.choice([3, 30])):02}", 0, draw.randrange(9), draw.randrange(9)
        key = float(draw.randrange(40))
        pair = draw.randrange(4), draw.randrange(2)
        cells[place] = Cell((key, *place), pair, nowhere, 0, {})
    best = Best(n, per_pair=per_pair)
    for cell in cells.values():
        if best.could_enter(cell.order):
            best.offer([cell])
    chosen: list[Cell] = []
    for cell in sorted(cells.values(), key=lambda c: c.order):
        full = per_pair is not None and sum(c.pair == cell.pair for c in chosen) >= per_pair
        if cell.document not in {c.document for c in chosen} and not full:
            chosen.append(cell)
    assert [c.order for c in best.result()] == [c.order for c in chosen[:n]]
    assert len(best._cells) <= 2 * (n * (n // 2 + 1) + n * n + 1) + 256


HOSTILE_TEXT = 'the cat , said John {{x}} | "\n</td>NA =1+1 sat on the mat . the dog \r and the cat'


def hostile_table() -> PairTable:
    model = planted(lambda ids: uniform(len(ids)).expand(4, -1, -1))
    windows = text_windows(model, [HOSTILE_TEXT])
    return ranked_multiples(model, windows, HEAD, RankedQuery("contribution", n=2000, dedupe=False))


def test_hostile_tokens_survive_every_form() -> None:
    table = hostile_table()
    tokens = {row.src_token for row in table.rows}
    assert set(HOSTILE) <= tokens
    cells = read_csv_cells(table.to_csv(), TEXT_COLUMNS)
    for row, cell in zip(table.rows, cells, strict=True):
        assert (cell["src_token"], cell["dst_token"]) == (row.src_token, row.dst_token)
        assert cell["prefix_text"] == row.prefix_text
        assert int(cell["src"]) == row.src
    import pandas

    eaten = pandas.read_csv(io.StringIO(table.to_csv()))
    assert not eaten["src_token"].isna().any()
    assert len(eaten) == len(table)
    frame = table.to_dataframe()
    assert tuple(frame.columns) == COLUMNS
    assert list(frame["src_token"]) == [r.src_token for r in table.rows]
    lines = table.to_markdown().strip().split("\n")[-len(table) :]
    for line, row in zip(lines, table.rows, strict=True):
        assert line.replace(r"\|", "").count("|") == len(COLUMNS) + 1, row.src_token
    page = table.to_html()
    assert page.count("</td>") == page.count("<td")
    assert "{{x}}" in page
    shown = [json.loads(unescape(part.split('"')[0])) for part in page.split('data-token="')[1:]]
    assert tokens <= set(shown)
    assert "http" not in page
    assert "<script" not in page
    read = json.loads(table.to_json())
    assert [row["src_token"] for row in read["rows"]] == [row.src_token for row in table.rows]
    assert read["rows"][0]["column_lift"] is None


def test_showing_changes_nothing() -> None:
    model = tiny_model("gpt2")
    windows = list(text_windows(model, tiny_texts(3)))
    before = [w.ids.tobytes() for w in windows]
    seen = HeadReader(model, HEAD).read(windows[0])
    kept = {name: value.clone() for name, value in vars(seen.pairs).items()}
    table = ranked_multiples(model, windows, HEAD)
    frozen = hashlib.sha256(repr(table.rows).encode()).hexdigest()
    forms = [table.to_html(), table.to_markdown(), table.to_csv(), table.to_json(), table._repr_html_()]
    frame = table.to_dataframe()
    frame.loc[0, "dst"] = 99
    assert hashlib.sha256(repr(table.rows).encode()).hexdigest() == frozen
    assert forms == [table.to_html(), table.to_markdown(), table.to_csv(), table.to_json(), table._repr_html_()]
    assert [w.ids.tobytes() for w in windows] == before
    for name, value in vars(seen.pairs).items():
        torch.testing.assert_close(value, kept[name], rtol=0, atol=0, equal_nan=True)


def test_the_page_says_what_was_done() -> None:
    page = hostile_table().to_html()
    assert page.startswith("<!doctype html>")
    assert "sink_mass" in page
    assert "is left out" in page
    assert "contribution = attention times the norm" in page
    assert "without the sink (mass" in page
    row = hostile_table().rows[0]
    assert row.sinks == (0,)
    assert parse_tokens(json.dumps(row.dst_token))[0][0] == row.dst_token


def test_bad_input_is_refused() -> None:
    model = tiny_model("gpt2")
    windows = text_windows(model, tiny_texts(2))
    with pytest.raises(BadInput, match=r"'cats' is no token.*'cat'"):
        ranked_multiples(model, windows, HEAD, RankedQuery(src_token="cats"))
    with pytest.raises(BadInput, match=r"'  Cat' is no token.*' cat'"):
        ranked_multiples(model, windows, HEAD, RankedQuery(dst_token="  Cat"))
    with pytest.raises(BadInput, match="no head L2H0; its heads are L0H0 to L1H3"):
        ranked_multiples(model, windows, Head(layer=2, index=0))
    with pytest.raises(BadInput, match="0 texts"):
        random_multiples(model, [], HEAD)
    with pytest.raises(BadInput, match="two tokens"):
        text_windows(model, ["", "cat"])
    with pytest.raises(BadInput, match=f"n_ctx {N_CTX}"):
        text_windows(model, tiny_texts(1), context=N_CTX + 1)
    with pytest.raises(BadInput, match="holds no text"):
        text_windows(model, tiny_texts(1), context=1)
    with pytest.raises(BadInput, match="read once"):
        ranked_multiples(model, iter(windows), HEAD, RankedQuery("position_lift"))
    with pytest.raises((BadInput, TypeError), match="multiple"):  # a TypeError where types are enforced
        RankedQuery(by="lift")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="n is 0"):
        RandomQuery(n=0)


def test_texts_become_windows_once() -> None:
    model = tiny_model("gpt2")
    texts = [*tiny_texts(2, length=150), "the cat sat", "", tiny_texts(2, length=150)[0]]
    found = text_windows(model, texts)
    assert found.dropped == 2
    assert [w.window for w in found] == [0, 1, 2, 0, 1, 2, 0], "63 ids a window after BOS"
    assert all(w.ids[0] == model.bos_id and len(w.ids) <= N_CTX for w in found)
    last = found.windows[-1]
    assert last.prefix_text(2) == "the cat"
    assert last.prefix_text(0) == ""
    assert len({w.doc_id for w in found}) == 3


def test_the_notebook_door(tmp_path: Path) -> None:
    m = NotebookModel(tiny_model("gpt2"))
    texts = tiny_texts(6)
    table = m.multiples("L0H0", texts, n=3, order="bottom", by="share")
    same = ranked_multiples(m.model, text_windows(m.model, texts), HEAD, RankedQuery("share", "bottom", 3))
    assert table.to_json() == same.to_json()
    assert len(table) == 3
    drawn = m.random_multiples("0.0", texts, n=4, seed=3)
    assert identity(drawn) == identity(m.random_multiples(HEAD, texts, n=4, seed=3))
    assert len(drawn) == 4
    assert len(m.multiples("1.3", m.windows(texts, context=20))) > 0
    assert m.finder("the cat sat").find_first(" cat").index == 2
    for wrong in ("L0", "L9H9"):
        with pytest.raises(BadInput):
            m.multiples(wrong, texts)
    with pytest.raises(BadInput, match="one string"):
        m.multiples("L0H0", texts[0])
    with pytest.raises(BadInput, match="no model"):
        open_model(7)
    assert open_model(m.model).model is m.model


def test_a_corpus_split_gives_the_same_as_its_texts(tmp_path: Path) -> None:
    from autointerp.corpus import Encoded, WindowSpec, build_corpus

    class Encoder:
        def encode(self, text: str) -> Encoded:
            return Encoded(*m.model.encode(text))

    m = NotebookModel(tiny_model("llama"))
    texts = tiny_texts(40)
    spec = WindowSpec(N_CTX, m.model.bos_id, m.model.special_ids, max_tokens=10**6)
    corpus = build_corpus(texts, Encoder(), spec, tmp_path / "corpus")
    kept = [texts[i] for i in range(40) if _identity(texts[i]) in _explained(corpus)]
    assert 5 < len(kept) < 40
    for by in ("multiple", "position_lift"):
        wanted = m.multiples("L1H0", kept, by=by).to_json()
        assert m.multiples("L1H0", corpus, by=by).to_json() == wanted
        assert m.multiples("L1H0", corpus.explain(), by=by).to_json() == wanted


def _identity(text: str) -> str:
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()


def _explained(corpus: Any) -> set[str]:
    return {corpus.doc_ids[corpus.doc[number]] for number in corpus.explain().windows}


@pytest.mark.slow
@pytest.mark.skipif("AUTOINTERP_SHARED" not in os.environ, reason="AUTOINTERP_SHARED names no folder of models")
def test_a_real_previous_token_head() -> None:
    shared = Path(os.environ["AUTOINTERP_SHARED"])
    m = open_model(shared / "models" / "induct-2l")
    texts = (shared / "corpora" / "tinyshakespeare.txt").read_text("utf-8")[:40_000].split("\n\n")
    windows = m.windows([text for text in texts if len(text) > 100][:40], context=64)
    table = m.multiples("L0H3", windows, by="contribution")
    assert len(table) == 10
    assert sum("is_prev" in row.flags for row in table.rows) >= 9
    wiki = (shared / "corpora" / "wikitext2-valid.txt").read_text("utf-8")[:100_000]
    met = np.unique(m.model.encode(wiki)[0])
    draw = np.random.default_rng(0)
    halves = [draw.choice(met, 40, replace=False) for _ in range(15)]
    bos = np.array([m.model.bos_id])
    fed = [np.concatenate([bos, half, half]) for half in halves]
    repeated = [Window(f"{k:064x}", 0, ids, lambda dst: "") for k, ids in enumerate(fed)]
    for head in ("L1H0", "L1H1"):
        found = m.multiples(head, repeated, by="share")
        assert sum("after_dup" in row.flags for row in found.rows) >= 8, head
