"""Tables, `bench.json` and the last line of `bench agent`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autointerp.chat.rules import RULES_NAME
from autointerp.pipeline.bench_agent import TRAPS, AgentUnit, difference, share
from autointerp.pipeline.bench_agent_features import FEATURE_TRAPS
from autointerp.pipeline.bench_report import BenchResult, Json
from autointerp.records import Interval
from autointerp.report.bench import BenchTable, Row

PLUMBING = "A model of fixed rules played the agent: this proves the plumbing, and nothing about the worth of the loop."


@dataclass(frozen=True)
class AgentBench:
    """What a comparison is about: the noun of its units, what counts as right, the traps, more for its last line."""

    noun: str
    right: str
    traps: tuple[str, ...]
    more: Mapping[str, str] = field(default_factory=dict)


HEADS = AgentBench("head", "all planted labels, no other, and the right verdict", TRAPS)
NEURONS = AgentBench(
    "neuron", "a true label, a rule that finds where it is active, and the right verdict", FEATURE_TRAPS,
    {"units": "features"},
)  # fmt: skip


def agent_result(units: Sequence[AgentUnit], llm: str, agent: str, bench: AgentBench = HEADS) -> BenchResult:
    """The tables of `bench agent`."""
    gain, without = difference(units), difference(units, "shuffled")
    tokens = {variant: sum(u.tokens[variant] for u in units) for variant in ("one_shot", "loop", "shuffled")}
    line: Json = {
        "one_shot": share(units, "one_shot"),
        "loop": share(units, "loop"),
        "difference_low": gain.low,
        "difference_high": gain.high,
        "tokens_one_shot": tokens["one_shot"],
        "tokens_loop": tokens["loop"],
        "plumbing_only": llm == RULES_NAME,
        **bench.more,
    }
    seeds = sorted({u.seed for u in units})
    nouns = f"{bench.noun}s"
    full: Json = {
        "llm": llm,
        "agent": agent,
        "seeds": seeds,
        f"n_{nouns}": len(units),
        "n_looped": sum(u.looped for u in units),
        "difference": gain.value,
        "shuffled": share(units, "shuffled"),
        "shuffled_difference": [without.value, without.low, without.high],
        "tokens_shuffled": tokens["shuffled"],
        "by_trap": {name: _numbers(inside) for name, inside in _groups(units, bench)},
        nouns: [_unit_json(u, bench) for u in units],
    }
    names = ", ".join(map(str, seeds))
    lede = f"{len(units)} {nouns} of planted models (seeds {names}), language model: {llm}, --agent {agent}"
    note = f"Right: {bench.right}. Difference to one shot with its paired 95 % interval, seeds drawn and {nouns} "
    note += f"within each. {PLUMBING if llm == RULES_NAME else ''}"
    tables = (_summary(units, tokens, note.strip(), nouns), _traps(units, bench), _each(units, bench))
    return BenchResult("One shot against the loop", lede, line, full, tables)


def _groups(units: Sequence[AgentUnit], bench: AgentBench) -> list[tuple[str, list[AgentUnit]]]:
    found = [(name, [u for u in units if u.trap == name]) for name in bench.traps]
    return [(name, inside) for name, inside in [*found, ("no trap", [u for u in units if not u.trap])] if inside]


def _numbers(units: Sequence[AgentUnit]) -> dict[str, int]:
    right = {variant: sum(u.right[variant] for u in units) for variant in ("one_shot", "loop", "shuffled")}
    return {"n": len(units), "looped": sum(u.looped for u in units), **right}


def _summary(units: Sequence[AgentUnit], tokens: dict[str, int], note: str, nouns: str) -> BenchTable:
    gain, without = difference(units), difference(units, "shuffled")
    rows: tuple[Row, ...] = (
        ("one shot, best of as many as the loop costs", share(units, "one_shot"), "", tokens["one_shot"]),
        ("loop", share(units, "loop"), _signed(gain), tokens["loop"]),
        (f"loop, answers exchanged between {nouns}", share(units, "shuffled"), _signed(without), tokens["shuffled"]),
    )
    return BenchTable("Summary", note, ("run", f"{nouns} right", "difference", "tokens"), rows)


def _signed(interval: Interval) -> str:
    return f"{interval.value:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"


def _traps(units: Sequence[AgentUnit], bench: AgentBench) -> BenchTable:
    rows: tuple[Row, ...] = tuple((name, *_numbers(inside).values()) for name, inside in _groups(units, bench))
    columns = ("trap", f"{bench.noun}s", "got rounds", "one shot right", "loop right", "exchanged right")
    return BenchTable("By trap", "Where the first hypothesis of the rule-based model is wrong.", columns, rows)


def _each(units: Sequence[AgentUnit], bench: AgentBench) -> BenchTable:
    ordered = sorted(units, key=lambda u: (u.right["loop"] == u.right["one_shot"], u.right["loop"], u.seed, u.unit))
    rows = tuple(
        (u.seed, str(u.unit), u.kind, _said(u, "one_shot"), _said(u, "loop"), _said(u, "shuffled"), u.tokens["loop"],
         u.stop)
        for u in ordered
    )  # fmt: skip
    columns = ("seed", bench.noun, "planted", "one shot", "loop", "exchanged", "tokens of the loop", "stopped because")
    many = f"{bench.noun}s".capitalize()
    return BenchTable(many, f"{many} on which the two differ first.", columns, rows)


def _said(unit: AgentUnit, variant: str) -> str:
    said = unit.said[variant]
    mark = "right" if unit.right[variant] else "wrong"
    return f"{mark}: {', '.join(said.said) or said.status}, {said.verdict}"


def _unit_json(unit: AgentUnit, bench: AgentBench) -> Json:
    return {
        "seed": unit.seed, bench.noun: str(unit.unit), "kind": unit.kind, "trap": unit.trap, "looped": unit.looped,
        "right": dict(unit.right), "tokens": dict(unit.tokens), "stop": unit.stop,
        "said": {name: {"labels": one.said, "predicate": one.predicate, "verdict": one.verdict, "reason": one.reason}
                 for name, one in unit.said.items()},
    }  # fmt: skip
