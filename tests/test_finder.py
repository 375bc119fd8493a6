"""The token finder against attention_evidence section 8 and its invariant 14."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from autointerp.errors import BadInput
from autointerp.finder import TokenFinder, TokenSpan, role_positions

BOS = 7777


def finder_of(*pieces: str, bos: bool = False) -> TokenFinder:
    """A finder over the given tokens, as a tokenizer with exact offsets would cut their concatenation."""
    ends = np.cumsum([len(piece) for piece in pieces])
    offsets = np.stack([ends - [len(piece) for piece in pieces], ends], axis=1)
    return TokenFinder("".join(pieces), range(len(pieces)), offsets, bos_id=BOS if bos else None)


def words(text: str, *, bos: bool = False) -> TokenFinder:
    return finder_of(*re.findall(r" ?\w+| ?[^\w\s]+|\s+", text), bos=bos)


def emoji() -> TokenFinder:
    """`Hi 🙂!` with the emoji cut over three tokens, the first of which also has the space."""
    return TokenFinder("Hi 🙂!", [1, 2, 3, 4, 5], [[0, 2], [2, 4], [3, 4], [3, 4], [4, 5]], bos_id=None)


def test_a_needle_inside_a_larger_word_is_not_found_there() -> None:
    assert words("RUSSIA US").find_first("US").index == 1
    assert finder_of("R", "US", "SIA", " US").find_first("US").index == 3
    assert finder_of("CIR", "CUS", " CUS").find_first("CUS").index == 2
    assert finder_of("US", "ED", " US").find_first("US").index == 2


def test_without_whole_tokens_a_part_of_a_token_is_enough() -> None:
    span = words("RUSSIA US").find_first("US", whole_tokens=False)
    assert (span.index, span.text) == (0, "RUSSIA")
    assert finder_of("R", "US", "SIA", " US").find_first("US", whole_tokens=False).index == 1


def test_a_needle_of_several_tokens_refuses_and_names_the_range_function() -> None:
    finder = finder_of("A", " New", " York", " cab")
    with pytest.raises(BadInput, match=r"2 tokens.*find_first_range"):
        finder.find_first("New York")
    with pytest.raises(BadInput, match="find_first_range"):
        finder.find_last("New York")
    span = finder.find_first_range("New York")
    assert (span.start, span.stop, span.text) == (1, 3, " New York")
    assert (span.char_start, span.char_stop) == (1, 10)
    with pytest.raises(BadInput, match="2 tokens"):
        _ = span.index


def test_an_emoji_split_over_tokens_maps_to_one_character_range() -> None:
    span = emoji().find_first_range("🙂")
    assert list(span) == [1, 2, 3]
    assert (span.char_start, span.char_stop, span.text) == (2, 4, " 🙂")
    assert span[1:].text == "🙂"
    assert emoji().find_first("!").index == 4


def test_find_all_gives_every_place_once_and_nothing_for_a_missing_needle() -> None:
    finder = words("the cat and the dog and the end")
    assert [span.index for span in finder.find_all("the")] == [0, 3, 6]
    assert finder.find_all("horse") == []
    assert finder.find_last("the").index == 6


def test_not_found_lists_the_three_nearest_tokens() -> None:
    with pytest.raises(BadInput, match=r'"Marry" at 0, " Mart" at 1, ".*" at \d'):
        words("Marry Mart went home").find_first("Mary")


@pytest.mark.parametrize(("space", "expected"), [("allow", [0, 2]), ("require", [2]), ("forbid", [0])])
def test_space_option(space: str, expected: list[int]) -> None:
    finder = words("it and it")
    assert [span.index for span in finder.find_all("it", space=space)] == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(("space", "expected"), [("allow", [2]), ("require", [2]), ("forbid", [0])])
def test_space_option_without_whole_tokens(space: str, expected: list[int]) -> None:
    finder = words("itself an item")
    found = finder.find_all("it", space=space, whole_tokens=False)  # type: ignore[arg-type]
    assert [span.index for span in found] == ([0, 2] if space == "allow" else expected)


def test_an_unknown_space_option_refuses() -> None:
    with pytest.raises((BadInput, TypeCheckError), match="maybe"):  # the latter under the import hook
        words("it").find_all("it", space="maybe")  # type: ignore[arg-type]


def test_a_space_token_before_the_needle_starts_earlier_and_so_wins_unless_one_token_is_asked() -> None:
    finder = finder_of("a", " ", "US")
    assert list(finder.find_first_range("US")) == [1, 2]
    assert list(finder.find_first_range("US", space="forbid")) == [2]
    assert finder.find_first("US").index == 2
    assert list(finder.find_first_range(" US")) == [1, 2]


def test_a_run_of_spaces_is_not_the_needles_space() -> None:
    assert list(finder_of("a", "   ", "US").find_first_range("US")) == [2]
    assert list(finder_of("a", "   US").find_first_range("US")) == [1]
    assert list(finder_of("a", "  ", " US").find_first_range("US")) == [2]


def test_offsets_that_leave_out_the_leading_space_find_the_same() -> None:
    finder = TokenFinder("a US", [1, 2], [[0, 1], [2, 4]], bos_id=None)
    for needle in ("US", " US"):
        assert finder.find_first(needle).index == 1
    assert finder.find_first("US", space="require").index == 1
    assert finder.find_all("US", space="forbid") == []


def test_case_and_characters_that_fold_into_several() -> None:
    finder = words("Die STRASSE, die Straße")
    assert [span.index for span in finder.find_all("strasse", case=False)] == [1, 4]
    assert finder.find_all("strasse") == []
    assert finder.find_all("stras", case=False, allow_partial_last=True)[0].index == 1
    assert len(finder.find_all("stras", case=False, allow_partial_last=True)) == 1  # half of ß is no match


def test_allow_partial_last() -> None:
    finder = words("he walked on")
    assert finder.find_all("walk") == []
    assert finder.find_first("walk", allow_partial_last=True).index == 1
    assert finder.find_all("alked", allow_partial_last=True) == []


def test_scope_limits_the_search_and_nests() -> None:
    finder = words("the cat ( the dog ) the end")
    scope = finder.find_first_range("( the dog )")
    assert finder.find_first("the", scope=scope).index == 3
    inner = scope[1:3]
    assert inner.text == " the dog"
    assert finder.find_first("dog", scope=inner).index == 4
    with pytest.raises(BadInput, match=r"scope.*nearest"):
        finder.find_first("cat", scope=scope)
    with pytest.raises(BadInput, match="another text"):
        words("the fish ( a dog ) the end").find_first("the", scope=scope)


def test_span_is_iterable_sliceable_and_refuses_what_is_no_span() -> None:
    span = words("a b c d").span(1, 4)
    assert list(span) == [1, 2, 3] == [span[0], span[1], span[-1]]
    assert (span[:2].start, span[:2].stop, len(span)) == (1, 3, 3)
    for bad in (slice(2, 2), slice(None, None, 2)):
        with pytest.raises(BadInput, match="no span"):
            _ = span[bad]
    with pytest.raises(BadInput, match="give 0 <= start < stop"):
        words("a b").span(1, 9)


def test_bos_shifts_positions_is_never_found_and_is_not_fed_twice() -> None:
    finder = words("US and US", bos=True)
    assert [span.index for span in finder.find_all("US")] == [1, 3]
    assert finder.span(0, 1).text == ""
    assert len(finder) == 4 and finder.ids[0] == BOS
    with pytest.raises(BadInput, match="begin with BOS"):
        TokenFinder("US", [BOS, 1], [[0, 0], [0, 2]], bos_id=BOS)
    assert TokenFinder.fed("US", [BOS, 1], [[0, 0], [0, 2]]).find_first("US").index == 1


def test_specials_with_empty_ranges_inside_a_text_are_skipped() -> None:
    finder = TokenFinder("ab", [1, 2, 3], [[0, 1], [1, 1], [1, 2]], bos_id=None)
    assert finder.find_first("a", allow_partial_last=True).index == 0
    assert list(finder.find_first_range("ab")) == [0, 1, 2]


def test_scripts_without_spaces_need_token_borders_only() -> None:
    assert finder_of("東京", "に", "行く").find_first("に").index == 1
    assert finder_of("東京に", "行く").find_all("京") == []


@pytest.mark.parametrize(
    ("ids", "offsets", "message"),
    [
        ([1], [[0, 1], [1, 2]], "1 ids but 2 offsets"),
        ([1], [[0, 9]], "text of 2 characters"),
        ([1, 2], [[1, 2], [0, 1]], "backwards"),
    ],
)
def test_offsets_that_do_not_belong_to_the_text_refuse(ids: list[int], offsets: object, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        TokenFinder("ab", ids, offsets, bos_id=None)  # type: ignore[arg-type]


def test_an_empty_needle_refuses() -> None:
    with pytest.raises(BadInput, match="empty"):
        words("a").find_all("")


def test_role_positions_gives_one_index_a_row() -> None:
    prompts = [words("When Anna and Bob left", bos=True), words("When Carl and Dora left", bos=True)]
    roles = {"io": ["Anna", "Carl"], "s": [prompts[0].find_first("Bob"), "Dora"], "end": "left"}
    positions = role_positions(prompts, roles)
    assert positions.tolist() == [[2, 4, 5], [2, 4, 5]]


def test_role_positions_refuses_several_tokens_unless_ranges_are_asked() -> None:
    prompts = [finder_of("in", " New", " York"), finder_of("in", " Old", " New", " York")]
    with pytest.raises(BadInput, match=r"prompt 0, role 'city'.*2 tokens"):
        role_positions(prompts, {"city": "New York"})
    assert role_positions(prompts, {"city": "New York"}, range=True).tolist() == [[[1, 3]], [[2, 4]]]
    with pytest.raises(BadInput, match="role 'city': the span"):
        role_positions(prompts, {"city": [p.find_first_range("New York") for p in prompts]})
    with pytest.raises(BadInput, match=r"prompt 1, role 'x'.*not in the text"):
        role_positions(prompts, {"x": ["in", "out"]})
    with pytest.raises(BadInput, match=r"prompt 1.*another text"):
        role_positions(prompts, {"x": prompts[0].find_first("New")})
    with pytest.raises(BadInput, match="1 entries for 2 prompts"):
        role_positions(prompts, {"x": ["in"]})
    with pytest.raises(BadInput, match="0 prompts"):
        role_positions([], {"x": "in"})


PIECES = st.lists(st.text(st.sampled_from(" aB.é🙂東\n"), min_size=1, max_size=4), min_size=1, max_size=12)


@given(PIECES, st.data())
def test_any_run_of_tokens_is_found_by_its_own_text(pieces: list[str], data: st.DataObject) -> None:
    finder = finder_of(*pieces, bos=True)
    start = data.draw(st.integers(1, len(pieces)))
    stop = data.draw(st.integers(start + 1, len(pieces) + 1))
    wanted = finder.span(start, stop)
    found = finder.find_all(wanted.text, whole_tokens=False)
    assert any(span.start <= start and stop <= span.stop for span in found)
    for span in finder.find_all(wanted.text):
        assert isinstance(span, TokenSpan)
        assert span.text.lstrip(" ") == wanted.text.lstrip(" ")
        assert finder.text[span.char_start : span.char_stop] == span.text


def test_a_real_byte_level_tokenizer() -> None:
    shared = os.environ.get("AUTOINTERP_SHARED")
    if not shared:
        pytest.skip("AUTOINTERP_SHARED is not set")
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(Path(shared) / "models/gpt2-tokenizer/tokenizer.json"))
    text = "RUSSIA US: naïve 🙂🙃 in New York,\n\n  US"
    encoded = tokenizer.encode(text)
    finder = TokenFinder(text, encoded.ids, encoded.offsets, bos_id=50256)
    assert finder.find_first("US").text == " US"
    assert finder.find_last("US").text == " US"
    assert finder.find_last("US").index == len(finder) - 1
    split = finder.find_first_range("🙃")
    assert len(split) > 1 and split.text == "🙃"
    assert finder.find_first_range("New York").text == " New York"
