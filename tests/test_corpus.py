"""Reading, windows, splits and overlap of the corpus (attention_evidence 2, scoring_validity 1 and 2)."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import re
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from autointerp.corpus import (
    Encoded,
    ExplainSet,
    HeldOutSet,
    TokenCorpus,
    WindowSpec,
    build_corpus,
    normalise,
    open_corpus,
)
from autointerp.corpus.hashing import rolling_hash, spread
from autointerp.corpus.overlap import dropped_windows
from autointerp.corpus.splits import ShingleFile, assign_splits, split_digest, split_of
from autointerp.corpus.windows import documents_of
from autointerp.errors import BadInput, ModelError, RunFolderError

BOS = 1


class WordEncoder:
    """A token a word with its leading space, an id a distinct word."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}
        self.chars = 0

    def encode(self, text: str) -> Encoded:
        self.chars += len(text)
        found = list(re.finditer(r"\s?\w+|\s?[^\w\s]|\s", text))
        ids = [self.ids.setdefault(match.group(), len(self.ids) + 2) for match in found]
        offsets = np.array([match.span() for match in found], dtype=np.int32).reshape(-1, 2)
        return Encoded(np.array(ids, dtype=np.int32), offsets)


class CharEncoder:
    """A token a character, two for one beyond ASCII, both with the whole character's range."""

    def encode(self, text: str) -> Encoded:
        pairs = [(at, half) for at, char in enumerate(text) for half in range(1 + (ord(char) > 127))]
        ids = np.array([ord(text[at]) % 500 + half for at, half in pairs], dtype=np.int32)
        return Encoded(ids, np.array([(at, at + 1) for at, _ in pairs], dtype=np.int32).reshape(-1, 2))


def prose(seed: int, n_words: int, vocabulary: int = 3000) -> str:
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(vocabulary)}" for _ in range(n_words))


def many(count: int, n_words: int = 60) -> list[str]:
    return [prose(seed, n_words) for seed in range(count)]


def built(texts: Sequence[str], folder: Path, **fields: object) -> TokenCorpus:
    spec = WindowSpec(**{"context": 32, "bos_id": BOS, "max_tokens": 10**6, **fields})  # type: ignore[arg-type]
    return build_corpus(texts, WordEncoder(), spec, folder)


def splits_by_id(corpus: TokenCorpus) -> dict[str, int]:
    return dict(zip(corpus.doc_ids, corpus.split.tolist(), strict=True))


# ---------------------------------------------------------------- windows


def test_windows_are_consecutive_padded_and_begin_with_bos(tmp_path: Path) -> None:
    corpus = built(many(60, 100), tmp_path)
    report = corpus.report
    assert (report.n_texts, report.n_documents) == (60, 60)
    # 100 words at 31 a window: three full ones, and 7 words that are under half a context.
    assert report.n_windows == 180 and report.n_tokens == 180 * 32
    assert corpus.ids.shape == (180, 32) and corpus.offsets.shape == (180, 32, 2)
    assert (corpus.ids[:, 0] == BOS).all()
    assert (corpus.offsets[:, 0, 0] == corpus.offsets[:, 0, 1]).all()
    assert corpus.window_in_doc.tolist() == [0, 1, 2] * 60
    for doc in (0, 59):
        rows = np.flatnonzero(corpus.doc == doc)
        ranges = np.concatenate([corpus.offsets[row, 1:] for row in rows])
        assert (ranges[1:, 0] == ranges[:-1, 1]).all() and ranges[0, 0] == 0
        assert corpus.text(doc).startswith("".join(corpus.text(doc)[a:b] for a, b in ranges))


def test_at_most_four_windows_and_a_last_one_that_is_padded(tmp_path: Path) -> None:
    corpus = built([*many(60, 200), prose(777, 20)], tmp_path)
    assert np.bincount(corpus.doc).tolist() == [4] * 60 + [1]
    last = corpus.ids.shape[0] - 1
    assert corpus.lengths[last] == 21
    assert (corpus.ids[last, 21:] == 0).all()
    assert (corpus.offsets[last, 21:] == len(corpus.text(60))).all()


def test_without_bos_and_special_ids_are_no_content(tmp_path: Path) -> None:
    encoder = WordEncoder()
    special = int(encoder.encode(" sep").ids[0])
    spec = WindowSpec(context=32, special_ids=(special,))
    texts = [*many(60, 40), "a" + " sep" * 30]
    corpus = build_corpus(texts, encoder, spec, tmp_path)
    assert corpus.report.dropped_short == 1
    assert (corpus.lengths == 32).all() and (corpus.offsets[:, 0, 1] > corpus.offsets[:, 0, 0]).all()


def test_short_documents_and_duplicates_are_counted(tmp_path: Path) -> None:
    texts = many(60)
    corpus = built([*texts, "  ".join(texts[3].split()) + "\n", "too short", ""], tmp_path)
    assert (corpus.report.n_documents, corpus.report.dropped_duplicates) == (60, 1)
    assert (corpus.report.n_texts, corpus.report.dropped_short) == (63, 1)


def test_document_identity_is_the_hash_of_the_normalised_text(tmp_path: Path) -> None:
    assert normalise(" cafe\u0301 \n\t x ") == "caf\u00e9 x"
    texts = many(60)
    corpus = built(texts, tmp_path)
    assert corpus.doc_ids == [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    both = "".join(sorted(corpus.doc_ids))
    assert corpus.report.corpus_hash == hashlib.sha256(bytes.fromhex(both)).hexdigest()


def test_the_stream_stops_at_max_tokens(tmp_path: Path) -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        for seed in itertools.count():
            read += 1
            yield prose(seed, 62)

    corpus = built(endless(), tmp_path, max_tokens=64 * 50 + 40)  # type: ignore[arg-type]
    assert corpus.report.n_tokens == 64 * 50 + 32 and corpus.report.stopped_at_max_tokens
    assert (read, corpus.report.n_documents) == (51, 51)
    with pytest.raises(BadInput, match="max-tokens 20 is less than one window"):
        built(many(3), tmp_path, max_tokens=20)


def test_a_long_document_is_cut_into_sections_without_tokenising_it_whole() -> None:
    encoder, spec = WordEncoder(), WindowSpec(context=32, bos_id=BOS)
    text = prose(0, 200_000)
    sections = list(documents_of(text, encoder, spec))
    assert "".join(section.text for section in sections) == text
    assert encoder.chars < 0.2 * len(text)
    for section in sections[:-1]:
        assert 0.8 * 64 < len(section.text.split()) / 31 <= 66
        assert len(section.encoded.ids) == 4 * 31
    start = sections[1].encoded
    covered = [sections[1].text[a:b] for a, b in start.offsets]
    assert sections[1].text.startswith("".join(covered))


def test_long_tokens_still_fill_the_windows() -> None:
    words = [f" {letter * 300}" for letter in "abcdefghij" * 13]
    (document,) = documents_of("".join(words), WordEncoder(), WindowSpec(context=32, bos_id=BOS))
    assert [document.text[a:b] for a, b in document.encoded.offsets] == words[: 4 * 31]


def test_a_document_of_up_to_64_windows_is_not_cut() -> None:
    spec = WindowSpec(context=33, bos_id=BOS)
    assert len(list(documents_of(" a" * 64 * 32, WordEncoder(), spec))) == 1
    assert len(list(documents_of(" a" * (64 * 32 + 1), WordEncoder(), spec))) == 2


@settings(deadline=None)
@given(st.text(st.sampled_from("ab é🙂\n"), max_size=300), st.integers(2, 20), st.booleans())
def test_offsets_point_at_the_text_of_their_section(text: str, context: int, bos: bool) -> None:
    spec = WindowSpec(context=context, bos_id=BOS if bos else None, max_windows_per_doc=2, section_windows=3)
    sections = list(documents_of(text, CharEncoder(), spec))
    assert "".join(section.text for section in sections) == text
    for section in sections:
        for token, (first, last) in zip(section.encoded.ids, section.encoded.offsets, strict=True):
            assert ord(section.text[first:last]) % 500 in (token, token - 1)
        assert len(section.encoded.ids) <= 2 * spec.content


def test_a_tokenizer_with_wrong_offsets_is_refused(tmp_path: Path) -> None:
    class Wrong:
        def encode(self, text: str) -> Encoded:
            return Encoded(np.zeros(40, np.int32), np.full((40, 2), len(text) + 1, np.int32))

    with pytest.raises(ModelError, match="outside of a text"):
        build_corpus(["a b"], Wrong(), WindowSpec(), tmp_path)


def test_wrong_specs_and_empty_corpora_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="context of 1"):
        WindowSpec(context=1)
    with pytest.raises(BadInput, match="at least 1"):
        WindowSpec(max_tokens=0)
    with pytest.raises(BadInput, match="0 texts"):
        built([], tmp_path)
    with pytest.raises(BadInput, match="2 texts were read, and none has 16 tokens"):
        built(["a", "b"], tmp_path)
    with pytest.raises(BadInput, match=r"the \w+ split is empty: 1 documents"):
        built(many(1), tmp_path)


# ---------------------------------------------------------------- splits


def test_split_of_is_rule_one() -> None:
    assert [split_of(bytes([first]) + bytes(31)) for first in (0, 127, 128, 179, 180, 255)] == [
        0,
        0,
        1,
        1,
        2,
        2,
    ]
    assert split_digest("a", "salt") == hashlib.sha256(b"salta").digest()


def test_order_and_sharding_do_not_change_the_split_of_a_document(tmp_path: Path) -> None:
    texts = many(120)
    texts += [f"{text} {prose(900 + n, 20)}" for n, text in enumerate(texts[:10])]
    first = built(texts, tmp_path / "a")
    shuffled = random.Random(1).sample(texts, len(texts))
    second = built(shuffled, tmp_path / "b")
    assert splits_by_id(first) == splits_by_id(second)
    assert first.report.corpus_hash == second.report.corpus_hash
    assert first.report.dropped_windows_50_chars == second.report.dropped_windows_50_chars
    assert splits_by_id(built(texts, tmp_path / "c", salt="other")) != splits_by_id(first)
    shares = np.bincount(first.split, minlength=3) / len(first.split)
    assert 0.35 < shares[0] < 0.65 and 0.1 < shares[1] < 0.35


def test_planted_near_duplicates_land_in_one_split_and_clusters_do_not_meet(tmp_path: Path) -> None:
    texts = many(150)
    for number in range(12):
        words = texts[number].split()
        texts.append(" ".join(words[:40]).upper() + " " + prose(500 + number, 40))  # other case, other end
    corpus = built(texts, tmp_path)
    own = [split_of(split_digest(normalise(text), "")) for text in texts]
    assert any(own[number] != own[150 + number] for number in range(12)), "the test must be able to fail"
    for number in range(12):
        assert corpus.split[number] == corpus.split[150 + number]
        assert corpus.cluster[number] == corpus.cluster[150 + number] in (number, 150 + number)
    assert (corpus.report.clusters, corpus.report.clustered_documents) == (12, 24)
    per_split = [set(corpus.cluster[corpus.split == split].tolist()) for split in range(3)]
    assert not any(a & b for a, b in itertools.combinations(per_split, 2))


def brute_clusters(texts: Sequence[str]) -> list[int]:
    shingles = []
    for text in texts:
        words = re.findall(r"\w+", text.casefold())
        runs = {tuple(words[at : at + 8]) for at in range(len(words) - 7)}
        shingles.append(runs or {(text.casefold(),)})
    roots = list(range(len(texts)))
    for one, other in itertools.combinations(range(len(texts)), 2):
        smaller = min(len(shingles[one]), len(shingles[other]))
        if len(shingles[one] & shingles[other]) * 10 >= 3 * smaller:
            low, high = sorted((roots[one], roots[other]))
            roots = [low if root == high else root for root in roots]
    return roots


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 9))
def test_clusters_equal_those_of_a_direct_comparison(seed: int, stock: int) -> None:
    rng = random.Random(seed)
    sentences = [prose(rng.randrange(10**6), rng.randrange(5, 14), 30) for _ in range(stock)]
    texts = [
        " ".join(rng.choice(sentences) if rng.random() < 0.5 else prose(rng.randrange(10**6), 9) for _ in range(5))
        for _ in range(14)
    ] + ["three words only", "Three words  only", "four words it is"]
    file = ShingleFile(Path(os.environ.get("TMPDIR", "/tmp")) / f"shingles-{os.getpid()}")
    try:
        for text in texts:
            file.add(normalise(text))
        assert file.clusters().tolist() == brute_clusters([normalise(text) for text in texts])
    finally:
        file.close()


def test_clusters_do_not_depend_on_how_the_index_is_parted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = many(40, 30)
    texts += [f"{text} and more of it" for text in texts[:15]]
    whole = built(texts, tmp_path / "a").cluster
    monkeypatch.setattr("autointerp.corpus.splits.PART_PAIRS", 64)
    monkeypatch.setattr("autointerp.corpus.overlap.PART_RUNS", 64)
    monkeypatch.setattr("autointerp.corpus.overlap.BATCH_CHARS", 200)
    parted = built(texts, tmp_path / "b")
    assert parted.cluster.tolist() == whole.tolist()
    assert len(set(whole.tolist())) == 40


def test_a_cluster_goes_where_its_smallest_hash_goes() -> None:
    digests = [bytes([200]) * 32, bytes([10]) * 32, bytes([150]) * 32, bytes([140]) * 32]
    representative, split = assign_splits(np.array([0, 0, 2, 3]), digests)
    assert representative.tolist() == [1, 1, 2, 3]
    assert split.tolist() == [0, 0, 1, 1]


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 12))
def test_rolling_hashes_are_equal_exactly_where_runs_are(values: list[int], width: int) -> None:
    hashes = rolling_hash(np.array(values, dtype=np.uint64), width)
    runs = [tuple(values[at : at + width]) for at in range(len(values) - width + 1)]
    assert len(hashes) == len(runs)
    assert len(set(zip(runs, hashes.tolist(), strict=True))) == len(set(runs)) == len(set(hashes.tolist()))
    assert len(np.unique(spread(np.arange(1000, dtype=np.uint64)))) == 1000


def brute_dropped(texts: Sequence[str], split: Sequence[int]) -> list[bool]:
    def runs(text: str) -> set[str]:
        return {text[at : at + 50] for at in range(len(text) - 49)}

    dropped = [False] * len(texts)
    for later in (1, 2):
        seen: set[str] = set()
        for text, part, gone in zip(texts, split, dropped, strict=True):
            seen |= runs(text) if part < later and not gone else set()
        for number, text in enumerate(texts):
            dropped[number] |= split[number] == later and bool(runs(text) & seen)
    return dropped


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6))
def test_dropped_windows_equal_those_of_a_direct_comparison(seed: int) -> None:
    rng = random.Random(seed)
    stock = "".join(rng.choice("abcdé🙂 ") for _ in range(400))
    texts = []
    for _ in range(12):
        at, size = rng.randrange(350), rng.randrange(45, 56)
        edges = ["".join(rng.choice("xyz") for _ in range(rng.randrange(30))) for _ in range(2)]
        texts.append(edges[0] + stock[at : at + size] + edges[1])
    split = [rng.randrange(3) for _ in texts]
    lengths = np.array([len(text) for text in texts])
    dropped = dropped_windows(np.array(split, dtype=np.int8), lengths, texts.__getitem__)
    assert dropped.tolist() == brute_dropped(texts, split)


def test_fifty_shared_characters_drop_the_later_window_and_forty_nine_do_not() -> None:
    shared = "".join(chr(97 + n % 26) + str(n) for n in range(40))[:50]
    texts = ["1!" + shared + "?", "2 " + shared + " <", "3-" + shared[:49] + "-", "4", "5_" + shared]
    lengths = np.array([len(text) for text in texts])

    def dropped(*split: int) -> list[bool]:
        return dropped_windows(np.array(split, dtype=np.int8), lengths, texts.__getitem__).tolist()

    assert dropped(0, 2, 2, 2, 2) == [False, True, False, False, True]
    assert dropped(0, 1, 1, 2, 2) == [False, True, False, False, True]
    assert dropped(2, 1, 1, 0, 2) == [True, False, False, False, True]
    assert dropped(2, 2, 2, 2, 2) == [False] * 5


def test_a_run_that_goes_over_the_end_of_a_window_is_not_shared() -> None:
    shared = "".join(chr(97 + n % 26) + str(n) for n in range(40))[:50]
    halves = ["x" * 9 + shared[:25], shared[25:] + "y" * 9]
    for seen, last_is_dropped in ((halves, False), ([*halves, shared], True)):
        texts = [*seen, shared]
        split = np.array([0] * len(seen) + [2], dtype=np.int8)
        dropped = dropped_windows(split, np.array([len(text) for text in texts]), texts.__getitem__)
        assert dropped.tolist() == [False] * len(seen) + [last_is_dropped]


def test_dropped_windows_are_in_no_set_but_counted(tmp_path: Path) -> None:
    chorus = prose(5, 16)
    texts = [f"{prose(n, 70)} {chorus} {prose(1000 + n, 70)}" for n in range(80)]
    corpus = built(texts, tmp_path)
    sets = [corpus.explain().windows, corpus.held_out("select").windows, corpus.held_out("test").windows]
    kept = np.concatenate(sets)
    assert len(np.unique(kept)) == len(kept)
    assert corpus.report.clusters == 0  # 9 of 149 shingles are far from .3
    assert 0 < corpus.report.dropped_windows_50_chars == corpus.report.n_windows - len(kept)
    covered = [set[str]() for _ in sets]
    for part, windows in zip(covered, sets, strict=True):
        for window in windows.tolist():
            first, last = corpus.tables.chars[window]
            text = corpus.text(int(corpus.doc[window]))[first:last]
            part |= {text[at : at + 50] for at in range(len(text) - 49)}
    assert not any(a & b for a, b in itertools.combinations(covered, 2))


def test_small_held_out_splits_are_called_underpowered(tmp_path: Path) -> None:
    assert "underpowered" in str(built(many(40), tmp_path / "a").report.underpowered)
    large = built(many(200, 20), tmp_path / "b").report
    assert large.underpowered is None
    assert large.select.documents >= 10 and large.test.documents >= 30
    assert sum(part.windows for part in (large.explain, large.select, large.test)) == large.n_windows


# ---------------------------------------------------------------- reading a corpus back


def test_the_sets_are_disjoint_unrelated_types_and_refuse_each_others_windows(tmp_path: Path) -> None:
    corpus = built(many(60), tmp_path)
    explain, test = corpus.explain(), corpus.held_out("test")
    assert set(ExplainSet.__mro__) & set(HeldOutSet.__mro__) == {object}
    batch = explain.batch(explain.windows[:3])
    assert batch.ids.shape == (3, 32) and batch.ids.dtype == np.int32
    assert batch.windows.tolist() == explain.windows[:3].tolist()
    assert (corpus.split[batch.doc] == 0).all() and (corpus.split[test.batch(test.windows).doc] == 2).all()
    source = test.source(int(test.windows[0]))
    row = test.batch(test.windows[:1])
    assert len(source.offsets) == row.lengths[0] and source.doc_id == corpus.doc_ids[row.doc[0]]
    for held, other in ((explain, test.windows), (test, explain.windows)):
        with pytest.raises(BadInput, match="is not of the"):
            held.batch(other[:1])
        with pytest.raises(BadInput, match="is not of the"):
            held.source(int(other[0]))
    for number in (-1, len(corpus.lengths)):
        with pytest.raises(BadInput, match=f"window {number} is not"):
            explain.batch([number])
    with pytest.raises((BadInput, TypeCheckError), match="explain"):  # the latter under the import hook
        corpus.held_out("explain")  # type: ignore[arg-type]


def test_a_completed_corpus_opens_again_only_with_the_same_spec_and_source(tmp_path: Path) -> None:
    spec = WindowSpec(context=32, bos_id=BOS)
    corpus = build_corpus(many(60), WordEncoder(), spec, tmp_path, "source")
    again = open_corpus(tmp_path, spec, "source")
    assert again is not None and again.report == corpus.report
    assert (again.ids == corpus.ids).all() and (again.offsets == corpus.offsets).all()
    assert again.doc_ids == corpus.doc_ids and again.text(7) == many(60)[7]
    assert open_corpus(tmp_path, spec, "other") is None
    assert open_corpus(tmp_path, WindowSpec(context=32), "source") is None
    assert open_corpus(tmp_path / "nowhere", spec, "source") is None
    assert not list(tmp_path.glob("*.tmp"))
    with (tmp_path / "ids.i32").open("ab") as file:
        file.truncate(100)
    assert open_corpus(tmp_path, spec, "source") is None
    (tmp_path / "corpus.json").write_text("{")
    assert open_corpus(tmp_path, spec, "source") is None


KILLED = """
import sys, os, signal
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_corpus import BOS, WindowSpec, WordEncoder, build_corpus, many
def texts():
    yield from many(60)
    os.kill(os.getpid(), signal.SIGKILL)
build_corpus(texts(), WordEncoder(), WindowSpec(context=32, bos_id=BOS), Path({folder!r}))
"""


def test_a_killed_build_leaves_no_corpus_and_the_next_build_is_whole(tmp_path: Path) -> None:
    spec = WindowSpec(context=32, bos_id=BOS)
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "run"))
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert (tmp_path / "run" / "ids.i32").exists()
    assert open_corpus(tmp_path / "run", spec) is None
    rebuilt = build_corpus(many(60), WordEncoder(), spec, tmp_path / "run")
    undisturbed = build_corpus(many(60), WordEncoder(), spec, tmp_path / "other")
    for name in ("ids.i32", "offsets.i32", "texts.utf8", "corpus.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    assert rebuilt.report == undisturbed.report


def test_a_failed_rebuild_does_not_leave_the_old_corpus_looking_complete(tmp_path: Path) -> None:
    def failing() -> Iterator[str]:
        yield from many(60)  # so that every file has its old size again
        raise BadInput("the file ends here")

    spec = WindowSpec(context=32, bos_id=BOS)
    build_corpus(many(60), WordEncoder(), spec, tmp_path)
    with pytest.raises(BadInput, match="ends here"):
        build_corpus(failing(), WordEncoder(), spec, tmp_path)
    assert open_corpus(tmp_path, spec) is None


def test_a_folder_that_cannot_be_written_is_a_run_folder_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunFolderError, match="cannot be written"):
        built(many(3), tmp_path / "file" / "run")
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "ids.i32").symlink_to("/dev/full")
    with pytest.raises(RunFolderError, match="No space left"):
        built(many(60), tmp_path / "full")


@pytest.mark.slow
def test_building_keeps_memory_bounded_and_is_fast(tmp_path: Path) -> None:
    def texts(count: int) -> Iterator[str]:
        return (prose(seed, 120, 20_000) for seed in range(count))

    peaks = []
    for count in (400, 1600):
        tracemalloc.start()
        corpus = built(texts(count), tmp_path / str(count), context=64)  # type: ignore[arg-type]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert corpus.report.n_documents == count
    assert peaks[1] < peaks[0] + 30_000_000
    encoder = WordEncoder()
    ready = list(texts(1700))
    encoded = {text: encoder.encode(text) for text in ready}
    encoder.encode = encoded.__getitem__  # type: ignore[method-assign]
    started = time.perf_counter()
    report = build_corpus(ready, encoder, WindowSpec(bos_id=BOS), tmp_path / "time").report
    assert report.n_tokens > 190_000
    assert time.perf_counter() - started < 6  # 3 s on an idle machine at the most
