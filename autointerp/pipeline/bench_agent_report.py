"""Tables, `bench.json` and the last line of `bench agent`."""

from __future__ import annotations

from collections.abc import Sequence

from autointerp.chat.rules import RULES_NAME
from autointerp.pipeline.bench_agent import TRAPS, AgentHead, difference, share
from autointerp.pipeline.bench_report import BenchResult, Json
from autointerp.records import Interval
from autointerp.report.bench import BenchTable, Row

PLUMBING = "A model of fixed rules played the agent: this proves the plumbing, and nothing about the worth of the loop."


def agent_result(heads: Sequence[AgentHead], llm: str, agent: str) -> BenchResult:
    """The tables of `bench agent`."""
    gain, without = difference(heads), difference(heads, "shuffled")
    tokens = {variant: sum(h.tokens[variant] for h in heads) for variant in ("one_shot", "loop", "shuffled")}
    line: Json = {
        "one_shot": share(heads, "one_shot"),
        "loop": share(heads, "loop"),
        "difference_low": gain.low,
        "difference_high": gain.high,
        "tokens_one_shot": tokens["one_shot"],
        "tokens_loop": tokens["loop"],
        "plumbing_only": llm == RULES_NAME,
    }
    seeds = sorted({h.seed for h in heads})
    full: Json = {
        "llm": llm,
        "agent": agent,
        "seeds": seeds,
        "n_heads": len(heads),
        "n_looped": sum(h.looped for h in heads),
        "difference": gain.value,
        "shuffled": share(heads, "shuffled"),
        "shuffled_difference": [without.value, without.low, without.high],
        "tokens_shuffled": tokens["shuffled"],
        "by_trap": {name: _numbers(inside) for name, inside in _groups(heads)},
        "heads": [_head_json(h) for h in heads],
    }
    names = ", ".join(map(str, seeds))
    lede = f"{len(heads)} heads of planted models (seeds {names}), language model: {llm}, --agent {agent}"
    tables = (_summary(heads, gain, without, tokens, llm), _traps(heads), _heads(heads))
    return BenchResult("One shot against the loop", lede, line, full, tables)


def _groups(heads: Sequence[AgentHead]) -> list[tuple[str, list[AgentHead]]]:
    found = [(name, [h for h in heads if h.trap == name]) for name in TRAPS]
    return [(name, inside) for name, inside in [*found, ("no trap", [h for h in heads if not h.trap])] if inside]


def _numbers(heads: Sequence[AgentHead]) -> dict[str, int]:
    right = {variant: sum(h.right[variant] for h in heads) for variant in ("one_shot", "loop", "shuffled")}
    return {"n": len(heads), "looped": sum(h.looped for h in heads), **right}


def _summary(
    heads: Sequence[AgentHead], gain: Interval, without: Interval, tokens: dict[str, int], llm: str
) -> BenchTable:
    rows: tuple[Row, ...] = (
        ("one shot, best of as many as the loop costs", share(heads, "one_shot"), "", tokens["one_shot"]),
        ("loop", share(heads, "loop"), _signed(gain), tokens["loop"]),
        ("loop, answers exchanged between heads", share(heads, "shuffled"), _signed(without), tokens["shuffled"]),
    )
    note = "Right: all planted labels, no other, and the right verdict. Difference to one shot with its paired 95 % "
    note += f"interval, seeds drawn and heads within each. {PLUMBING if llm == RULES_NAME else ''}".strip()
    return BenchTable("Summary", note, ("run", "heads right", "difference", "tokens"), rows)


def _signed(interval: Interval) -> str:
    return f"{interval.value:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"


def _traps(heads: Sequence[AgentHead]) -> BenchTable:
    rows: tuple[Row, ...] = tuple((name, *_numbers(inside).values()) for name, inside in _groups(heads))
    columns = ("trap", "heads", "got rounds", "one shot right", "loop right", "exchanged right")
    return BenchTable("By trap", "Where the first hypothesis of the rule-based model is wrong.", columns, rows)


def _heads(heads: Sequence[AgentHead]) -> BenchTable:
    ordered = sorted(heads, key=lambda h: (h.right["loop"] == h.right["one_shot"], h.right["loop"], h.seed, h.head))
    rows = tuple(
        (h.seed, str(h.head), h.kind, _said(h, "one_shot"), _said(h, "loop"), _said(h, "shuffled"), h.tokens["loop"],
         h.stop)
        for h in ordered
    )  # fmt: skip
    columns = ("seed", "head", "planted", "one shot", "loop", "exchanged", "tokens of the loop", "stopped because")
    return BenchTable("Heads", "Heads on which the two differ first.", columns, rows)


def _said(head: AgentHead, variant: str) -> str:
    said = head.said[variant]
    mark = "right" if head.right[variant] else "wrong"
    return f"{mark}: {', '.join(said.said) or said.status}, {said.verdict}"


def _head_json(head: AgentHead) -> Json:
    return {
        "seed": head.seed, "head": str(head.head), "kind": head.kind, "trap": head.trap, "looped": head.looped,
        "right": dict(head.right), "tokens": dict(head.tokens), "stop": head.stop,
        "said": {name: {"labels": one.said, "predicate": one.predicate, "verdict": one.verdict, "reason": one.reason}
                 for name, one in head.said.items()},
    }  # fmt: skip
