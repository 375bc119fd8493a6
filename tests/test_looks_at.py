"""The "looks at" query: rates, masses, what is left out, what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import N_CTX, WORDS, planted, tiny_model, uniform
from torch import Tensor

from autointerp.errors import BadInput
from autointerp.evidence.looks_at import looks_at
from autointerp.evidence.looks_at_table import LooksAtFilter, LooksAtTable
from autointerp.evidence.prompt_spans import LooksAtPrompt, looks_at_prompts
from autointerp.finder import TokenFinder
from autointerp.model import LanguageModel
from autointerp.notebook import NotebookModel, open_model
from autointerp.tables import read_csv_cells

CAT, DOG = " cat", " dog"
ANY = LooksAtFilter(0.0, 0.0, -1.0)


def ids_of(token: str) -> int:
    return tiny_model("gpt2").strings.index(token)


def looker(*, sink: float = 0.2, fails: Callable[[Tensor], bool] = lambda ids: False) -> LanguageModel:
    """Head 0 puts .5 on every " cat" together, .1 on each " dog", the rest evenly; head 1 always rests; the
    others are uniform. Where `fails`, head 0 takes cats for dogs."""

    def attend(ids: Tensor) -> Tensor:
        size = len(ids)
        pattern = uniform(size).repeat(4, 1, 1)
        pattern[1] = uniform(size) * 0.02
        pattern[1, :, 0] = 1 - pattern[1, :, 1:].sum(-1)
        good, bad = (ids_of(DOG), ids_of(CAT)) if fails(ids) else (ids_of(CAT), ids_of(DOG))
        for dst in range(size):
            row = torch.zeros(size)
            cats, dogs = ((ids[: dst + 1] == token).float() for token in (good, bad))
            row[: dst + 1] = 0.5 * cats / cats.sum().clamp_min(1) + 0.1 * dogs
            rest = 1 - sink - row.sum()
            row[1 : dst + 1] += rest.clamp_min(0) / max(dst, 1)
            row[0] += 1 - row.sum()
            pattern[0, dst] = row
        return pattern

    return planted(attend)


def fifty() -> list[LooksAtPrompt]:
    names = [word for word in WORDS if word.isalpha() and word not in ("cat", "dog", "it", "mat")]
    texts = [f"the cat and {names[k % len(names)]} {names[k // 2 % len(names)]} saw it" for k in range(50)]
    return [LooksAtPrompt(t.replace("saw", "said"), " it", [CAT], id=f"p{k}") for k, t in enumerate(texts)]


def by_head(table: LooksAtTable) -> dict[str, object]:
    return {row.head: row for row in table.everything}


def test_one_failure_of_fifty_keeps_the_head() -> None:
    prompts = fifty()
    prompts[17] = replace(prompts[17], text="the cat and dog said , it")
    comma = ids_of(",")
    model = looker(fails=lambda ids: bool((ids == comma).any()))
    table = looks_at(model, prompts, LooksAtFilter(min_rate=0.85))
    assert [row.head for row in table.rows] == ["L0H0", "L1H0"]
    row = table.rows[0]
    assert (row.n, row.n_excluded, row.rate, row.failures) == (50, 0, 0.98, ("p17",))
    assert (row.ci_low, row.ci_high) == (pytest.approx(0.893531, abs=1e-5), pytest.approx(0.999494, abs=1e-5))
    from transformer_lens.utilities.statistics import success_rate_ci

    exact = success_rate_ci([True] * 49 + [False])
    assert (row.ci_low, row.ci_high) == (pytest.approx(exact.ci_low), pytest.approx(exact.ci_high))
    assert len(table.select(LooksAtFilter())) == 0, "the lower end of .98 is below .9"
    assert len(table.intersection()) == 0
    assert len(table.everything) == 8


def test_numbers_of_one_prompt_by_hand() -> None:
    model = looker()
    text = "the cat and the dog sat on a red mat said it"
    prompt = LooksAtPrompt(text, " it", [CAT], [DOG])
    row = by_head(looks_at(model, [prompt]))["L0H0"]
    rest = (1 - 0.2 - 0.6) / 12
    assert row.mass_mean == pytest.approx(0.5 + rest, abs=1e-5)
    assert row.multiple_mean == pytest.approx((0.5 + rest) / 0.8 * 12, rel=1e-4)
    assert row.margin_mean == pytest.approx(0.4, abs=1e-5)
    assert row.distractor_mass == pytest.approx(0.1 + rest, abs=1e-5)
    assert (row.rate, row.rate_raw, row.rank_mean, row.n) == (1, 1, 1, 1)
    assert row.contribution_share_mean == pytest.approx(0.5 + rest, abs=1e-4), "every source writes norm 1"
    other = by_head(looks_at(model, [replace(prompt, src=[DOG])]))["L0H0"]
    assert (other.rate, other.rank_mean, other.failures) == (0, 2, ("0",))
    assert other.margin_mean == pytest.approx(-0.4, abs=1e-5)
    assert other.distractor_mass != other.distractor_mass, "no distractors, no number"
    uniform_head = by_head(looks_at(model, [prompt]))["L0H2"]
    assert uniform_head.rate == 0, "a tie is not looking"


def test_the_sink_is_removed_and_counted() -> None:
    prompt = LooksAtPrompt("the cat and a dog said it", " it", [CAT])
    rows = by_head(looks_at(looker(sink=0.45), [prompt]))
    assert (rows["L0H0"].rate, rows["L0H0"].rate_raw) == (1, 1)
    deep = by_head(looks_at(planted(lambda ids: _mostly_sink(ids)), [prompt]))["L0H0"]
    assert (deep.rate, deep.rate_raw) == (1, 0)
    resting = rows["L0H1"]
    assert (resting.n, resting.n_excluded) == (0, 1)
    assert "off the sink" in resting.excluded[0]
    assert resting.rate != resting.rate
    assert resting.ci_low != resting.ci_low
    ranked = looks_at(looker(), [prompt], ANY)
    assert [r.head for r in ranked.everything][-2:] == ["L0H1", "L1H1"], "undefined heads come last"
    assert all(row.head not in ("L0H1", "L1H1") for row in ranked.rows)


def _mostly_sink(ids: Tensor) -> Tensor:
    size = len(ids)
    causal = torch.tril(torch.ones(size, size))
    pattern = 0.01 * causal + 0.2 * (ids == ids_of(CAT)) * causal
    pattern[:, 0] = 1 - pattern[:, 1:].sum(-1)
    return pattern.expand(4, -1, -1)


def test_each_filter_is_on_a_lower_end() -> None:
    prompts = [replace(p, text="so " * (k % 5) + p.text) for k, p in enumerate(fifty())]
    table = looks_at(looker(), prompts, ANY)
    row = by_head(table)["L0H0"]
    assert row.mass_ci_low < row.mass_mean < row.mass_ci_high
    assert row.margin_ci_low <= row.margin_mean <= row.margin_ci_high
    between = (row.mass_ci_low + row.mass_mean) / 2
    for filters, kept in (
        (LooksAtFilter(), True),
        (LooksAtFilter(min_rate=0.93), False),  # 50 of 50 have the lower end .929
        (LooksAtFilter(min_mass=between), False),
        (LooksAtFilter(min_mass=row.mass_ci_low), True),
        (LooksAtFilter(min_margin=row.margin_ci_high + 1e-6), False),
    ):
        assert ("L0H0" in {found.head for found in table.select(filters).rows}) is kept, filters
    assert "L0H0" in {found.head for found in table.intersection().rows}


def test_spans_of_several_tokens() -> None:
    model = looker()
    text = "the cat sat and the cat ran on it was"
    spans = LooksAtPrompt(text, " it was", ["the cat", (5, 7)])
    row = by_head(looks_at(model, [spans]))["L0H0"]
    one = by_head(looks_at(model, [LooksAtPrompt(text, " was", [(1, 3), (5, 7)])]))["L0H0"]
    got, wanted = (replace(found, distractor_mass=0.0) for found in (row, one))
    assert got == wanted, "a destination is read at its last token"
    rest = (1 - 0.2 - 0.5) / 10
    assert row.mass_mean == pytest.approx(0.5 + 4 * rest, abs=1e-5), "both spans, each token once"
    assert row.margin_mean == pytest.approx(0.5 + 3 * rest, abs=1e-5)
    finder = NotebookModel(model).finder(text)
    assert isinstance(finder, TokenFinder)
    cats = finder.find_all(" cat")
    given = LooksAtPrompt(text, finder.find_first_range(" it was"), cats)
    assert by_head(looks_at(model, [given]))["L0H0"].mass_mean == pytest.approx(0.5 + 2 * rest, abs=1e-5)
    later = LooksAtPrompt(text, " ran", [*cats[:1], cats[1], " was"], [" was", " sat"])
    assert by_head(looks_at(model, [later]))["L0H0"].rate == 1, "what comes after the destination is no source"


def test_what_is_left_out_is_named() -> None:
    model = looker()
    good = LooksAtPrompt("the cat said it", " it", [CAT])
    missing = replace(good, text="the dog said it", id="no cat")
    sink = LooksAtPrompt("the cat said it", " it", [(0, 1)], id="bos")
    long = LooksAtPrompt("the cat said it" * N_CTX, " it", [CAT], id="long")
    row = looks_at(model, [good, missing, sink, long], ANY).rows[0]
    assert (row.n, row.n_excluded) == (1, 3)
    assert [reason.split(":")[0] for reason in row.excluded] == ["no cat", "bos", "long"]
    assert "' cat' is not in the text" in row.excluded[0]
    assert "sink" in row.excluded[1]


def test_requests_for_nothing_are_refused() -> None:
    model = looker()
    good = LooksAtPrompt("the cat said it", " it", [CAT])
    for wrong, message in (
        ([], "no prompts"),
        ([replace(good, dst=" cat", src=[" it"])], "before every source"),
        ([replace(good, dst="")], "empty span"),
        ([replace(good, src=[(2, 2)])], "empty"),
        ([replace(good, src=[(2, 99)])], "not within its 5 tokens"),
        ([replace(good, src=[])], "no source span"),
        ([replace(good, text="the dog said it")], "none of the 1 prompts is usable"),
        ([good, replace(good, dst=NotebookModel(model).finder("the mat").find_first(" mat"))], "another text"),
    ):
        with pytest.raises(BadInput, match=message):
            looks_at(model, wrong)


def test_lists_of_spans_have_to_fit() -> None:
    texts = ["the cat said it", "the dog said it"]
    made = looks_at_prompts(texts, " it", [CAT, DOG], "the")
    assert [(p.dst, p.src, p.distractors) for p in made] == [
        (" it", (CAT,), ("the",)),
        (" it", (DOG,), ("the",)),
    ]
    for wrong in ([CAT], [CAT] * 3, (1, 2)):
        with pytest.raises(BadInput, match="for 2 texts"):
            looks_at_prompts(texts, " it", wrong)


def test_batches_models_and_forms() -> None:
    prompts = [
        LooksAtPrompt("the cat sat on the mat and it", " it", [" mat"], [CAT]),
        LooksAtPrompt("a dog ran", " ran", ["a dog"]),
    ]
    for kind in ("gpt2", "llama"):
        model = tiny_model(kind)
        together = by_head(looks_at(model, prompts))
        alone = [by_head(looks_at(model, [prompt])) for prompt in prompts]
        for head, row in together.items():
            assert row.mass_mean == pytest.approx(sum(a[head].mass_mean for a in alone) / 2)
            assert row.rate == sum(a[head].rate for a in alone) / 2
        assert looks_at(model, prompts, seed=3).everything[0].rate == looks_at(model, prompts).everything[0].rate
    table = looks_at(looker(), [replace(prompts[1], id='=1+1 | "</td>', src=["a"])], ANY)
    assert not table.everything[0].rate, "no cat here"
    cells = read_csv_cells(table.to_csv(), frozenset({"failures", "excluded"}))
    assert cells[0]["failures"] == '=1+1 | "</td>'
    assert len(cells) == len(table) == len(table.to_dataframe())
    page = table.to_html()
    assert page.count("<td") == page.count("</td>")
    assert "L0H0" in page
    assert len(table.to_markdown().strip().split("\n")) == len(table) + 4
    assert table._repr_html_() == page


@pytest.mark.skipif("AUTOINTERP_SHARED" not in os.environ, reason="AUTOINTERP_SHARED names no folder of models")
def test_a_real_previous_token_head_is_found() -> None:
    m = open_model(Path(os.environ["AUTOINTERP_SHARED"]) / "models" / "induct-2l")
    names = ["Roland", "Peter", "Edward", "Henry", "Thomas", "William"]
    texts = [f"Then {a} met {b} near the old house" for a in names for b in names if a != b]
    prompts = []
    for text in texts:
        met = m.finder(text).find_first_range("met").stop - 1
        prompts.append(LooksAtPrompt(text, (met, met + 1), [(met - 1, met)], [(met - 3, met - 2)]))
    table = m.looks_at(prompts, LooksAtFilter(min_rate=0.85))  # 30 of 30 have the lower end .88
    assert [row.head for row in table.rows] == ["L0H3"]
    assert table.rows[0].mass_mean > 3 * table.rows[0].distractor_mass
