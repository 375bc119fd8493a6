"""Reading texts from files and from the hub: kinds, bounds, and one clear error for each bad input."""

from __future__ import annotations

import csv
import itertools
import json
import random
import re
import sys
import time
import tracemalloc
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.corpus import hub as hub_module
from autointerp.corpus import (
    read_texts,
)
from autointerp.corpus import reading as reading_module
from autointerp.corpus.lines import lines_of, paragraphs_of
from autointerp.errors import BadInput


def prose(seed: int, n_words: int, vocabulary: int = 3000) -> str:
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(vocabulary)}" for _ in range(n_words))


# ---------------------------------------------------------------- reading


def test_txt_is_a_document_a_paragraph_whatever_the_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeff One\r\ntwo\r\n \t \r\nthrée\rfour\r\n\r\n\r\n".encode())
    assert list(read_texts([str(file)], "text")) == ["One\ntwo", "thrée\nfour"]


def test_specs_are_chained_in_order(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.jsonl").write_text('{"text": "b"}\n\n{"text": null}\n{"text": "c\\r\\n"}')
    specs = [str(tmp_path / "b.jsonl"), str(tmp_path / "a.txt")]
    assert list(read_texts(specs)) == ["b", "", "c\r\n", "a"]


def test_csv_with_quotes_newlines_and_a_field_over_the_usual_limit(tmp_path: Path) -> None:
    rows = ["plain", 'with "quotes", comma\nand line', "x" * 200_000]
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["id", "text"], *([str(n), row] for n, row in enumerate(rows))])
    before = csv.field_size_limit()
    assert list(read_texts([str(tmp_path / "a.csv")])) == rows
    assert csv.field_size_limit() == before


def test_parquet_of_strings_and_of_dictionaries(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    for name, array in (("s", pa.array(["a", None, "b"])), ("d", pa.array(["x", "x"]).dictionary_encode())):
        pq.write_table(pa.table({"n": range(len(array)), "body": array}), tmp_path / f"{name}.parquet")
    specs = [str(tmp_path / "s.parquet"), str(tmp_path / "d.parquet")]
    assert list(read_texts(specs, "body")) == ["a", "", "b", "x", "x"]
    with pytest.raises(BadInput, match="no column 'text'; its columns are 'n', 'body'"):
        list(read_texts(specs))
    with pytest.raises(BadInput, match="int64, not strings"):
        list(read_texts(specs, "n"))


def test_a_lone_surrogate_in_json_becomes_the_replacement_character(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800b \\ud83d\\ude42"}')
    assert list(read_texts([str(tmp_path / "a.jsonl")])) == ["a\ufffdb 🙂"]


BAD_FILES: list[tuple[str, bytes, str]] = [
    ("empty.txt", b"", r"empty \(0 bytes\)"),
    ("blank.txt", b"\n \n\t\n", "holds no text"),
    ("nul.txt", b"x" * 70_000 + b"\0z", "byte 70000 is NUL"),
    ("utf16.txt", "\ufeffabc".encode("utf-16-le"), "NUL.*UTF-16"),
    ("latin.txt", b"caf\xe9 noir", "byte 3 is 0xe9"),
    ("bom.txt", b"\xef\xbb\xbfab\xff", "byte 5 is 0xff"),
    ("cut.txt", b"ab\xe2\x82", "byte 2 is 0xe2"),
    ("far.txt", b"x" * 65_535 + b"\xe2\x82x", "byte 65535 is 0xe2"),
    ("a.md", b"text", r"'\.md'; corpus files are \.txt \.jsonl \.csv \.parquet"),
    ("bare", b"text", "no extension"),
    ("a.jsonl", b'{"text": "a"}\n\n{"text": \n', "line 3 is not JSON"),
    ("list.jsonl", b"[1]\n", "line 1 is a list, not an object"),
    ("deep.jsonl", b"[" * 100_000, "line 1 is not JSON"),
    ("column.jsonl", b'{"body": "a", "id": 1}', "line 1 has no column 'text'; its columns are 'body', 'id'"),
    ("number.jsonl", b'{"text": 3}', r"line 1: 'text' is a int \(3\), not a string"),
    ("none.jsonl", b"\n\n", "holds no text"),
    ("a.csv", b"id,body\n1,a\n", "no column 'text'; its columns are 'id', 'body'"),
    ("short.csv", b"id,text\n1,a\n2\n", "line 3 has 1 fields"),
    ("quote.csv", b'text\n"abc\n', "near line 2: unexpected end"),
    ("header.csv", b"text\n", "holds no text"),
    ("a.parquet", b"PAR1 no it is not", "not a parquet file"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES, ids=[row[0] for row in BAD_FILES])
def test_bad_files_give_one_clear_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=message) as caught:
        list(read_texts([str(tmp_path / name)]))
    assert name in str(caught.value)


def test_missing_files_and_folders_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(BadInput, match=r"no file .*missing.txt"):
        read_texts([str(tmp_path / "a.txt"), str(tmp_path / "missing.txt")])
    with pytest.raises(BadInput, match="is a directory"):
        read_texts([str(tmp_path)])
    with pytest.raises(BadInput, match="no corpus"):
        read_texts([])


def test_rows_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_module, "MAX_ROW_CHARS", 100)
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' + '{"text": "' + "x" * 200)
    with pytest.raises(BadInput, match="line 2 is over 100 characters"):
        list(read_texts([str(tmp_path / "a.jsonl")]))
    (tmp_path / "a.csv").write_text('text\n"' + "xxx\n" * 50)
    with pytest.raises(BadInput, match="field larger than field limit"):
        list(read_texts([str(tmp_path / "a.csv")]))


@given(st.text(st.sampled_from("ab \n"), max_size=120), st.integers(1, 9), st.integers(4, 30))
def test_cutting_lines_and_paragraphs_does_not_depend_on_the_chunks(text: str, size: int, limit: int) -> None:
    chunks = [text[at : at + size] for at in range(0, len(text), size)]
    lines = list(lines_of(chunks, limit))
    assert lines == list(lines_of([text], limit))
    assert "".join(line.text + "\n" * line.ends for line in lines).removesuffix("\n") == text.removesuffix("\n")
    paragraphs = list(paragraphs_of(chunks, limit))
    assert paragraphs == list(paragraphs_of([text], limit))
    assert all(0 < len(paragraph) <= limit for paragraph in paragraphs)
    assert "".join("".join(paragraphs).split()) == "".join(text.split())
    if len(text) <= limit:
        assert paragraphs == [part.strip() for part in re.split(r"\n(?: *\n)+", f"\n\n{text}\n\n") if part.strip()]


def test_a_paragraph_without_end_is_cut_at_line_or_word_borders() -> None:
    lines = list(paragraphs_of(["abcd efg\n" * 10], 30))
    assert set(lines) == {"abcd efg\nabcd efg\nabcd efg", "abcd efg"}
    assert list(paragraphs_of(["abcd efg " * 3], 16)) == ["abcd efg abcd", "efg abcd efg"]
    assert list(paragraphs_of(["x" * 20], 8)) == ["x" * 8, "x" * 8, "x" * 4]


@pytest.mark.slow
def test_reading_a_large_file_takes_no_more_memory_than_a_small_one(tmp_path: Path) -> None:
    line = prose(0, 150) + "\n"
    one_paragraph, many_rows = tmp_path / "a.txt", tmp_path / "b.jsonl"
    with one_paragraph.open("w") as text_file, many_rows.open("w") as row_file:
        row = json.dumps({"text": line}) + "\n"
        for _ in range(60_000_000 // len(line)):
            text_file.write(line)
        for _ in range(30_000_000 // len(row)):
            row_file.write(row)
    for path in (one_paragraph, many_rows):
        total = 0
        tracemalloc.start()
        for text in read_texts([str(path)]):
            total += len(text)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert total > 0.9 * path.stat().st_size
        assert peak < 12_000_000


# ---------------------------------------------------------------- the hub


def fake_datasets(monkeypatch: pytest.MonkeyPatch, load: Callable[..., object]) -> None:
    module = types.ModuleType("datasets")
    module.load_dataset = load  # type: ignore[attr-defined]
    module.__spec__ = __import__("importlib.machinery").machinery.ModuleSpec("datasets", None)
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_hub_name_split_and_column_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, str]] = []

    def load(name: str, *, split: str, streaming: bool) -> list[dict[str, object]]:
        assert streaming
        calls.append((name, split))
        return [{"body": "a"}, {"body": None}, {"body": "b\ud800"}]

    fake_datasets(monkeypatch, load)
    assert list(read_texts(["hf:org/name:validation", "hf:other"], "body")) == ["a", "", "b\ufffd"] * 2
    assert calls == [("org/name", "validation"), ("other", "train")]
    with pytest.raises(BadInput, match="hf:other has no column 'text'; its columns are 'body'"):
        list(read_texts(["hf:other"]))


def test_hub_stream_is_endless_but_stops_when_the_reader_does(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_datasets(monkeypatch, lambda *_, **__: ({"text": str(n)} for n in itertools.count()))
    texts = read_texts(["hf:x"])
    assert [next(texts) for _ in range(200)] == [str(n) for n in range(200)]
    texts.close()  # type: ignore[attr-defined]


def test_hub_errors_are_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> object:
        raise ConnectionError("Couldn't reach 'x' on the Hub\nlong trace")

    def hangs(*_: object, **__: object) -> Iterator[dict[str, str]]:
        yield {"text": "a"}
        time.sleep(5)

    fake_datasets(monkeypatch, unreachable)
    with pytest.raises(BadInput, match=r"hf:x cannot be read: ConnectionError: Couldn't reach 'x' on the Hub\. "):
        list(read_texts(["hf:x"]))
    fake_datasets(monkeypatch, hangs)
    with pytest.raises(BadInput, match="nothing arrived for 0 s after 1 items"):
        list(hub_module.hub_texts("x", "text", patience=0.1))
    fake_datasets(monkeypatch, lambda *_, **__: [{"text": 3}])
    with pytest.raises(BadInput, match="item 0: 'text' is a int"):
        list(read_texts(["hf:x"]))
    with pytest.raises(BadInput, match="names no data set"):
        list(read_texts(["hf:"]))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadInput, match="pip install datasets"):
        list(read_texts(["hf:x"]))
