"""Entity lens: reading data, splits, metrics, results; nothing here runs a model."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.errors import BadInput
from autointerp.lenses.entity_items import (
    Limits,
    MentionItem,
    conll_items,
    data_hash,
    demo_items,
    keep_items,
    make_item,
    read_items,
    split_items,
    tag_spans,
)  # fmt: skip
from autointerp.lenses.entity_metrics import (
    chrf_counts,
    chrf_from_counts,
    corpus_chrf,
    em,
    em_norm,
    pm,
    pm_original,
)  # fmt: skip
from autointerp.lenses.entity_result import NO_ENTITY, SAME, TOKEN_COLUMNS, EntityReading, LensCell
from autointerp.lenses.entity_scores import Judge, subsets
from autointerp.tables import read_csv_cells

# -- data ------------------------------------------------------------------------------------------------------------


def jsonl(folder: Path, *records: object) -> Path:
    path = folder / "data.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records), encoding="utf-8")
    return path


def test_jsonl_spans_are_offsets_and_never_searched_for(tmp_path: Path) -> None:
    text = "RUSSIA and the US spoke. The US left with US"
    spans = [(15, 17), (29, 31), (42, 44)]
    record = {"text": text, "entities": [{"start": a, "end": b, "mention": "US", "id": "us"} for a, b in spans]}
    items = read_items(jsonl(tmp_path, record, ""))
    assert [(i.char_start, i.char_end) for i in items] == spans
    assert {(i.mention, i.entity_id, i.doc_id) for i in items} == {("US", "us", items[0].doc_id)}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "a US b", "entities": [{"start": 0, "end": 2, "mention": "US"}]}, "not the entity 'US'"),
        ({"text": "short", "entities": [{"start": 2, "end": 9}]}, "not inside a text of 5"),
        ({"text": "short", "entities": [{"start": 2, "end": 2}]}, "not inside"),
        ({"text": "short", "entities": [{"start": "0", "end": 2}]}, "not both integers"),
        ({"text": "short", "entities": [{"mention": "short"}]}, "start"),
        ({"text": 5, "entities": []}, "text is no string"),
        ({"entities": []}, "text"),
        ("{", "no line of entities"),
        ("[]", "no line of entities"),
    ],
)
def test_bad_lines_are_refused_with_their_number(tmp_path: Path, record: object, message: str) -> None:
    good = {"text": "Mary left", "entities": [{"start": 0, "end": 4}]}
    with pytest.raises(BadInput, match=message) as caught:
        read_items(jsonl(tmp_path, good, record))
    assert "data.jsonl:2" in str(caught.value)


def test_files_without_entities_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no entity"):
        read_items(jsonl(tmp_path, {"text": "nobody", "entities": []}))
    with pytest.raises(BadInput, match="cannot be read"):
        read_items(tmp_path / "missing.jsonl")


CONLL = """-DOCSTART- -X- O O

EU NNP I-NP I-ORG
rejects VBZ I-VP O
German JJ I-NP I-MISC
call NN I-NP O
# NN I-NP O
in IN I-PP O
New NNP I-NP I-LOC
York NNP I-NP I-LOC

-DOCSTART- -X- O O

Peter NNP I-NP B-PER
Blackburn NNP I-NP I-PER
Ann NNP I-NP B-PER"""


def test_conll_keeps_sentence_final_and_last_entities(tmp_path: Path) -> None:
    path = tmp_path / "eng.train"
    path.write_text(CONLL, encoding="utf-8")
    items = read_items(path)
    assert [i.mention for i in items] == ["EU", "German", "New York", "Peter Blackburn", "Ann"]
    assert items[0].text == "EU rejects German call # in New York"
    assert all(i.text[i.char_start : i.char_end] == i.mention for i in items)
    assert len({i.doc_id for i in items}) == 2
    assert items[3].source == "eng.train:14"


def test_tags_in_all_three_schemes() -> None:
    words = ("Old", "Mill", "Ann", "Bob", "ran")
    want = [(0, 8), (9, 12), (13, 16)]
    for tags in (
        ("B-X", "I-X", "B-P", "B-P", "O"),
        ("I-X", "I-X", "I-P", "B-P", "O"),
        ("B-X", "E-X", "S-P", "S-P", "O"),
    ):
        assert tag_spans(list(zip(words, tags, strict=True))) == want


def test_a_line_without_a_tag_is_refused() -> None:
    with pytest.raises(BadInput, match="x:2 has one column"):
        list(conll_items(["a O", "b"], "x"))


@given(st.lists(st.tuples(st.text("abc", min_size=1, max_size=3), st.sampled_from(["O", "B-X", "I-X", "I-Y"]))))
def test_conll_spans_read_as_their_words(tokens: list[tuple[str, str]]) -> None:
    text = " ".join(word for word, _ in tokens)
    spans = tag_spans(tokens)
    assert sum(tag != "O" for _, tag in tokens) == sum(len(text[a:b].split()) for a, b in spans)
    assert spans == sorted(spans) and all(a[1] < b[0] for a, b in pairwise(spans))


def item(mention: str = "Mary", doc: str = "d", entity: str = "", text: str = "") -> MentionItem:
    text = text or f"{mention} left"
    at = text.index(mention)
    return make_item(text, (at, at + len(mention)), mention, (doc, entity), "test")


def test_limits_count_what_they_drop() -> None:
    items = [item(), item("M" * 61), item("12"), item(text="Mary" + " x" * 200)]
    kept, dropped = keep_items(items, Limits())
    assert kept == items[:1]
    assert dropped == {"mention too long": 1, "no letter": 1, "text too long": 1}


def test_the_split_is_by_document_and_by_entity() -> None:
    items = [item(f"Name{e}", f"doc{d}", f"e{e}") for d in range(60) for e in range(20)]
    parts = split_items(items)
    assert sum(len(p) for p in (parts.train, parts.dev, parts.seen, parts.unseen)) == len(items)
    known = {i.entity_id for i in parts.train}
    assert {i.entity_id for i in parts.dev} <= known and {i.entity_id for i in parts.seen} <= known
    assert parts.unseen and not {i.entity_id for i in parts.unseen} & known
    documents = [{i.doc_id for i in part} for part in (parts.train, parts.dev, parts.seen)]
    assert not documents[0] & documents[1] and not documents[0] & documents[2] and not documents[1] & documents[2]
    assert split_items(items) == parts and split_items(items, 1) != parts
    assert data_hash(parts.train) != data_hash(parts.dev)
    with pytest.raises(BadInput, match="leave no"):
        split_items(items[:1])


def test_the_demo_set_keeps_the_corpus_spans() -> None:
    from autointerp.demo.corpus import documents

    items = demo_items(documents(7), 60)
    assert len(items) > 30
    assert all(i.text[i.char_start : i.char_end] == i.mention and len(i.text) <= 300 for i in items)
    assert Counter(i.entity_id.partition(":")[0] for i in items).keys() == {"person", "town", "firm"}


# -- metrics ---------------------------------------------------------------------------------------------------------

PAIRS = [("Orla Lund", "Orla Lund"), ("Orla", "Orla Lund"), ("", "Orla Lund"), ("orla lund.", "Orla Lund"), ("X", "Y")]


def test_matches_by_hand() -> None:
    found = [[metric(*pair) for pair in PAIRS] for metric in (em, em_norm, pm, pm_original)]
    assert found == [
        [True, False, False, False, False],
        [True, False, False, True, False],
        [True, True, False, False, False],
        [True, True, True, False, False],  # the published one lets an empty output win
    ]
    assert em(" Orla Lund", "Orla Lund") and not pm("  ", "Orla Lund") and em_norm("ＯＲＬＡ lund", "Orla Lund")


def test_chrf_by_hand_and_by_the_library() -> None:
    # "ab" against "abc": precision 2/2, 1/1; recall 2/3, 1/2, both sides have n = 1 and 2 (the truth has 3-grams too)
    precision, recall = 1.0, (2 / 3 + 1 / 2) / 2
    want = 100 * 5 * precision * recall / (4 * precision + recall)
    assert chrf_from_counts(chrf_counts("ab", "abc")) == pytest.approx(want)
    assert corpus_chrf(["ab"], ["abc"]) == pytest.approx(want)
    said, true = zip(*PAIRS, strict=True)
    summed = sum(chrf_counts(*pair) for pair in PAIRS)
    assert chrf_from_counts(summed) == pytest.approx(corpus_chrf(list(said), list(true)))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12)), min_size=1, max_size=4))
def test_summed_counts_give_the_librarys_corpus_score(pairs: list[tuple[str, str]]) -> None:
    said, true = zip(*pairs, strict=True)
    summed = sum(chrf_counts(*pair) for pair in pairs)
    assert chrf_from_counts(summed) == pytest.approx(corpus_chrf(list(said), list(true)), abs=1e-6)


def test_rows_have_rates_intervals_and_margins() -> None:
    said, true = zip(*PAIRS, strict=True)
    judge = Judge(true, ("d1", "d1", "d2", "d2", "d3"))
    row = judge.row(("seen", 1, "lens", "all"), said, np.ones(5, dtype=bool))
    assert (row.n, row.n_docs, row.em, row.em_norm, row.pm) == (5, 3, 0.2, 0.4, 0.4)
    assert row.pm_original == pytest.approx(0.6)
    assert row.em_low <= row.em <= row.em_high and row.chrf_low <= row.chrf <= row.chrf_high
    part = judge.row(("seen", 1, "lens", "first"), said, np.array([True, False, False, False, False]))
    assert (part.n, part.n_docs, part.em, part.chrf) == (1, 1, 1.0, pytest.approx(100))
    assert (part.em_low, part.em_high) == (pytest.approx(0.025), 1.0)  # one document of one: Clopper-Pearson
    margin = judge.margin(said, ["Orla Lund", "", "Orla Lund", "", ""])
    assert margin.value == pytest.approx(-0.2) and margin.low <= -0.2 <= margin.high


def test_subsets_by_length_and_frequency() -> None:
    found = subsets([1, 2, 3, 5, 2], [10, 20, 30, 40, 40])
    assert {name: int(chosen.sum()) for name, chosen in found.items()} == {
        "all": 5, "several tokens": 4, "1 token": 1, "2 tokens": 2, "3 tokens": 1, "4+ tokens": 1,
        "frequency quartile 1": 2, "frequency quartile 2": 1, "frequency quartile 3": 2,
    }  # fmt: skip


# -- results ---------------------------------------------------------------------------------------------------------

HOSTILE = ("a|b", "x;y", "line\nend", '"quoted"', "</td><script>alert(1)</script>", "NA", "=1+1", "\r", "")


def reading(tokens: tuple[str, ...] = HOSTILE, said: tuple[str, ...] | None = None) -> EntityReading:
    names = said or tokens
    cells = tuple(
        LensCell(layer, layer, pos + 1, token, names[pos], (pos, 3), 1.5 + pos, ((token, 0.25),),
                 {"mean": "Orla" if pos else names[pos]})
        for layer in (-1, 0) for pos, token in enumerate(tokens)
    )  # fmt: skip
    return EntityReading("text | ; \n", "model", "none", False, cells)


def test_json_and_csv_round_trips() -> None:
    found = reading()
    assert EntityReading.from_json(found.to_json()) == found
    columns = TOKEN_COLUMNS | {"control_mean"}
    rows = read_csv_cells(found.to_csv(), columns)
    assert [(r["token"], r["mention"], r["control_mean"]) for r in rows] == [
        (c.token, c.mention, c.controls["mean"]) for c in found.cells
    ]
    assert [r["equals_control"] for r in rows[:2]] == ["True", "False"]
    with pytest.raises(BadInput, match="no entity-lens reading"):
        EntityReading.from_json("{}")


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=6), min_size=1, max_size=4))
def test_any_tokens_survive(tokens: list[str]) -> None:
    found = reading(tuple(tokens))
    assert EntityReading.from_json(found.to_json()) == found
    rows = read_csv_cells(found.to_csv(), TOKEN_COLUMNS)
    assert [r["token"] for r in rows] == [*tokens, *tokens]
    lines = found.to_markdown().split("\n")
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 4 and len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert found.to_dataframe()["token"].tolist() == [*tokens, *tokens]


def test_pages_escape_and_show() -> None:
    found = reading()
    page = found.to_html()
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page
    assert "http://" not in page and "https://" not in page
    assert NO_ENTITY in page and "perplexity" in page
    text = found.to_text()
    assert "Emb (-1)" in text and "1 (0)" in text and "logit lens" in text


def test_equal_mentions_of_neighbouring_layers_are_drawn_once() -> None:
    grid = reading(("a", "b"), ("Orla Lund", "Mary")).grid()
    assert [cell.text for cell in grid.cells[0]] == ["=Orla Lund", "Mary"]
    assert [cell.text for cell in grid.cells[2]] == [SAME, SAME]
    assert "Mary" in grid.cells[2][1].detail  # merged in print, not in the data
    assert len(reading(("a", "b")).column(2)) == 2
    with pytest.raises(BadInput, match="positions are 1 to 2"):
        reading(("a", "b")).column(3)
