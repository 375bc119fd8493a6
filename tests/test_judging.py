"""Repeats of the judge: agreement and errors by hand, single items where the order matters, a second judge."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autointerp.chat import FakeChat
from autointerp.cli.options import resolve
from autointerp.config import RunConfig, Settings, read_environment
from autointerp.errors import BadInput
from autointerp.llm import Capabilities, ChatRequest
from autointerp.pipeline.talking import chat_options, judge_options
from autointerp.prompting import Templates
from autointerp.records import Score
from autointerp.report.judged import judge_line, tier_line
from autointerp.scoring.asking import Asked, Asker, Reading
from autointerp.scoring.effect import Effect
from autointerp.scoring.judging import BATCHED, Case, Reader, ask_second, judge_again
from autointerp.scoring.pointing import Pointer
from autointerp.scoring.pointing_items import PointingItem
from autointerp.stats.agreement import items_error, judge_error, krippendorff_alpha, mean_difference
from autointerp.stats.metrics import auprc
from autointerp.store import CallLog, RunFolder
from tests.test_detection import (
    CLAIM,
    HEAD,
    ONCE,
    OTHER,
    SAID,
    STRINGS,
    THRICE,
    TRUTH,
    eight,
    hard,
    held_out,
    items_in,
    soft,
)
from tests.test_detection import detector as detector_of
from tests.test_effect_scorer import CHANGES, rows_of, says, ten
from tests.test_effect_scorer import STRINGS as EFFECT_STRINGS

WRITER = CLAIM.model_copy(update={"writes": "raises some words"})

# numbers


def test_alpha_by_hand() -> None:
    """Two raters, four units: coincidences 00: 2, 01 and 10: 1 each, 11: 4; D_o = 2/8, D_e = 2 * 3 * 5 / (8 * 7)."""
    answers = np.array([[0, 0, 1, 1], [0, 1, 1, 1]])
    assert krippendorff_alpha(answers) == pytest.approx(1 - (2 / 8) / (30 / 56))
    assert krippendorff_alpha(answers[::-1]) == krippendorff_alpha(answers)
    assert krippendorff_alpha(1 - answers) == krippendorff_alpha(answers)  # names of kinds do not matter


def test_alpha_of_the_published_example_with_missing_answers() -> None:
    """Krippendorff's four observers and twelve units: .743; unit 12 has one answer and does not count."""
    rows = ["123321412   ", "1233224125 3", " 3332342251 ", "12332441251 "]
    answers = np.array([[-1 if c == " " else int(c) for c in row.ljust(12)] for row in rows])
    assert answers.shape == (4, 12)
    assert krippendorff_alpha(answers) == pytest.approx(0.743, abs=5e-4)


def test_alpha_of_equal_random_and_single_answers() -> None:
    assert krippendorff_alpha(np.array([[0, 1, 2], [0, 1, 2], [0, 1, 2]])) == 1
    assert math.isnan(krippendorff_alpha(np.ones((5, 20), dtype=np.int64)))  # one answer for everything
    assert math.isnan(krippendorff_alpha(np.array([[0, 1, -1], [-1, -1, 2]])))
    random = np.random.default_rng(0).integers(0, 4, (5, 4000))
    assert abs(krippendorff_alpha(random)) < 0.02


def test_errors_by_hand() -> None:
    assert judge_error(np.array([0.5, 0.7, 0.6]), 1) == pytest.approx(0.1)
    assert judge_error(np.array([0.5, 0.7, 0.6]), 3) == pytest.approx(0.1 / math.sqrt(3))
    assert math.isnan(judge_error(np.array([0.5]), 1))
    assert items_error(np.array([1.0, 2.0, 3.0, np.nan])) == pytest.approx(1.0)
    # three calls of two items: |differences| .2 0, .4 .1, .2 .1
    assert mean_difference(np.array([[0.1, 0.5], [0.3, 0.5], [0.5, 0.6]])) == pytest.approx((0.1 + 0.25 + 0.15) / 3)


# repeats


def scored(reader: Any, items: Any, controls: Any = None) -> Score:
    found = asyncio.run(reader.score(HEAD, WRITER, controls or {}, items))
    assert isinstance(found, Score), found
    return found


def again(reader: Reader, score: Score, items: Any) -> Score:
    return asyncio.run(judge_again(reader, Case(HEAD, WRITER, items, score)))


def purposes(chat: FakeChat) -> dict[str, int]:
    return dict(Counter(request.purpose for request in chat.requests))


def test_a_steady_judge_is_asked_five_times_and_keeps_its_score() -> None:
    rows = held_out()
    chat = FakeChat(soft(rows))
    reader = detector_of(chat, rows)
    before = scored(reader, eight())
    chat.requests.clear()
    after = again(reader, before, eight())
    assert purposes(chat) == {"detection": 1, "detection repeat control": 4}
    assert [r.repeat for r in chat.requests] == [0, 1, 2, 3, 4]
    assert len({json.dumps([i["before"] for i in items_in(r)]) for r in chat.requests}) == 5
    assert after.model_copy(update={"details": before.details}) == before
    details = after.details
    assert (details["judge_repeats"], details["judge_agreement"], details["order_effect"]) == (5, 1.0, 0.0)
    assert (details["se_judge"], details["se"]) == (0.0, details["se_items"])
    assert "single_items" not in details


def wavering(shift: float) -> Callable[[Any, ChatRequest], Any]:
    """Adds `shift` to p(yes) of item 2 in repeats 1 and 3."""

    def answer(rows: Any, request: ChatRequest) -> Any:
        values = list(SAID)
        values[2] += shift * (request.repeat in (1, 3))
        return soft(rows, values)(request)

    return answer


def test_agreement_and_errors_of_a_wavering_judge_by_hand() -> None:
    """Item 2 (active) is at .4, and at .75 in two of five repeats: six of the ten pairs differ by .35 on one of eight
    items; it is said yes twice of five."""
    rows = held_out()
    chat = FakeChat(lambda request: wavering(0.35)(rows, request))
    reader = detector_of(chat, rows)
    after = again(reader, scored(reader, eight()), eight())
    details = after.details
    assert details["order_effect"] == pytest.approx(0.6 * 0.35 / 8)
    yes = [5 * (e >= 0.5) for e in SAID]
    yes[2] = 2
    differ = sum(k * (5 - k) * 2 / 4 for k in yes) / 40
    total = sum(yes)
    assert details["judge_agreement"] == pytest.approx(1 - differ / (2 * total * (40 - total) / (40 * 39)))
    low, high = (auprc(np.array([*SAID[:2], e, *SAID[3:]]), np.array(TRUTH, dtype=float)) for e in (0.4, 0.75))
    assert high > low
    assert details["se_judge"] == pytest.approx(np.std([low, high, low, high, low], ddof=1))
    assert details["se"] == pytest.approx(math.hypot(float(details["se_items"] or 0), float(details["se_judge"] or 0)))
    assert "single_items" not in details  # .026 is below .1


def test_without_probabilities_two_more_calls_and_the_error_of_a_mean_of_three() -> None:
    rows = held_out()
    chat = FakeChat(hard(rows, lambda item, repeat: TRUTH[item] or (item == 7 and repeat == 4)))
    reader = detector_of(chat, rows, THRICE)
    after = again(reader, scored(reader, eight()), eight())
    assert purposes(chat) == {"detection": 6, "detection repeat control": 2}  # there is no cache here
    one_wrong = 4 / 5  # four active and one resting item are tied at yes
    assert after.details["se_judge"] == pytest.approx(np.std([1, 1, 1, 1, one_wrong], ddof=1) / math.sqrt(3))
    assert after.details["order_effect"] == pytest.approx(4 / 10 / 8)
    assert after.value == 1


def test_a_lost_repeat_is_left_out() -> None:
    rows = held_out()
    chat = FakeChat(lambda request: soft(rows)(request) if request.repeat != 2 else "no")
    reader = detector_of(chat, rows)
    after = again(reader, scored(reader, eight()), eight())
    assert after.details["judge_repeats"] == 4
    none = FakeChat(lambda request: soft(rows)(request) if request.repeat == 0 else "no")
    reader = detector_of(none, rows)
    before = scored(reader, eight())
    assert again(reader, before, eight()).details == before.details | {"judge_repeats": 1}


# single items


def swayed(rows: Any) -> Callable[[ChatRequest], Any]:
    """Says yes to the first half of the items of a batch and no to the others; alone it says the truth."""

    def answer(request: ChatRequest) -> Any:
        shown = items_in(request)
        if len(shown) == 1:
            return soft(rows, [0.9 * t + 0.05 for t in TRUTH])(request)
        return {"answers": {str(i["item"]): "yes" if 2 * i["item"] <= len(shown) else "no" for i in shown}}

    return answer


def test_an_order_effect_falls_back_to_single_items() -> None:
    rows = held_out()
    chat = FakeChat(swayed(rows))
    reader = detector_of(chat, rows)
    before = scored(reader, eight(), {"shuffled": [OTHER]})
    chat.requests.clear()
    after = again(reader, before, eight())
    assert purposes(chat) == {"detection": 1, "detection repeat control": 4, "detection single-item control": 8}
    single = [r for r in chat.requests if r.purpose == "detection single-item control"]
    assert all(len(items_in(r)) == 1 for r in single)
    starts = {r.messages[-1]["content"].split("<<<ITEMS")[0] for r in single}
    assert len(starts) == 1  # the shared prefix
    assert (after.value, after.details["single_items"], after.details["batched_value"]) == (1.0, 8, before.value)
    assert before.value < 1
    assert float(after.details["order_effect"] or 0) > 0.1
    free, shuffled = after.controls
    assert free.name == "answers shuffled over the items"
    assert free.difference == pytest.approx(after.value - free.value)
    assert shuffled == before.controls[1].model_copy(update={"detail": BATCHED})
    assert after.low == after.high == 1


def test_single_items_that_fail_leave_the_score_as_it_was() -> None:
    rows = held_out()
    sway, single = swayed(rows), "detection single-item control"
    chat = FakeChat(lambda request: sway(request) if request.purpose not in ("repair", single) else "no")
    reader = detector_of(chat, rows)
    before = scored(reader, eight())
    after = again(reader, before, eight())
    assert after.value == before.value
    assert "no valid reply" in str(after.details["single_items_failed"])
    assert sum(r.purpose == "detection single-item control" for r in chat.requests) == 1  # stops at the first


# pointing


def points() -> list[PointingItem]:
    return [PointingItem(n, n, 10, (n % 5 + 1, 7, 8, 9)) for n in range(8)]


def pointer(answer: Any) -> tuple[FakeChat, Pointer]:
    chat = FakeChat(answer)
    return chat, Pointer(Asker(chat, ONCE, Templates(), 0), STRINGS, held_out())


def shown_points(request: ChatRequest) -> list[dict[str, Any]]:
    text = request.messages[-1]["content"]
    return list(json.loads(text.split("<<<ITEMS\n")[1].split("\nITEMS>>>")[0]))


def test_pointing_names_answers_by_the_candidate_and_not_by_the_letter() -> None:
    """Always the most distant candidate: that is the true one, whatever its letter."""

    def far(request: ChatRequest) -> dict[str, Any]:
        answers = []
        for item in shown_points(request):
            candidates = item["candidates"]
            answers.append(max(candidates, key=lambda letter: candidates[letter]["distance"]))
        return {"answers": answers}

    chat, reader = pointer(far)
    after = again(reader, scored(reader, points()), points())
    assert len({json.dumps(shown_points(r)) for r in chat.requests}) == 5
    assert (after.value, after.details["judge_agreement"], after.details["order_effect"]) == (1.0, 1.0, 0.0)
    assert after.details["se_judge"] == 0


def test_a_judge_that_always_says_a_agrees_with_itself_by_chance_and_is_asked_singly() -> None:
    chat, reader = pointer(lambda request: {"answers": ["A"] * len(shown_points(request))})
    after = again(reader, scored(reader, points()), points())
    assert abs(float(after.details["judge_agreement"] or 9)) < 0.3
    single = [shown_points(r)[0]["candidates"] for r in chat.requests if "single-item" in r.purpose]
    assert len(single) == after.details["single_items"] == 8
    true = [min(c, key=lambda letter: -c[letter]["distance"]) for c in single]
    assert len(set(true)) > 1  # the true candidate has no fixed letter
    assert after.value == true.count("A") / 8


def test_a_letter_that_an_item_does_not_offer_is_an_answer_of_its_own() -> None:
    _, reader = pointer(lambda request: {"answers": ["E"] * len(shown_points(request))})
    found = asyncio.run(reader.read(HEAD, CLAIM, points(), Asked("pointing")))
    assert isinstance(found, Reading)
    assert set(found.said.tolist()) == {5} and not found.e.any()


# effect


def test_effect_repeats_shuffle_rows_and_are_laid_back() -> None:
    chat = FakeChat(says(lambda row: [c if row % 2 else -c for c in CHANGES]))
    reader = Effect(Asker(chat, ONCE, Templates(), 0), EFFECT_STRINGS, rows_of())
    before = scored(reader, ten(14))
    after = again(reader, before, ten(14))
    assert before.value == pytest.approx(0)
    assert purposes(chat) == {"effect": 2, "effect repeat control": 4}
    assert (after.details["order_effect"], after.details["judge_agreement"]) == (0.0, 1.0)
    assert after.details["se_judge"] == pytest.approx(0)


def test_effect_single_rows_are_ten_at_most() -> None:
    def answer(request: ChatRequest) -> dict[str, Any]:
        alone = len(shown_points(request)) == 1
        return says(lambda row: CHANGES if alone else [5 * (-1) ** request.repeat] * 10)(request)

    chat = FakeChat(answer)
    reader = Effect(Asker(chat, ONCE, Templates(), 0), EFFECT_STRINGS, rows_of())
    after = again(reader, scored(reader, ten(14)), ten(14))
    assert after.details["single_items"] == purposes(chat)["effect single-item control"] == 10
    assert (after.value, after.details["batched_value"]) == (pytest.approx(1), 0.0)


# a second judge


def test_a_second_judge_is_asked_once_and_compared_by_hand() -> None:
    """It says no to item 1 (active, .8 to the first): answers differ on one of eight items."""
    rows = held_out()
    first = detector_of(FakeChat(soft(rows)), rows)
    other = list(SAID)
    other[1] = 0.15
    chat = FakeChat(soft(rows, other))
    case = Case(HEAD, WRITER, eight(), scored(first, eight()))
    after = asyncio.run(ask_second(first, detector_of(chat, rows, Capabilities()), case, "bigger"))
    assert [(r.purpose, r.repeat) for r in chat.requests] == [("detection second-judge control", 5)]
    # yes: items 0, 1, 4 of the first, 0 and 4 of the second: 5 of 16
    assert after.details["second_judge_agreement"] == pytest.approx(1 - (2 / 16) / (2 * 5 * 11 / (16 * 15)))
    assert after.details["second_judge"] == "bigger"
    assert after.details["second_judge_value"] == pytest.approx(auprc(np.array(other), np.array(TRUTH, dtype=float)))
    assert after.value == case.score.value
    broken = detector_of(FakeChat(lambda _: "no"), rows)
    failed = asyncio.run(ask_second(first, broken, case, "bigger"))
    assert "no valid reply" in str(failed.details["second_judge_failed"])


# budget and report


def test_the_second_judge_gets_what_is_left_of_the_budget(tmp_path: Path) -> None:
    config = RunConfig(llm="small", judge="big", base_url="http://127.0.0.1:9/v1")
    settings = Settings(budget_tokens=1000, budget_usd=1.0, price_input=1.0, price_output=2.0)
    with RunFolder(tmp_path / "runs" / "run") as run:
        log = CallLog(run)
        for number, (model, prompt, reply) in enumerate([("small", 100, 50), ("big", 30, 10), ("big", 20, 10)]):
            usage = {"prompt_tokens": prompt, "completion_tokens": reply}
            log.add({"hash": str(number), "model": model, "reply": "x", "usage": usage, "cached": False})
        first, second = chat_options(config, settings, log), judge_options(config, settings, log, cost=0.4)
    assert (first.llm, first.spent, first.tokens) == ("small", (100, 50), 1000 - 70)
    assert first.usd == pytest.approx(1 - (50 * 1.0 + 20 * 2.0) / 1e6)
    assert (second.llm, second.spent, second.tokens) == ("big", (50, 20), 1000 - 150)
    assert second.usd == pytest.approx(0.6)
    alone = chat_options(config.model_copy(update={"judge": ""}), settings, log)
    assert (alone.spent, alone.tokens, alone.usd) == ((150, 70), 1000, 1.0)


def test_lines_of_a_card() -> None:
    rows = held_out()
    reader = detector_of(FakeChat(swayed(rows)), rows)
    after = again(reader, scored(reader, eight()), eight())
    text = judge_line(after.details)
    assert "over 5 orders" in text and "asked one item a call, 8 calls" in text and "judge" in text
    assert judge_line(scored(reader, eight()).details) == ""
    tiers = {
        "false_positive_rate_T0": 0.01, "false_positive_rate_T1": 0.02, "negatives": 60000,
        "false_positive_rate_T2": None, "negatives_T2": 3, "negatives_T2_note": "fewer than 20",
        "edits_T3": 64, "negatives_T3": 30, "false_positive_rate_T3": 0.1, "f1_T3": 0.5, "negatives_T3_note": "",
        "ended_T3": 20, "went_on_T3": 0.25,
    }  # fmt: skip
    line = tier_line(tiers)
    assert "T1 0.02 (n 60,000), T2 \u2013 (n 3, fewer than 20), T3 0.1 (n 30, of 64 edits, F1 0.5)" in line
    assert "goes on in 0.25 of 20" in line
    assert tier_line({"coverage": 1.0}) == ""


def test_a_judge_that_is_the_explainer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = argparse.Namespace(llm="one", judge="one")
    with pytest.raises(BadInput, match="--judge"):
        resolve(arguments, {})
    config, _ = resolve(argparse.Namespace(llm="one"), {"judge": "two"})
    assert (config.llm, config.judge) == ("one", "two")
    monkeypatch.setenv("AUTOINTERP_JUDGE", "three")
    assert read_environment()["judge"] == "three"
