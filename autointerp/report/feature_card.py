"""The terminal card of one neuron or latent: what `describe-feature` prints."""

from __future__ import annotations

import math

from autointerp.display import tokens_text
from autointerp.feature_records import FeatureExample, FeatureReport
from autointerp.report.card import claims, controls, failures, interval, line, numbers, short, title
from autointerp.report.timeline import timeline_lines
from autointerp.tokentext import visible


def feature_card_text(report: FeatureReport) -> str:
    """The card of one unit, at most 96 columns wide where words allow."""
    parts = [title(report), claims(report), _said_tokens(report), numbers(report), controls(report)]
    parts.append("\n".join(line(name, text) for name, text in timeline_lines(report.transcript)))
    parts += [_stats(report), _rules(report), _readout(report), _examples(report), failures(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _said_tokens(report: FeatureReport) -> str:
    said = report.description
    named = [] if said is None else [("raises", said.raises), ("lowers", said.lowers)]
    return "\n".join(line(name, " ".join(visible(t) for t in tokens)) for name, tokens in named if tokens)


def _stats(report: FeatureReport) -> str:
    stats = report.evidence.stats
    state = {"ok": "", "dead": "; DEAD: never above 0", "dense": "; DENSE: active in more than half of the positions"}
    named = [("active in", stats.active_share), ("loss rise", report.ablation_loss), ("KL", report.ablation_kl)]
    text = "; ".join(f"{name} {interval(value)}" for name, value in named if math.isfinite(value.value))
    lines = [line("statistics", f"above 0 in {short(stats.density)} of positions; {text}; "
                  f"largest {short(stats.maximum)}, reference {short(stats.reference)}; {stats.n_rows:,} rows of "
                  f"{stats.n_docs:,} documents{state[stats.state]}")]  # fmt: skip
    most = stats.top_tokens[:8]
    lines.append(line("tokens", tokens_text([t.token for t in most], [t.part for t in most]) if most else ""))
    return "\n".join(part for part in lines if part)


def _rules(report: FeatureReport) -> str:
    firing = [rule for rule in report.evidence.rules if rule.fires]
    text = "; ".join(f"{rule.name} F1 {short(rule.f1)} ({rule.predicate[:120]})" for rule in firing)
    return line("rules", text or "none fires")


def _readout(report: FeatureReport) -> str:
    found = report.evidence.readout
    if found is None:
        return ""
    lists = [("promotes", found.up[:8]), ("suppresses", found.down[:8])]
    lines = [line(name, tokens_text([t.token for t in v], [t.value for t in v])) for name, v in lists if v]
    lines.append(line("at random", f"a random direction of its norm reaches {short(found.random_max)}"))
    return "\n".join(lines)


def _examples(report: FeatureReport) -> str:
    chosen = [e for e in report.evidence.examples if e.stratum == "top"][:3]
    return "\n".join(_example(example) for example in chosen)


def _example(example: FeatureExample) -> str:
    before = "".join(visible(token) for token in example.tokens[max(0, example.dst - 14) : example.dst])
    after = "".join(visible(token) for token in example.tokens[example.dst + 1 : example.dst + 4])
    return f"example:      {before}[[{visible(example.tokens[example.dst])}]]{after}   {short(example.activation)}"
