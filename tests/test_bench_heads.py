"""`bench heads`: the table, what counts of it, numbers by hand, the run folder, what is asked, the command."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.cli.main import main
from autointerp.errors import BadInput
from autointerp.pipeline.bench_heads import (
    ID_ONLY,
    NOISE,
    TableChoice,
    bench_heads,
    checked_sources,
    planted_rows,
    published_rows,
)
from autointerp.pipeline.bench_heads_asked import Subject, donor, identity_questions, role_questions
from autointerp.pipeline.bench_heads_labels import EFFECTS, MEANINGS, PATTERNS, TEXTS
from autointerp.pipeline.bench_heads_ranks import Ranked, confirmation, random_order, ranked, retrieved
from autointerp.pipeline.bench_heads_run import DETECTORS, RUN, read_run
from autointerp.pipeline.bench_heads_scores import (
    Known,
    Statement,
    counted_labels,
    difference,
    known_heads,
    measured,
    statements,
)
from autointerp.pipeline.bench_heads_table import (
    COLUMNS,
    SHIPPED,
    PublishedRow,
    check_shape,
    models_of,
    read_table,
    rows_of,
)
from autointerp.pipeline.bench_planted import answer_key
from autointerp.pipeline.inputs import Sources
from autointerp.records import LABELS, Control, Description, Head, HeadReport, Reading, Unscored
from autointerp.scoring.other_descriptions import NO_EVIDENCE
from autointerp.stats.bootstrap import clopper_pearson
from tests.report_fixtures import head_report
from tests.run_helpers import QUICK, save_corpus, save_model

HEADER = ",".join(COLUMNS)
GPT2 = {"gpt2": (12, 12), "pythia-1.4b": (24, 16), "attn-only-4l": (4, 8), "solu-10l": (10, 20),
        "callummcdougall/attn_only_2L_half": (2, 12), "redwood_attn_2l": (2, 8)}  # fmt: skip


def nothing_confirmed(row: PublishedRow) -> str:
    return ""


def head(text: str) -> Head:
    return Head.parse(text)


def row(where: str, label: str, grade: str = "A") -> PublishedRow:
    bare = label.removeprefix("not:")
    return PublishedRow("m", head(where), bare, bare != label, f"role of {label} at {where}", "somebody", grade, 7)


def known(*rows: PublishedRow, texts: Sequence[str] = TEXTS) -> tuple[Known, ...]:
    return known_heads(statements(rows, texts, nothing_confirmed))


# -- the shipped table ---------------------------------------------------------------------------------------


def test_the_shipped_table_has_every_head() -> None:
    rows = read_table()
    assert SHIPPED.stat().st_size < 20_000
    assert len(rows) == 97
    assert len({(r.model, r.head) for r in rows}) == 69
    assert len({r.head for r in rows if r.model == "gpt2"}) == 48
    assert set(models_of(rows)) == set(GPT2)
    for name, shape in GPT2.items():
        check_shape(rows_of(rows, name), *shape)


def test_the_shipped_rows_of_ioi_are_the_26_heads() -> None:
    gpt2 = rows_of(read_table(), "gpt2")
    wang = [r for r in gpt2 if "2211.00593" in r.source and not r.negative and r.label != "current_token"]
    assert Counter(r.label for r in wang) == {
        "name_mover": 3, "backup_name_mover": 8, "negative_name_mover": 2, "s_inhibition": 4, "induction": 4,
        "duplicate_token": 3, "prev_token": 2,
    }  # fmt: skip
    assert len({r.head for r in wang}) == 26
    assert {str(r.head) for r in wang if r.label == "induction"} == {"L5H5", "L5H8", "L5H9", "L6H9"}


def test_every_label_maps_to_the_products_labels_or_to_retrieval_alone() -> None:
    for label, meaning in MEANINGS.items():
        assert set(meaning.accepts) <= set(LABELS), label
        assert meaning.text in TEXTS
    assert MEANINGS["prev_token"].accepts == ("previous_token",)
    assert MEANINGS["backup_name_mover"].accepts == MEANINGS["letter_mover"].accepts == ("name_mover", "copying")
    assert MEANINGS["negative_name_mover"].accepts == ("copy_suppression",)
    only_retrieval = {label for label, meaning in MEANINGS.items() if not meaning.accepts}
    assert only_retrieval == {"year_mover", "greater_than_input", "sequence_continuation", "acronym_circuit",
                              "docstring_circuit", "sentiment_direct", "sentiment_intermediate"}  # fmt: skip
    assert {label for label in LABELS if label not in PATTERNS and label not in EFFECTS} == {"other", "unclear"}


# -- tables of users -----------------------------------------------------------------------------------------


def table(tmp_path: Path, *lines: str, header: str = HEADER) -> Path:
    path = tmp_path / "table.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def test_a_table_is_read_with_quotes_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(
        b"\xef\xbb\xbf" + HEADER.encode() + b'\r\nm,0,3,not:induction,"a, b\r\nc",s,B\r\n\r\nm,1,0,copying,,s,A\r\n'
    )
    first, second = read_table(path)
    assert (first.head, first.label, first.negative, first.role, first.grade) == (
        head("L0H3"), "induction", True, "a, b\r\nc", "B")  # fmt: skip
    assert (second.head, second.label, second.line) == (head("L1H0"), "copying", 5)


GOOD = "m,0,0,induction,r,s,A"


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ((GOOD, "m,0,1,induction,r,s"), "line 3: 6 fields instead of 7"),
        ((GOOD, "m,0,1,induction,r,r,s,A"), "line 3: 8 fields"),
        ((GOOD, ",0,1,induction,r,s,A"), "line 3: the model is empty"),
        (("m,x,1,induction,r,s,A",), "line 2: layer 'x'"),
        (("m,-1,1,induction,r,s,A",), "line 2: layer '-1'"),
        (("m,0,1.0,induction,r,s,A",), "line 2: head '1.0'"),
        (("m,0,²,induction,r,s,A",), "line 2: head '²'"),
        (("m,0,99999999999999999999,induction,r,s,A",), "line 2: head"),
        (("m,0,1,mover,r,s,A",), "line 2: label 'mover' is unknown"),
        (("m,0,1,induction_on_random_tokens,r,s,A",), "line 2: label"),
        (("m,0,1,unclear,r,s,A",), "line 2: label 'unclear'"),
        (("m,0,1,induction,r,s,C",), "line 2: grade 'C'"),
        ((GOOD, "m,0,0,not:induction,r,s,A"), "line 3: L0H0 is not:induction here and induction in line 2"),
        (('m,0,1,induction,"r"x,s,A',), "line 2"),
        (("m,0,1,induction,\"r,s,A",), "line 2"),
        ((), "no row below its header"),
    ],
)  # fmt: skip
def test_a_bad_table_is_one_error_with_its_line(lines: tuple[str, ...], words: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=re.escape(words)) as caught:
        read_table(table(tmp_path, *lines))
    assert "table.csv" in str(caught.value)


def test_a_table_with_another_header_or_coding_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="line 1: the header is 'model,layer'"):
        read_table(table(tmp_path, GOOD, header="model,layer"))
    (tmp_path / "l.csv").write_bytes(f"{HEADER}\nm,0,1,induction,\xe9,s,A\n".encode("latin-1"))
    with pytest.raises(BadInput, match="UTF-8"):
        read_table(tmp_path / "l.csv")
    with pytest.raises(BadInput, match="not a file"):
        read_table(tmp_path)


@given(st.lists(st.lists(st.sampled_from(["m", "0", "1", "induction", "not:copying", "A", "B", '"', "", "x\n", "\x00"]),
                         max_size=9), max_size=4))  # fmt: skip
def test_any_table_gives_rows_or_one_error(cells: list[list[str]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        path.write_text("\n".join([HEADER, *(",".join(line) for line in cells)]), encoding="utf-8")
        try:
            rows = read_table(path)
        except BadInput:
            return
        assert all(r.label in MEANINGS and r.grade in "AB" for r in rows)


def test_a_model_that_is_not_in_the_table_is_told_which_are() -> None:
    rows = read_table()
    with pytest.raises(BadInput, match=r"no head of model 'demo'.*gpt2 \(48 heads\), pythia-1.4b \(7 heads\)"):
        rows_of(rows, "demo")
    assert rows_of(rows, "openai-community/gpt2") == rows_of(rows, "gpt2") == published_rows("gpt2", TableChoice())
    assert rows_of(rows, "EleutherAI/pythia-1.4b")
    assert published_rows("some/folder", TableChoice(name="solu-10l"))[0].head == head("L9H18")


def test_a_head_that_the_model_lacks_is_an_error_with_its_line(tmp_path: Path) -> None:
    rows = read_table(table(tmp_path, GOOD, "m,2,0,copying,r,s,A"))
    check_shape(rows, 3, 1)
    with pytest.raises(BadInput, match=r"line 3 of the table: there is no head L2H0 in m.*2 layers of 4 heads"):
        check_shape(rows, 2, 4)


def test_the_model_is_refused_as_soon_as_it_is_loaded() -> None:
    class Small:
        n_layers, n_heads = 1, 1

    sources = Sources("m", None, lambda device, dtype: (Small(), None))  # type: ignore[arg-type, return-value]
    assert checked_sources(sources, [row("L0H0", "induction")]).load("cpu", "auto")[0].n_layers == 1  # type: ignore[misc]
    with pytest.raises(BadInput, match="no head L1H0"):
        checked_sources(sources, [row("L1H0", "induction")]).load("cpu", "auto")  # type: ignore[misc]


# -- what counts ---------------------------------------------------------------------------------------------


def test_on_ordinary_text_only_general_labels_of_gpt2_count() -> None:
    found = statements(rows_of(read_table(), "gpt2"), ("general",), nothing_confirmed)
    counted = Counter(s.row.label for s in found if s.state == "counted")
    # grade A: 2 previous, 3 duplicate, 1 current token, 6 statements of induction, 1 suppression
    assert counted == {"prev_token": 2, "duplicate_token": 3, "current_token": 1, "induction": 6, "copy_suppression": 1}
    states = Counter(s.state for s in found)
    assert states["decoy"] == 3  # 10.7, 11.10, 9.7; 9.8 is of grade B
    assert states["decoy on random tokens"] == 3
    assert states["unconfirmed"] == 7
    # 6 year movers, 3 inputs, 3 circuit members of grade A + 1 of ... all memberships are of grade A
    assert states["retrieval only"] == 6 + 3 + 4 + 8 + 7
    assert sum(states.values()) == len(found)


def test_on_text_of_the_task_its_labels_count_and_what_is_denied_does_not() -> None:
    found = statements(rows_of(read_table(), "gpt2"), ("general", "ioi"), nothing_confirmed)
    by_row = {(str(s.row.head), s.row.named): s for s in found}
    assert by_row["L9H9", "name_mover"].accepts == {"name_mover", "copying"}
    assert by_row["L9H9", "letter_mover"].state == "other text"
    assert by_row["L9H7", "backup_name_mover"].state == "denied"  # it is not:name_mover as well
    assert by_row["L10H7", "negative_name_mover"].accepts == {"copy_suppression"}
    assert by_row["L8H6", "s_inhibition"].state == "counted"


def test_grade_b_counts_when_a_measurement_confirms_it() -> None:
    rows = [row("L0H0", "successor", "B"), row("L0H1", "not:name_mover", "B")]
    assert [s.state for s in statements(rows, ("general",), nothing_confirmed)] == ["unconfirmed", "unconfirmed"]
    found = statements(rows, ("general",), lambda r: f"seen at {r.head}")
    assert [(s.state, s.confirmed_by) for s in found] == [("counted", "seen at L0H0"), ("decoy", "seen at L0H1")]


def test_an_answer_is_its_labels_and_first_token_only_where_it_comes_first() -> None:
    assert counted_labels(("induction", "induction", "copying", "first_token"), abstained=False) == (
        "induction", "copying")  # fmt: skip
    assert counted_labels(("first_token", "copying"), abstained=False) == ("first_token", "copying")
    assert counted_labels(("other", "unclear"), abstained=False) == ()
    assert counted_labels(("unclear", "copying"), abstained=True) == ()


# -- numbers by hand -----------------------------------------------------------------------------------------

TRUTH = (
    row("L0H0", "prev_token"),
    row("L0H1", "induction"),
    row("L0H1", "copying"),
    row("L0H2", "successor"),
    row("L0H3", "copy_suppression"),
    row("L0H3", "not:copying"),
    row("L0H4", "not:induction"),
    row("L0H9", "induction"),  # not in the run
)
ANSWERS = {
    head("L0H0"): ("previous_token",),
    head("L0H1"): ("induction",),
    head("L0H2"): ("copying",),
    head("L0H3"): ("name_mover",),
    head("L0H4"): ("copying", "current_token"),
    head("L0H5"): (),
}


def test_the_measures_by_hand() -> None:
    heads = known(*TRUTH)
    pattern = measured("pattern class", heads, ANSWERS)
    assert (pattern.value, pattern.n) == (1.0, 2)  # L0H0 and L0H1
    assert pattern.chance == pytest.approx((1 / 6 + 1 / 6) / 2)  # one answer in six is right for each
    effect = measured("effect class", heads, ANSWERS)
    assert (effect.value, effect.n) == (pytest.approx(1 / 3), 3)  # induction copies; L0H2 and L0H3 are wrong
    assert effect.chance == pytest.approx((4 / 6 + 0 + 0) / 3)
    label = measured("label", heads, ANSWERS)
    assert (label.value, label.n) == (0.5, 4)
    assert (label.low, label.high) == clopper_pearson(2, 4)
    assert label.chance == pytest.approx((1 / 6 + 4 / 6 + 0 + 0) / 4)
    found = measured("labels found", heads, ANSWERS)
    assert (found.value, found.n, found.n_heads) == (pytest.approx(2 / 5), 5, 4)
    assert found.chance == pytest.approx((1 / 6 + (1 + 3) / 6) / 5)
    assert found.low < found.value < found.high


def test_decoys_by_hand() -> None:
    heads = known(*TRUTH)
    effects = measured("false effects", heads, ANSWERS)
    assert (effects.value, effects.n) == (1.0, 1)  # L0H3 was called a name mover
    assert effects.chance == pytest.approx(4 / 6)  # whoever claims copying, induction included
    patterns = measured("false patterns", heads, ANSWERS)
    assert (patterns.value, patterns.n) == (0.0, 1)  # copying is no claim of the pattern
    assert patterns.chance == pytest.approx(1 / 6)
    assert (patterns.low, patterns.high) == clopper_pearson(0, 1)


def test_suppression_is_no_false_effect_and_both_are_found() -> None:
    heads = known(row("L0H0", "copy_suppression"), row("L0H0", "not:name_mover"))
    answers = {head("L0H0"): ("copy_suppression",)}
    assert measured("effect class", heads, answers).value == 1
    assert measured("false effects", heads, answers).value == 0


def test_naming_everything_is_no_better_than_chance() -> None:
    heads = known(row("L0H0", "prev_token"), row("L0H1", "induction"))
    every = tuple(label for label in LABELS if label not in ("other", "unclear"))
    label = measured("label", heads, {head(f"L0H{k}"): every for k in range(4)})
    assert (label.value, label.chance, label.percentile) == (1.0, 1.0, 50.0)


@pytest.mark.slow
def test_guessing_gives_the_printed_chance() -> None:
    heads, generator = known(*TRUTH), np.random.default_rng(0)
    places = sorted(ANSWERS)
    for name in ("pattern class", "effect class", "label", "labels found", "false effects"):
        orders = (generator.permutation(len(places)) for _ in range(40))
        drawn = [measured(name, heads, {h: ANSWERS[places[k]] for h, k in zip(places, order, strict=True)}).value
                 for order in orders]  # fmt: skip
        chance = measured(name, heads, ANSWERS).chance
        assert abs(np.mean(drawn) - chance) < 4 * np.std(drawn) / math.sqrt(len(drawn)) + 1e-9


def test_the_percentile_tells_right_answers_from_shuffled_ones() -> None:
    rows = [row(f"L0H{k}", label) for k, label in enumerate(("prev_token", "induction", "successor", "copying"))]
    right = {head(f"L0H{k}"): (label,) for k, label in
             enumerate(("previous_token", "induction", "successor", "copying", "punctuation"))}  # fmt: skip
    wrong = dict(zip(right, [*list(right.values())[1:], ("previous_token",)], strict=True))
    assert measured("label", known(*rows), right).percentile > 98
    assert measured("label", known(*rows), wrong).value == 0
    assert measured("label", known(*rows), wrong).percentile < 35


def test_a_failed_head_is_wrong_and_a_missing_one_is_left_out() -> None:
    heads = known(row("L0H0", "induction"), row("L0H1", "induction"))
    assert measured("label", heads, {head("L0H0"): ()}).value == 0
    assert measured("label", heads, {head("L0H0"): ()}).n == 1
    assert math.isnan(measured("label", heads, {head("L3H0"): ()}).value)


def test_one_answerer_minus_another_by_hand() -> None:
    heads = known(*TRUTH)
    nobody = dict.fromkeys(ANSWERS, ())
    gap = difference("label", heads, ANSWERS, nobody)
    assert (gap.value, gap.n_heads) == (0.5, 4)
    assert gap.low < 0.5 < gap.high
    assert difference("label", heads, ANSWERS, ANSWERS).value == 0


# -- ranks ---------------------------------------------------------------------------------------------------


def reading(value: float, name: str = "induction", data: str = "repeats", **more: object) -> Reading:
    made = {"low": value, "high": value, "n": 9, "percentile": 50.0, "null_max": 0.4, "lift_over_uniform": 9.0,
            "fires": value > 0.4, **more}  # fmt: skip
    return Reading(name=name, data=data, value=value, **made)  # type: ignore[arg-type]


def readings(values: Sequence[float], name: str = "induction", data: str = "repeats") -> dict:
    return {head(f"L0H{k}"): {(name, data): reading(v, name, data)} for k, v in enumerate(values)}


def by(found: Sequence[Ranked | Unscored], detector: tuple[str, str]) -> Ranked:
    return next(one for one in found if isinstance(one, Ranked) and one.detector == detector)


def test_average_precision_and_ranks_by_hand() -> None:
    values = readings([0.9, 0.8, 0.3, 0.7, 0.1])
    found = statements([row("L0H0", "induction"), row("L0H3", "induction")], TEXTS, nothing_confirmed)
    one = by(ranked(found, values, 5), ("induction", "repeats"))
    assert one.average_precision == pytest.approx((1 + 2 / 3) / 2)
    assert one.chance == 0.4
    assert [(str(p.head), p.rank, p.n, p.above_null) for p in one.places] == [
        ("L0H0", 1, 5, True),
        ("L0H3", 3, 5, True),
    ]
    assert one.low <= one.average_precision <= one.high
    on_text = [u for u in ranked(found, values, 5) if isinstance(u, Unscored)]
    assert [u.scorer for u in on_text] == ["rank of induction by induction on text"]


def test_ties_share_a_rank_and_heads_without_a_value_do_not_count() -> None:
    values = readings([0.5, 0.5, float("nan"), 0.2])
    found = statements([row("L0H0", "induction"), row("L0H2", "induction")], TEXTS, nothing_confirmed)
    one = by(ranked(found, values, 4), ("induction", "repeats"))
    assert [(str(p.head), p.rank, p.n) for p in one.places] == [("L0H0", 1.5, 3)]
    assert (one.n_heads, one.chance) == (3, pytest.approx(1 / 3))


def test_a_head_that_random_tokens_do_not_show_is_a_negative_there() -> None:
    rows = [row("L0H0", "induction"), row("L0H1", "induction"), row("L0H1", "not:induction_on_random_tokens")]
    values = {h: {**r, ("induction", "text"): reading(r["induction", "repeats"].value, data="text")}
              for h, r in readings([0.9, 0.1, 0.5]).items()}  # fmt: skip
    found = ranked(statements(rows, TEXTS, nothing_confirmed), values, 3)
    assert [str(p.head) for p in by(found, ("induction", "repeats")).places] == ["L0H0"]
    assert [str(p.head) for p in by(found, ("induction", "text")).places] == ["L0H0", "L0H1"]


def test_a_run_of_some_heads_has_no_rank_among_all() -> None:
    found = ranked(statements([row("L0H0", "induction")], TEXTS, nothing_confirmed), readings([0.9, 0.8]), 32)
    assert all(isinstance(one, Unscored) and "2 of the model's 32 heads" in one.reason for one in found)


@pytest.mark.parametrize(("n", "positives"), [(1, 1), (5, 1), (5, 2), (6, 3), (4, 4)])
def test_a_random_order_has_the_printed_average_precision(n: int, positives: int) -> None:
    total = []
    for places in itertools.combinations(range(1, n + 1), positives):
        total.append(np.mean([k / place for k, place in enumerate(places, start=1)]))
    assert random_order(positives, n) == pytest.approx(np.mean(total))


def test_retrieval_by_hand() -> None:
    found = retrieved([(1, 4), (2, 4), (4, 4)])
    assert (found.first, found.chance) == (pytest.approx(1 / 3), 0.25)
    assert found.reciprocal == pytest.approx((1 + 1 / 2 + 1 / 4) / 3)
    assert found.reciprocal_chance == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)


def test_detectors_confirm_grade_b() -> None:
    values = readings([0.9, 0.1], "copying", "parameters")
    assert confirmation(row("L0H0", "name_mover", "B"), values) == "copying on parameters fires, rank 1 of 2"
    assert confirmation(row("L0H1", "name_mover", "B"), values) == ""
    assert confirmation(row("L0H0", "not:name_mover", "B"), values) == ""
    assert "does not fire, rank 2 of 2" in confirmation(row("L0H1", "not:name_mover", "B"), values)
    assert confirmation(row("L0H7", "not:name_mover", "B"), values) == ""  # nothing was measured
    assert confirmation(row("L0H0", "year_mover", "B"), values) == ""


# -- planted heads -------------------------------------------------------------------------------------------


def test_the_answer_key_becomes_a_table() -> None:
    rows, key = published_rows("planted:3", TableChoice()), answer_key(3)
    assert rows == planted_rows("planted:3", 3)
    assert {(r.head, r.label) for r in rows if not r.negative} == {(h, t) for h in key for t in key[h].labels}
    noise = {h for h, truth in key.items() if truth.kind == "noise"}
    assert {r.head for r in rows if r.negative} == noise
    assert sum(r.negative for r in rows) == len(NOISE) * 5
    assert {s.state for s in statements(rows, ("general",), nothing_confirmed)} == {"counted", "decoy"}


# -- a run folder --------------------------------------------------------------------------------------------

FOLDER_TABLE = (
    "secret/model-9,0,0,prev_token,looks at the token before it in every text,Somebody 2020,A",
    "secret/model-9,0,1,induction,finds what followed the earlier copy of it,Somebody 2020,A",
    "secret/model-9,0,1,year_mover,moves the year in the task of Somebody,Somebody 2020,A",
    "secret/model-9,1,0,copy_suppression,lowers what is about to be said again,<b>Nobody</b> | 2021,A",
    "secret/model-9,1,0,not:name_mover,looks like a mover and is none of them,Somebody 2020,A",
    "secret/model-9,1,1,not:induction_on_random_tokens,does not show on random tokens at all,Somebody 2020,A",
    "secret/model-9,0,2,successor,says the next number of a list of them,Somebody 2020,B",
)
SAID: dict[str, tuple[str, ...]] = {
    "L0H0": ("previous_token",), "L0H1": ("token_class", "copying"), "L0H2": ("successor",), "L1H0": ("name_mover",),
    "L1H1": ("induction",), "L1H2": (),
}  # fmt: skip


def report_of(
    name: str, labels: tuple[str, ...], explainer: str = "llm", prompt: str = "What does it do?"
) -> HeadReport:
    at = head(name)
    base = head_report(at.layer, at.index, kind="supported" if labels else "abstained", per_stratum=0)
    said = base.description
    assert isinstance(said, Description)
    summary = "</td><script>alert(1)</script>"
    said = said.model_copy(update={"label": labels[0] if labels else "unclear", "labels": labels,
                                   "looks_at": f"as {labels}", "summary": summary})  # fmt: skip
    strength = {"L0H1": 0.9, "L1H1": 0.2}.get(name, 0.05)
    read = (reading(strength), reading(strength, data="text"),
            reading(0.8 if name == "L0H2" else 0.1, "successor", "parameters"),
            reading(0.9 if name == "L0H0" else 0.1, "previous_token"))  # fmt: skip
    guess = Control(name=NO_EVIDENCE, kind="null", value=0.25, difference=0.5, low=0.1, high=0.7, beaten=name != "L0H0")
    changed = {"details": {"retrieval_rank": 1.5, "retrieval_heads": 6}, "controls": (guess,), "value": 0.75}
    scores = tuple(score.model_copy(update=changed) for score in base.scores if labels)
    return base.model_copy(update={
        "description": said, "evidence": base.evidence.model_copy(update={"readings": read}),
        "scores": scores,
        "provenance": base.provenance.model_copy(update={"explainer": explainer, "prompt": (
            {"role": "user", "content": prompt},)}),
    })  # fmt: skip


def run_folder(tmp_path: Path, model: str = "secret/model-9", prompt: str = "What does it do?") -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    config = {"model": model, "corpus": ["demo"], "explainer": "llm", "blind": True}
    (folder / "config.json").write_text(json.dumps({"config": config}))
    random = {"n": 20, "described": 1, "abstained": 19, "supported": 0, "margin_above_0": 0, "share": 0.0, "low": 0.0,
              "high": 0.17, "explainer": "detectors"}  # fmt: skip
    (folder / "run.json").write_text(json.dumps({"model": {"layers": 2, "heads": 3}, "random_weights": random}))
    lines = [report_of(name, labels, prompt=prompt).model_dump_json() for name, labels in SAID.items()]
    (folder / "heads.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return run_folder(tmp_path)


@pytest.fixture
def choice(tmp_path: Path) -> TableChoice:
    return TableChoice(table(tmp_path, *FOLDER_TABLE))


def test_a_run_folder_alone_gives_the_numbers(run: Path, choice: TableChoice) -> None:
    bench = bench_heads(run, choice)
    own = {m.name: m for m in bench.measures[RUN]}
    assert (own["pattern class"].value, own["pattern class"].n) == (0.5, 2)  # L0H0 right, L0H1 says token_class
    assert (own["effect class"].value, own["effect class"].n) == (pytest.approx(2 / 3), 3)
    assert (own["label"].value, own["label"].n) == (0.5, 4)  # L0H0 and, confirmed by a detector, L0H2
    assert (own["false effects"].value, own["false effects"].n) == (1.0, 1)
    confirmed = {s.row.label: s.confirmed_by for s in bench.statements if s.row.grade == "B"}
    assert confirmed == {"successor": "successor on parameters fires, rank 1 of 6"}
    alone = {m.name: m.value for m in bench.measures[DETECTORS]}
    assert alone["pattern class"] == 1.0  # the same code scores what the detectors would say
    assert alone["effect class"] == pytest.approx(1 / 3)
    gap = {d.name: d for d in bench.differences[DETECTORS]}["pattern class"]
    assert (gap.value, gap.n_heads) == (-0.5, 2)
    assert {u.scorer for u in bench.unscored} >= {ID_ONLY, "text beside the published role"}
    assert not bench.run.leaks
    assert bench.run.n_prompts == 6
    assert bench.run.cards[head("L0H0")].retrieval == (1.5, 6)


def test_what_a_blind_run_must_not_show_is_found(tmp_path: Path, choice: TableChoice) -> None:
    rows = published_rows("secret/model-9", choice)
    seen = {"head L3H7 of it": "L3H7", "in Layer 4 we": "Layer 4", "of SECRET/Model-9": "secret/model-9",
            "it finds what followed the earlier copy of it": "finds what followed the earlier copy of it"}  # fmt: skip
    for n, (prompt, leak) in enumerate(seen.items()):
        (tmp_path / str(n)).mkdir()
        assert read_run(run_folder(tmp_path / str(n), prompt=prompt), rows).leaks == (leak,)
    (tmp_path / "calls").mkdir()
    folder = run_folder(tmp_path / "calls")
    call = {"prompt": [{"role": "user", "content": "L1H1?"}], "reply": "x"}
    (folder / "calls.jsonl").write_text(json.dumps(call) + '\n{"prompt": [{"role')
    assert read_run(folder, rows).leaks == ("L1H1",)


def command(run: Path, choice: TableChoice, *more: str) -> list[str]:
    return ["bench", "heads", "--run", str(run), "--table", str(choice.table), *more]


def test_the_command_ends_in_one_line_of_json_and_leaves_a_page(
    run: Path, choice: TableChoice, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(run, choice)) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    line = json.loads(lines[-1])
    assert (line["label"], line["label_n"], line["n_heads"], line["n_missing"]) == (0.5, 4, 5, 0)
    assert (line["blind"], line["id_only_label"], line["role_matches"]) == (True, None, None)
    assert any("a language model was not asked" in text for text in lines)
    assert "| predicate | 5 | 0.75 | 0.25 | 4 |" in lines  # without evidence: five published heads were described
    assert "| with a label that counts | 4 | 0 (0 to 0.602) | 0.167 | 0.667 | 0.408 |" in lines
    assert "| L1H0 | name_mover | name_mover | name_mover | looks like a mover and is none of them |" in lines
    assert "| given a label | 1 | 20 | 0.05 (0.00127 to 0.249) |" in lines
    full = json.loads((run / "bench.json").read_text())
    assert full["label"] == 0.5
    assert full["random_weights"]["described"] == 1
    assert [s["text"] for s in full["statements"]][2] == "greater_than"
    assert full["heads"][1]["published"] == ["induction", "year_mover"]
    page = (run / "bench.html").read_text()
    assert "<script" not in page
    assert "&lt;b&gt;Nobody&lt;/b&gt;" in page
    assert "year_mover [retrieval only]" in page
    assert not re.search(r"(src|href)=", page)


def test_leaks_are_told_on_the_page(tmp_path: Path, choice: TableChoice, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path, prompt="This is L0H1.")
    assert main(command(folder, choice, "--out", str(tmp_path / "out"))) == 0
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1])["blind"] is False
    assert "NOT BLIND: prompts hold L0H1" in (tmp_path / "out" / "bench.html").read_text()
    assert not (folder / "bench.json").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--run", "nowhere"], "--run nowhere is not a folder"),
        (["--run", "RUN"], "no head of model 'secret/model-9'"),
        (["--run", "RUN", "--as", "gpt2"], "there is no head L4H11 in gpt2, which has 2 layers"),
        (["--run", "RUN", "--table", "nothing.csv"], "nothing.csv is not a file"),
        (["--run", "RUN", "--text", "web"], "--text names web; known are general, ioi"),
        (["--run", "RUN", "--text", ","], "--text names nothing"),
        (["--run", "EMPTY"], "no config.json"),
        (["--model", "demo", "--explainer", "detectors"], "no head of model 'demo'. It has gpt2 (48 heads)"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_one_clear_error(
    options: list[str], words: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"RUN": str(run), "EMPTY": str(tmp_path / "empty")}
    assert main(["bench", "heads", *(places.get(o, o) for o in options)]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_model_of_the_table_is_described_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole command on a tiny model with a table of its own; the same --out a second time describes nothing."""
    model, corpus, out = save_model(tmp_path / "m"), save_corpus(tmp_path / "c.txt"), tmp_path / "out"
    rows = table(tmp_path, "tiny,0,0,prev_token,r,s,A", "tiny,1,3,induction,r,s,A", "tiny,1,2,not:copying,r,s,A")
    options = ["bench", "heads", "--model", str(model), "--corpus", str(corpus), "--table", str(rows), "--as", "tiny",
               "--explainer", "detectors", "--scorers", "predicate,ablation", "--out", str(out), *QUICK]  # fmt: skip
    lines = []
    for _ in range(2):
        assert main(options) == 0
        lines.append(capsys.readouterr().out.strip().splitlines()[-1])
    assert lines[0] == lines[1]
    assert (json.loads(lines[0])["label_n"], json.loads(lines[0])["n_heads"]) == (2, 3)
    assert (out / "report.html").exists() and (out / "bench.html").exists()
    assert not any("random heads" in u["scorer"] for u in json.loads((out / "bench.json").read_text())["unscored"])


def test_a_run_without_the_published_heads_says_so(run: Path, tmp_path: Path) -> None:
    (run / "heads.jsonl").write_text(report_of("L0H1", ("induction",)).model_dump_json() + "\n")
    choice = TableChoice(table(tmp_path, FOLDER_TABLE[0]))
    with pytest.raises(BadInput, match="none of the 1 published heads of secret/model-9"):
        bench_heads(run, choice)


# -- asking --------------------------------------------------------------------------------------------------


def script(tmp_path: Path) -> str:
    lines = (
        {"purpose": "identity", "match": '"layer": 0, "head": 1', "reply": {"labels": ["induction", "first_token"]}},
        {"purpose": "identity", "reply": {"labels": ["unclear"]}},
        {"purpose": "role", "match": "the token before", "reply": {"verdict": "matches"}},
        {"purpose": "role", "reply": {"verdict": "compatible"}},
        {"purpose": "other role", "reply": {"verdict": "contradicts"}},
    )
    path = tmp_path / "script.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return f"scripted:{path}"


def test_identity_and_roles_are_asked_apart_from_the_run(
    run: Path, choice: TableChoice, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(run, choice, "--llm", script(tmp_path))) == 0
    line = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert line["id_only_label"] == 0.25  # one of four heads is remembered
    assert line["role_matches"] == 1
    assert line["blind"]
    assert not (run / "calls.jsonl").exists()
    full = json.loads((run / "bench.json").read_text())
    assert full["measures"][ID_ONLY]["label"]["n"] == 4
    assert full["differences"][ID_ONLY]["label"]["value"] == 0.25
    assert Counter(full["asked"]["other_roles"].values()) == {"contradicts": 4}
    calls = [json.loads(text) for text in (run / "published" / "calls.jsonl").read_text().splitlines()]
    judged = [c for c in calls if "role" in c["purpose"]]
    assert len(judged) == 8
    for call in judged:
        text = json.dumps(call["prompt"])
        assert not re.search(r"L\d+H\d+|secret/model-9", text)
    assert bench_heads(run, choice).asked.identity[head("L0H1")] == ("induction",)  # kept, and asked no more


def test_a_language_model_that_fails_is_told(
    run: Path, choice: TableChoice, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(run, choice, "--llm", "rules")) == 0  # its rules know neither question
    out = capsys.readouterr().out
    assert json.loads(out.strip().splitlines()[-1])["id_only_label"] is None
    assert "rules was asked, and 12 requests failed" in out


def test_answers_about_other_rows_are_not_used(run: Path, choice: TableChoice, tmp_path: Path) -> None:
    assert main(command(run, choice, "--llm", script(tmp_path))) == 0
    fewer = replace(choice, table=table(tmp_path, *FOLDER_TABLE[:2]))
    bench = bench_heads(run, fewer)
    assert bench.asked.stale
    assert ID_ONLY not in bench.measures
    assert any("other rows or descriptions" in u.reason for u in bench.unscored)


def test_what_is_asked(run: Path, choice: TableChoice) -> None:
    rows = published_rows("secret/model-9", choice)
    view = read_run(run, rows)
    found = statements(rows, ("general",), lambda r: confirmation(r, view.readings))
    subject = Subject(view, "secret/model-9", known_heads(found), found)
    identity = identity_questions(subject)
    assert [str(q.unit) for q in identity] == ["L0H0", "L0H1", "L0H2", "L1H0"]
    assert identity[0].values == {"labels": LABELS, "head": {"model": "secret/model-9", "layer": 0, "head": 0}}
    own = {str(q.unit): q.values["reference"] for q in role_questions(subject, 0, own=True)}
    assert own["L0H1"] == ["finds what followed the earlier copy of it"]  # of another text: left out
    for question in role_questions(subject, 0, own=False):
        assert question.values["reference"] != own[str(question.unit)]
    with pytest.raises(ValueError, match="labels must be"):
        identity[0].parse({"labels": ["mover"]})
    with pytest.raises(ValueError, match="verdict must be"):
        role_questions(subject, 0, own=True)[0].parse({"verdict": "yes"})


def test_a_donor_has_no_label_in_common() -> None:
    heads = known(row("L0H0", "copying"), row("L0H1", "name_mover"), row("L0H2", "induction"))
    assert donor(heads[0], heads, 0) == heads[2]
    assert donor(heads[0], heads[:2], 0) is None


def test_statements_keep_their_order() -> None:
    found = statements(TRUTH, TEXTS, nothing_confirmed)
    assert [one.row for one in found] == list(TRUTH)
    assert all(isinstance(one, Statement) for one in found)
