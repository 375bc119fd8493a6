"""The indirect-object data: roles point at the right words, flips change what they say and nothing else."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autointerp.circuits.ablation import Ablation
from autointerp.circuits.circuit import CircuitRuns
from autointerp.circuits.prompts import ContrastSet
from autointerp.errors import BadInput
from autointerp.studies.ioi_data import (
    FLIPS,
    SIGNALS,
    Fillers,
    Flip,
    IoiPrompt,
    IoiSpec,
    ioi_prompts,
    ioi_set,
    performance,
    toy_prompts,
    with_aside,
)
from autointerp.studies.ioi_text import NAMES, OBJECTS, PLACES, TEMPLATES
from tests.circuit_helpers import demo, fillers
from tests.tiny_models import tiny_model

SPEC = IoiSpec(per_group=5)


def word(found: ContrastSet, side: np.ndarray, row: int, role: str) -> str:
    return demo().strings[int(side[row, found.roles[role][row]])].strip()


def test_the_words_are_distinct_and_every_template_has_its_slots() -> None:
    assert len(TEMPLATES) == 12
    for words in (NAMES, PLACES, OBJECTS):
        assert len(set(words)) == len(words)
    for template in TEMPLATES:
        assert [template.count(slot) for slot in ("{first}", "{second}", "{subject}", "{place}", "{object}")] == [1] * 5
        assert template.endswith(" to")
    assert all(thing[0] not in "aeiou" for thing in OBJECTS)


def test_the_default_set_has_288_prompts_and_comes_again_for_the_same_seed() -> None:
    assert IoiSpec().n_prompts == 288
    first, again = ioi_prompts(fillers(), SPEC), ioi_prompts(fillers(), SPEC)
    assert first == again and len(first) == SPEC.n_prompts == 120
    assert first != ioi_prompts(fillers(), replace(SPEC, seed=1))
    for prompt in first:
        assert prompt.io != prompt.s and {prompt.io, prompt.s} <= set(fillers().names)
        assert (prompt.names[0] == prompt.io) == (prompt.order == "ABBA")
        assert prompt.names[2] == prompt.s


def test_roles_point_at_the_right_words_in_every_template_and_order() -> None:
    prompts = ioi_prompts(fillers(), SPEC)
    found = ioi_set(demo(), prompts, fillers(), "s2_io")
    for row, prompt in enumerate(prompts):
        text = prompt.written()[0]
        assert word(found, found.clean, row, "IO") == prompt.io
        assert word(found, found.clean, row, "S1") == word(found, found.clean, row, "S2") == prompt.s
        assert word(found, found.clean, row, "END") == "to" and text.endswith("to")
        assert found.roles["S1"][row] < found.roles["S2"][row]
        after = text.split(prompt.s, 1)[1].split()[0]
        assert after.startswith(word(found, found.clean, row, "S1+1"))
        assert found.roles["S1-1"][row] == found.roles["S1"][row] - 1
        assert demo().strings[found.answer[row]] == f" {prompt.io}"
        assert demo().strings[found.wrong[row]] == f" {prompt.s}"
        assert word(found, found.corrupted, row, "S2") == prompt.io  # the flip
        assert (found.clean[row] != found.corrupted[row]).sum() == 1
    assert len(set(found.groups)) == 24
    assert CircuitRuns(demo(), found, Ablation("template_mean", found)).notes  # groups line up; they are small


@pytest.mark.parametrize("flip", list(FLIPS))
def test_flips_change_the_names_that_they_say(flip: str) -> None:
    prompts = ioi_prompts(fillers(), SPEC)
    found = ioi_set(demo(), prompts, fillers(), flip)
    same = FLIPS[flip] == Flip()
    kind = FLIPS[flip]
    for row, prompt in enumerate(prompts):
        io, s1, s2 = (word(found, found.corrupted, row, role) for role in ("IO", "S1", "S2"))
        if kind.abc:
            assert len({io, s1, s2, prompt.io, prompt.s}) == 5
        elif kind.random_names:
            assert {io, s1}.isdisjoint({prompt.io, prompt.s}) and s2 == (io if kind.swap else s1)
        else:
            assert {io, s1} == {prompt.io, prompt.s}
            assert (io == prompt.io) == (not kind.swap)
            assert s2 == (prompt.io if kind.s2_io else prompt.s)
        changed = np.flatnonzero(found.clean[row] != found.corrupted[row])
        assert set(changed) <= {found.roles[role][row] for role in ("IO", "S1", "S2")}
        assert bool(len(changed)) != same
    with pytest.raises(BadInput, match="flip 'x' is unknown"):
        ioi_set(demo(), prompts[:1], fillers(), "x")


def test_signals_are_where_the_flip_puts_them() -> None:
    """Token signal: which name S2 is. Position signal: in which of the two places the name of S2 stands before."""
    rng = np.random.default_rng(0)
    for prompt in ioi_prompts(fillers(), SPEC):
        for (token, position), name in SIGNALS.items():
            first, second, giver = prompt.flipped(FLIPS[name], fillers().names, rng).names
            place = 0 if giver == first else 1
            own = 0 if prompt.s == prompt.names[0] else 1
            assert (place == own) == (position == "original")
            wanted = {"original": [prompt.s], "inverted": [prompt.io]}
            assert giver in wanted[token] if token in wanted else giver not in (prompt.io, prompt.s)
            assert first != second


def test_ten_thousand_abc_draws_have_three_new_names_each() -> None:
    rng = np.random.default_rng(0)
    prompt = IoiPrompt(0, "ABBA", NAMES[0], NAMES[1], (NAMES[0], NAMES[1], NAMES[1]), "garage", "map")
    seen = set()
    for _ in range(10_000):
        names = prompt.flipped(Flip(abc=True), NAMES, rng).names
        assert len({*names, prompt.io, prompt.s}) == 5
        seen.update(names)
    assert len(seen) == len(NAMES) - 2


def test_asides_name_one_person_more_and_roles_stay_in_the_sentence() -> None:
    prompts = ioi_prompts(fillers(), replace(SPEC, templates=(0, 6)))
    for who in ("io", "s"):
        more = with_aside(prompts, who)
        found = ioi_set(demo(), more, fillers(), "s2_io")
        for row, prompt in enumerate(prompts):
            text = more[row].written()[0]
            assert text.count(prompt.io) == (2 if who == "io" else 1) and text.count(prompt.s) == (
                2 if who == "io" else 3
            )
            assert word(found, found.clean, row, "IO") == prompt.io
            assert found.roles["IO"][row] > 3 and found.roles["S1"][row] > 3
    with pytest.raises(BadInput, match="neither io nor s"):
        with_aside(prompts, "x")


def test_the_toy_set_swaps_the_persons() -> None:
    toy = toy_prompts(fillers())
    assert len(toy) == 8
    for one, other in zip(toy[::2], toy[1::2], strict=True):
        assert (one.io, one.s, one.template) == (other.s, other.io, other.template)
    found = ioi_set(demo(), toy, fillers(), "s2_io")
    assert np.allclose(sorted(found.answer), sorted(found.wrong))


def test_the_demo_model_does_the_task() -> None:
    found = ioi_set(demo(), ioi_prompts(fillers(), SPEC), fillers(), "s2_io")
    clean, flipped = performance(demo(), found), performance(demo(), found.swapped())
    assert clean.logit_diff > 2 and clean.io_over_s > 0.7 and clean.probability > 0.5
    assert flipped.logit_diff < -2
    assert performance(demo(), ioi_set(demo(), ioi_prompts(fillers(), SPEC), fillers(), "abc")).n == 120


def test_a_vocabulary_without_names_is_refused() -> None:
    with pytest.raises(BadInput, match="names are single tokens of tiny/gpt2, and the task needs 20"):
        Fillers.of(tiny_model("gpt2"))
    with pytest.raises(BadInput, match="templates are 0 to 11"):
        ioi_prompts(fillers(), IoiSpec(templates=(12,)))


@pytest.mark.skipif("AUTOINTERP_SHARED" not in os.environ, reason="needs GPT-2's tokenizer")
def test_every_word_is_one_token_of_gpt2() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(Path(os.environ["AUTOINTERP_SHARED"]) / "models" / "gpt2-tokenizer")
    model = replace(tiny_model("gpt2"), tokenizer=tokenizer, strings=["x"] * len(tokenizer))
    found = Fillers.of(model)
    assert found == Fillers(NAMES, PLACES, OBJECTS)
