"""The terminal card of one head: what `describe-head` prints. Plain text, control characters spelt out."""

from __future__ import annotations

import math
import textwrap

from autointerp.display import tokens_text
from autointerp.records import Example, HeadReport, Interval, Score
from autointerp.report.judged import score_lines
from autointerp.report.nouns import Report, unit_of
from autointerp.report.summary import headline, margin_group
from autointerp.report.timeline import timeline_lines
from autointerp.tokentext import printable, visible

WIDTH = 96
_INDENT = 14


def card_text(report: HeadReport) -> str:
    """The card of one head, at most 96 columns wide where words allow."""
    parts = [
        title(report),
        claims(report),
        numbers(report),
        controls(report),
        "\n".join(line(name, text) for name, text in timeline_lines(report.transcript)),
        _stats(report),
        _detectors(report),
    ]
    parts += [_examples(report), failures(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def title(report: Report) -> str:
    """Unit, label, status and verdict, with its reason."""
    judged = report.judgement
    label = report.description.label if report.description is not None else "no description"
    first = f"{unit_of(report)}   {label}   {report.status}   {judged.verdict.upper()}\n"
    return first + line("verdict", judged.reason)


def line(name: str, text: str) -> str:
    """A named line, wrapped and flat; nothing where there is no text."""
    flat = " ".join(printable(text).split())
    if not flat:
        return ""
    return textwrap.fill(
        flat, WIDTH, initial_indent=f"{name + ':':<{_INDENT - 1}} ", subsequent_indent=" " * _INDENT,
        break_on_hyphens=False,
    )  # fmt: skip


def claims(report: Report) -> str:
    """What the description says."""
    said = report.description
    if said is None:
        return ""
    where, what = ("looks at", "writes") if isinstance(report, HeadReport) else ("active on", "does")
    domain = "" if said.domain == "text" else f"  (a claim about {said.domain})"
    lines = [
        line("summary", said.summary),
        line(where, said.looks_at),
        line(what, said.writes),
        line("predicate", said.predicate + domain if said.predicate else ""),
        line("conditions", said.conditions),
        line("but not", said.counterexamples),
        line("labels", ", ".join(said.labels)),
        line("confidence", f"{short(said.confidence)} (stated by the explainer)"),
    ]
    return "\n".join(line for line in lines if line)


def numbers(report: Report) -> str:
    """The score, what it covers, its margin, and the other scores."""
    judged, score = report.judgement, headline(report)
    lines = []
    if judged.score is not None:
        on = f"{judged.metric} on held-out {judged.domain}"
        lines.append(
            f"score:        {short(judged.score)} "
            f"[{short(judged.score_low)}, {short(judged.score_high)}]  {on}, "
            f"chance {short(judged.chance)}, {judged.n_items:,} items of {judged.n_docs:,} documents"
        )
    if judged.coverage is not None and math.isfinite(judged.coverage):
        mass = "contribution" if isinstance(report, HeadReport) else "activation"
        lines.append(f"coverage:     {judged.coverage:.0%} of the {mass}, unexplained {1 - judged.coverage:.0%}")
    lines.append(_margin(report))
    if score is not None and score.state:
        lines.append(line("state", score.state))
    lines += [f"              {_score_line(item)}" for item in report.scores if item is not score]
    lines += [line(name, text) for item in report.scores for name, text in score_lines(item)]
    lines += [line("unscored", f"{item.scorer}: {item.reason}") for item in report.unscored]
    return "\n".join(line for line in lines if line)


def _margin(report: Report) -> str:
    judged, group = report.judgement, margin_group(report)
    if group == "equals a rule":
        return f"margin:       none over rivals: = {_rule(report)}"
    if group == "rests on the first token":
        return "margin:       not counted: rests on the first token"
    if judged.margin is None:
        return ""
    interval = f"[{short(judged.margin_low)}, {short(judged.margin_high)}]"
    return f"margin:       {judged.margin:+.3g} {interval} against {printable(judged.compared_with)}"


def _rule(report: Report) -> str:
    score = headline(report)
    return ", ".join(printable(c.name) for c in (score.controls if score else ()) if c.same_rule)


def _score_line(score: Score) -> str:
    return (
        f"{score.scorer} {score.metric} on {score.domain}: {short(score.value)} "
        f"[{short(score.low)}, {short(score.high)}], chance {short(score.chance)}"
    )


def controls(report: Report) -> str:
    """The score beside each control."""
    score = headline(report)
    if score is None or not score.controls:
        return ""
    lines = [f"{'controls':<34}{'kind':<8}{'value':>8}  {'score minus it':<26}beaten"]
    for c in score.controls:
        difference = "the same rule" if c.same_rule else f"{short(c.difference)} [{short(c.low)}, {short(c.high)}]"
        beaten = "= this rule" if c.same_rule else ("yes" if c.beaten else "no")
        lines.append(f"  {printable(c.name)[:31]:<32}{c.kind:<8}{short(c.value):>8}  {difference:<26}{beaten}")
    return "\n".join(lines)


def _stats(report: HeadReport) -> str:
    stats = report.evidence.stats
    named = [
        ("sink", stats.sink_mass), ("self", stats.self_mass), ("previous", stats.prev_mass),
        ("entropy", stats.entropy),
        ("distance", stats.mean_distance), ("loss rise", report.ablation_loss), ("KL", report.ablation_kl),
    ]  # fmt: skip
    text = "; ".join(f"{name} {interval(value)}" for name, value in named if math.isfinite(value.value))
    return line("statistics", f"{text}; {stats.n_rows:,} rows of {stats.n_docs:,} documents")


def _detectors(report: HeadReport) -> str:
    firing = [r for r in report.evidence.readings if r.fires]
    text = "; ".join(
        f"{r.name} on {r.data} {short(r.value)} (percentile {r.percentile:.0f}, {r.lift_over_uniform:.3g} x uniform)"
        for r in firing
    )
    return line("detectors", text or "none fires")


def _examples(report: HeadReport) -> str:
    chosen = [e for e in report.evidence.examples if e.stratum == "top"][:3]
    return "\n".join(_example(example) for example in chosen)


def _example(example: Example) -> str:
    before = "".join(visible(token) for token in example.tokens[max(0, example.dst - 14) : example.dst])
    after = "".join(visible(token) for token in example.tokens[example.dst + 1 : example.dst + 4])
    shares = [source.contribution_share for source in example.sources]
    looked = tokens_text([source.token for source in example.sources], shares)
    return f"example:      {before}[[{visible(example.dst_token)}]]{after}\n              {looked}"


def failures(report: Report) -> str:
    """The steps that failed."""
    return "\n".join(line("FAILED", f"{item.stage}: {item.reason}") for item in report.failures)


def interval(interval: Interval) -> str:
    """A number with its interval."""
    return f"{short(interval.value)} [{short(interval.low)}, {short(interval.high)}]"


def short(value: float | None) -> str:
    """Three digits."""
    return "\u2013" if value is None or not math.isfinite(value) else f"{value:.3g}"
