"""SelfIE in one call: vectors of a text, of a head or of your own, in the model's words, with controls and a verdict.

    from autointerp.notebook import open_model
    from autointerp.lenses.selfie import SelfieOptions, interpret_text
    table = interpret_text(open_model("demo").model, "Anna Berg met Tom.", SelfieOptions(max_new_tokens=8))

`selfie_run` says how a reading is made. A reading is supporting evidence, never a description by itself: fluent text
appears for zero and random vectors as well, so the controls are always run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from autointerp.errors import BadInput
from autointerp.lens_records import ControlReading
from autointerp.lenses.reference import REFERENCE_TEXTS
from autointerp.lenses.selfie_numbers import (
    TEXT_CONTROL,
    SourceTest,
    judged_source,
    margin,
    row_verdict,
    signed,
    total,
    treatment,
)
from autointerp.lenses.selfie_prompts import BASE_PROMPTS, PlaceholderPrompt, build_prompt
from autointerp.lenses.selfie_records import SelfieRow, SelfieTable
from autointerp.lenses.selfie_run import (
    Answer,
    Case,
    Progress,
    Reading,
    Runner,
    Settings,
    control_answers,
    null_case,
    read_cases,
    source_case,
    text_readings,
)
from autointerp.lenses.selfie_search import search_scales
from autointerp.lenses.selfie_texts import ReadPlan, SourceText, text_sources
from autointerp.lenses.sources import Pool, Source, read_pool
from autointerp.lenses.surgery import Mode
from autointerp.model import LanguageModel
from autointerp.model.decoding import check_room
from autointerp.model.sites import Site
from autointerp.prompting import Templates


@dataclass(frozen=True)
class SelfieOptions:
    """`prompts`: names of `selfie_prompts.NAMES` or texts with `{P}`; with fewer than 3 nothing can be `specific`.

    `block`: where vectors are inserted (1, or 0 in a model of one block). `mode` None: `normalized` for vectors of
    the residual stream, `norm_matched` for others. `strength` "search" looks for the best one (`selfie_search`).
    `nulls`: random vectors to compare with; below 19 nothing can be `specific`.
    """

    prompts: tuple[str, ...] = BASE_PROMPTS
    placeholders: int = 5
    block: int | None = None
    mode: Mode | None = None
    strength: float | Literal["search"] = 1.0
    max_new_tokens: int = 30
    seed: int = 0
    nulls: int = 24
    batch_size: int = 32


class Interpreter:
    """Reads vectors of one model with one set of options; nulls and common controls are computed once."""

    def __init__(self, model: LanguageModel, options: SelfieOptions, templates: Templates | None = None) -> None:
        if not options.prompts:
            raise BadInput("no interpretation prompt is given. Name at least one.")
        self.model, self.options = model, options
        self.prompts = [build_prompt(model, name, options.placeholders, templates) for name in options.prompts]
        for prompt in self.prompts:
            check_room(model, len(prompt.ids), options.max_new_tokens)
        self._runners: dict[Mode, Runner] = {}
        self._nulls: dict[tuple[Pool, Mode], list[float]] = {}

    @property
    def tokens_fed(self) -> int:
        """Tokens that the model has read so far, the measure of cost."""
        return sum(runner.tokens_fed for runner in self._runners.values())

    def interpret(self, sources: Sequence[Source], pool: Pool, progress: Progress | None = None) -> list[SelfieRow]:
        """A row for each source and prompt, sources in order. `pool`: vectors of the same site at other texts.

        Raises BadInput for vectors, layers or prompts that cannot be used.
        """
        report = progress or (lambda stage, done, of: None)
        runner = self._runner(self._mode(sources))
        cases = [source_case(source, pool, self.options.seed) for source in sources]
        usable = [True] * len(cases)
        if self.options.strength == "search":
            searches = search_scales(runner, self.prompts[0], cases)
            cases, usable = [s.case for s in searches], [s.usable for s in searches]
        nulls = self._null_margins(runner, pool)
        found: list[list[_PromptReadings]] = [[] for _ in sources]
        for number, prompt in enumerate(self.prompts):
            report("reading", number, len(self.prompts))
            for place, reading in enumerate(_read(runner, prompt, sources, cases)):
                found[place].append(reading)
        report("reading", len(self.prompts), len(self.prompts))
        rows: list[SelfieRow] = []
        for source, case, readings, ok in zip(sources, cases, found, usable, strict=True):
            test = _test(readings, nulls, self.options.seed)
            rows += [self._row(runner, source, case, one, test, searched=ok) for one in readings]
        return rows

    def _mode(self, sources: Sequence[Source]) -> Mode:
        if self.options.strength == "search":
            return "normalized"
        residual = all(source.site.startswith("resid") for source in sources)
        return self.options.mode or ("normalized" if residual else "norm_matched")

    def _runner(self, mode: Mode) -> Runner:
        if mode not in self._runners:
            o = self.options
            block = min(1, self.model.n_layers - 1) if o.block is None else o.block
            strength = 1.0 if o.strength == "search" else o.strength
            settings = Settings(block, mode, strength, o.max_new_tokens, o.seed, o.nulls, o.batch_size)
            self._runners[mode] = Runner(self.model, settings)
        return self._runners[mode]

    def _null_margins(self, runner: Runner, pool: Pool) -> list[float]:
        """Mean margin over the prompts of each random vector, read as a source would be."""
        key = pool, runner.settings.mode
        if key not in self._nulls:
            cases = [null_case(n, pool, self.options.seed) for n in range(self.options.nulls)]
            if self.options.strength == "search":
                cases = [s.case for s in search_scales(runner, self.prompts[0], cases)]
            sums = [0.0] * len(cases)
            for prompt in self.prompts:
                for n, reading in enumerate(read_cases(runner, prompt, cases)):
                    sums[n] += margin(_totals(reading))
            self._nulls[key] = [value / len(self.prompts) for value in sums]
        return self._nulls[key]

    def _row(
        self, runner: Runner, source: Source, case: Case, one: _PromptReadings, test: SourceTest, *, searched: bool
    ) -> SelfieRow:
        p, plain = one.reading.p, one.reading.q["none"]
        texts = {name: self._text(ids) for name, ids in one.said.items()}
        text = self._text(one.reading.answer)
        own = margin(one.totals)
        verdict = row_verdict(test, own, text, texts) if searched else "abstain"
        return SelfieRow(
            row_id=self._row_id(runner, source, one.prompt), source_id=source.source_id, category=source.category,
            text=source.text, tokens=source.tokens, continuation=source.continuation, token=source.token,
            pos=source.pos, layer=source.layer, site=source.site, prompt_template=one.prompt.template,
            prompt_name=one.prompt.name, interpretation_ids=one.reading.answer, interpretation=text,
            treatment=treatment(p, plain), signed=signed(p, plain), prob=tuple(p.exp().tolist()),
            total=total(p, plain), margin=own, source_margin=test.margin, source_low=test.low,
            source_high=test.high, null_p=test.p,
            controls=tuple(ControlReading(name=n, text=texts[n], total=one.totals[n]) for n in one.totals),
            verdict=verdict, k=runner.settings.block, mode=runner.settings.mode,
            strength=runner.settings.strength, P=one.prompt.n_placeholders,
            h_norm=float(case.vectors.norm(dim=-1).mean()), x_norm=one.reading.x_norm, seed=self.options.seed,
            model=f"{self.model.name} {self.model.revision}".strip(), flags=self._flags(source, one, searched=searched),
        )  # fmt: skip

    def _flags(self, source: Source, one: _PromptReadings, *, searched: bool) -> tuple[str, ...]:
        found = {
            "few_prompts": len(self.prompts) < 3,
            "few_nulls": self.options.nulls < 19,
            "no_text": TEXT_CONTROL not in one.totals,
            "text_cut": one.text_cut,
            "no_strength_beats_controls": not searched,
        }
        return (*source.flags, *(name for name, holds in found.items() if holds))

    def _text(self, ids: Answer) -> str:
        return str(self.model.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def row_ids(self, source: Source) -> list[str]:
        """Ids of the rows that `interpret` gives for a source, known beforehand."""
        return [self._row_id(self._runner(self._mode([source])), source, prompt) for prompt in self.prompts]

    def _row_id(self, runner: Runner, source: Source, prompt: PlaceholderPrompt) -> str:
        told = (self.model.name, self.model.revision, source.key, source.text, prompt.template, prompt.n_placeholders,
                replace(runner.settings, batch_size=0), self.options.strength, self.options.prompts)  # fmt: skip
        return hashlib.sha256(repr(told).encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class _PromptReadings:
    """One source with one prompt: its reading, its totals against each control, what was said under each."""

    prompt: PlaceholderPrompt
    reading: Reading
    totals: dict[str, float]
    said: dict[str, Answer]
    text_cut: bool


def _read(
    runner: Runner, prompt: PlaceholderPrompt, sources: Sequence[Source], cases: Sequence[Case]
) -> list[_PromptReadings]:
    readings = read_cases(runner, prompt, cases)
    said = control_answers(runner, prompt, cases)
    texts = text_readings(runner, prompt, sources, readings)
    found = []
    for reading, answers, text in zip(readings, said, texts, strict=True):
        totals = _totals(reading)
        if text is not None:
            totals[TEXT_CONTROL] = total(reading.p, text[1])
            answers[TEXT_CONTROL] = text[0]
        found.append(_PromptReadings(prompt, reading, totals, answers, text is not None and text[2]))
    return found


def _totals(reading: Reading) -> dict[str, float]:
    return {name: total(reading.p, q) for name, q in reading.q.items()}


def _test(readings: Sequence[_PromptReadings], nulls: Sequence[float], seed: int) -> SourceTest:
    texts = [one.totals[TEXT_CONTROL] for one in readings if TEXT_CONTROL in one.totals]
    return judged_source([margin(one.totals) for one in readings], texts or None, nulls, seed)


def interpret_sources(
    interpreter: Interpreter,
    sources: Sequence[Source],
    reference: Sequence[str] = REFERENCE_TEXTS,
    progress: Progress | None = None,
) -> SelfieTable:
    """Readings of sources of any sites, grouped by site; each site's controls come from the reference texts."""
    rows: dict[str, list[SelfieRow]] = {}
    for site in dict.fromkeys(source.site for source in sources):
        own = [source for source in sources if source.site == site]
        pool = read_pool(interpreter.model, _pool_site(interpreter, site), reference)
        for row in interpreter.interpret(own, pool, progress):
            rows.setdefault(f"{row.source_id}|{row.site}|{row.pos}", []).append(row)
    ordered = [row for source in sources for row in rows[source.key]]
    return SelfieTable(tuple(ordered), "SelfIE", (_cost_note(interpreter),))


def _pool_site(interpreter: Interpreter, site: str) -> Site:
    if site != "direction":
        return Site.parse(site)
    return Site("resid_pre", min(1, interpreter.model.n_layers - 1))


def _cost_note(interpreter: Interpreter) -> str:
    return f"cost: {interpreter.tokens_fed:,} tokens through the model, controls and nulls included"


def interpret_text(
    model: LanguageModel,
    text: str,
    options: SelfieOptions | None = None,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
) -> SelfieTable:
    """Readings of a text's residual stream, layers (0, 1, every fifth, the last two) by tokens (all but BOS)."""
    interpreter = Interpreter(model, options or SelfieOptions())
    plan = ReadPlan(None if layers is None else tuple(layers), None if positions is None else tuple(positions))
    return interpret_sources(interpreter, text_sources(model, SourceText(text), plan))


def interpret_directions(
    model: LanguageModel, directions: Mapping[str, Float[Tensor, " d_model"]], options: SelfieOptions | None = None
) -> SelfieTable:
    """Readings of directions with no text behind them; the strength is searched for unless the options name a mode.

    There is no `text_only` control (flag `no_text`); mean and shuffled vectors are those of the stream at block 1.
    """
    chosen = options or SelfieOptions(strength="search")
    sources = [Source(name, vector, "direction", -1) for name, vector in directions.items()]
    return interpret_sources(Interpreter(model, chosen), sources)
