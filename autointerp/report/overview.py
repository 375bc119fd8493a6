"""The run's facts as label-and-text pairs for the summary of the page and of report.md."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from statistics import fmean
from typing import Any

from autointerp.report.command import unit_command
from autointerp.report.folder import CallTotals
from autointerp.report.nouns import HEADS, Nouns
from autointerp.report.summary import Summary
from autointerp.report.words import lens_facts

Facts = list[tuple[str, str]]


@dataclass(frozen=True)
class Overview:
    """What ran: the saved config, the run's totals, counted calls, and the summary over units."""

    config: Mapping[str, Any]
    run: Mapping[str, Any]
    calls: CallTotals | None
    summary: Summary
    nouns: Nouns = HEADS

    @property
    def settings(self) -> Mapping[str, Any]:
        """The RunConfig within config.json, which may hold it under `config` beside versions."""
        inner = self.config.get("config")
        return inner if isinstance(inner, Mapping) else self.config

    @property
    def title(self) -> str:
        """The model, shortened to its name where it is a path."""
        model = str(self.settings.get("model", "") or "unknown model")
        return PurePath(model).name or model

    @property
    def corpora(self) -> list[str]:
        value = self.settings.get("corpus", ())
        return [value] if isinstance(value, str) else [str(item) for item in value]

    @property
    def command(self) -> str:
        """The command of one unit, with `@UNIT@` in its place."""
        command = self.run.get("command")
        words = command if isinstance(command, str) else None
        return unit_command(dict(self.settings), words, "head" if self.nouns is HEADS else "feature")

    @property
    def notes(self) -> list[str]:
        """What a reader must know before trusting the numbers."""
        notes = [str(note) for note in self.run.get("notes") or ()]
        if len(self.corpora) == 1:
            notes.append("One corpus: every score on text comes from one kind of text (scoring rule 20).")
        lost = self.run.get("lost_in_flight") or 0
        if lost:
            notes.append(f"{lost} requests were in flight when the run was killed; their replies are lost.")
        return notes

    def facts(self) -> dict[str, Facts]:
        """Groups of facts: what ran, the text, the instrument, cost; empty groups are left out."""
        groups = {"Model": self._what(), "Text": self._text(), "Cost": self._cost()}
        groups["Lenses"] = lens_facts(self.run)
        groups["Instrument"] = flatten(self.run.get("instrument"))
        groups["Time"] = [(name, f"{value} s") for name, value in flatten(self.run.get("seconds"))]
        return {name: facts for name, facts in groups.items() if facts}

    def _what(self) -> Facts:
        summary = self.summary
        facts: Facts = [("model", str(self.settings.get("model", "unknown")))]
        facts += flatten(self.run.get("model"))
        names = {name for name, _ in facts}
        facts += [(n, str(self.config[n])) for n in ("dtype", "seed", "context") if n in self.config and n not in names]
        explainers = ", ".join(f"{name} ({count})" for name, count in sorted(summary.explainers.items()))
        facts.append(("explainer", explainers or "none"))
        if summary.models:
            facts.append(("explainer's model", ", ".join(sorted(summary.models))))
        return facts

    def _text(self) -> Facts:
        return [("corpus", ", ".join(self.corpora) or "unknown"), *flatten(self.run.get("corpus"))]

    def _cost(self) -> Facts:
        cost = self.run.get("cost_usd")
        facts: Facts = [("cost", "no price known" if cost is None else f"{cost:.4g} USD")]
        if self.calls is not None:
            facts.append(("calls", f"{self.calls.calls} ({self.calls.from_cache} from the cache)"))
            facts.append(("retries", str(self.calls.retries)))
        tokens = flatten(self.run.get("tokens"))
        made = f"{self.summary.tokens_in:,} in, {self.summary.tokens_out:,} out"
        facts += [(f"tokens, {name}", text) for name, text in tokens] if tokens else [("tokens", made)]
        facts.append(("repair calls", str(self.summary.repairs)))
        facts.append(("lost in flight", str(self.run.get("lost_in_flight") or 0)))
        if not self.summary.models and not (self.calls and self.calls.calls):
            return [("cost", "no LLM was called")]
        return facts

    def margins(self) -> Facts:
        """Mean margins over described heads and over all, with who is left out."""
        s = self.summary
        out = f"{s.groups['equals a rule']} equal a {'positional' if self.nouns is HEADS else 'simple'} rule, "
        resting, dead, dense = (s.groups[group] for group in ("rests on the first token", "dead", "dense"))
        out += f"{resting} rest on the first token" if self.nouns is HEADS else f"{dead} are dead, {dense} dense"
        rate, low, high = s.supported_rate()
        alive = "" if self.nouns is HEADS else " that are neither dead nor dense"
        first, first_low, first_high, reciprocal, chance = s.retrieval()
        more: Facts = []
        if s.p_values:
            found, tested = s.discoveries()
            text = f"{found} of {tested} tested {self.nouns.many}"
            more.append(("margins above 0 at 5 % false discovery rate", text))
        if s.ranks:
            text = f"{text_of(first)} [{text_of(first_low)}, {text_of(first_high)}] first, mean reciprocal rank "
            text += f"{text_of(reciprocal)}, chance {text_of(chance)} (n = {len(s.ranks)})"
            more.append((f"a description ranks its own {self.nouns.one}", text))
        if s.words:
            text = f"mean {text_of(fmean(s.words))}, most {max(s.words)} (n = {len(s.words)})"
            more.append(("words of a description", text))
        return [
            (f"mean margin, described {self.nouns.many}", f"{text_of(s.mean_margin_described)} (n = {len(s.margins)})"),
            (f"mean margin, all {self.nouns.many}", f"{text_of(s.mean_margin_all)} (n = {s.n_in_all_mean})"),
            ("left out of both means", out),
            ("supported", f"{text_of(rate)} of all {self.nouns.many}{alive} [{text_of(low)}, {text_of(high)}]"),
            ("mean coverage where scored", f"{text_of(s.mean_coverage)} (n = {len(s.coverages)})"),
            *more,
            *s.judged.facts(self.nouns),
            *self._random_weights(),
        ]

    def _random_weights(self) -> Facts:
        """What the pipeline found where nothing was learned; nothing in runs older than that control."""
        found = self.run.get("random_weights")
        if not isinstance(found, Mapping):
            return []
        name = "on a model of the same shape with random weights"
        if "reason" in found:
            return [(name, f"not measured: {found['reason']}")]
        text = f"{found['margin_above_0']} of {found['n']} {self.nouns.many} got a margin above 0 "
        text += f"[{text_of(found['low'])}, {text_of(found['high'])}]; {found['described']} described, "
        text += f"{found['abstained']} abstained, {found['supported']} supported"
        other = self.run.get("explainer") == "llm" and found.get("explainer") == "detectors"
        return [(name, text + ("; described by the detectors, not by this run's LLM" if other else ""))]


def flatten(value: object, prefix: str = "") -> Facts:
    """A nested mapping as pairs of words and text; lists joined, floats short."""
    if not isinstance(value, Mapping):
        return [] if value is None and not prefix else [(prefix or "value", text_of(value))]
    pairs: Facts = []
    for key, item in value.items():
        name = f"{prefix} {key}".strip().replace("_", " ")
        pairs += flatten(item, name) if isinstance(item, Mapping) else [(name, text_of(item))]
    return pairs


def text_of(value: object) -> str:
    """A value for a reader: 3 significant digits for fractions, thousands separated, lists joined."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "\u2013"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list | tuple):
        return ", ".join(text_of(item) for item in value)
    return str(value)
