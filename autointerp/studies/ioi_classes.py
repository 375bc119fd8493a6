"""Classes of heads by the definitions of arXiv 2211.00593, found by what heads do in this model, never by name.

A head belongs to a class where its path matters (`TraceSpec.least`, false discovery rate 5 %) and, where the definition
names what it looks at, its mean attention there is at least `TraceSpec.attended` and above that to each alternative
(over prompts, both by the lower end of the 95 % interval).

| class | its path | it looks |
|---|---|---|
| name_mover | to the logits at END, helps | from END at IO rather than S1, S2 |
| negative_mover | to the logits at END, hurts | from END at IO rather than S1, S2 |
| other_writer | to the logits at END, either way | elsewhere (no class of the paper) |
| backup_mover | its direct attribution rises, beyond the norm's part, once the movers are out | anywhere |
| s_inhibition | to the queries of the movers at END, helps | from END at S2 rather than IO, S1 |
| duplicate_token | to the keys or values of the S-inhibition heads at S2, helps | from S2 at S1 rather than IO, S1+1 |
| induction | the same | from S2 at S1+1 rather than IO, S1 |
| previous_token | to the keys of the induction heads at S1+1, helps | from S1+1 at S1 rather than S1-1 or itself |

Where a model has no movers, other writers that help take their place as receivers; where it has no S-inhibition heads,
writers that look at S2 do: a model may do the task without these classes. `Classes.notes` says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from autointerp.circuit_records import CircuitHead
from autointerp.circuits.ablation import Ablation, CircuitNode
from autointerp.circuits.backup import Backup, backup_heads
from autointerp.circuits.prompts import ContrastSet
from autointerp.model import LanguageModel
from autointerp.records import Head, Interval
from autointerp.stats.bootstrap import Resamples, interval
from autointerp.studies.ioi_trace import Stage, TraceSpec, find_senders, prompt_attention

CLASSES = (
    "name_mover", "negative_mover", "backup_mover", "s_inhibition", "induction", "duplicate_token", "previous_token",
    "other_writer",
)  # fmt: skip


@dataclass(frozen=True)
class Look:
    """From where, at what, rather than at which others (those that the prompts have)."""

    dst: str
    src: str
    others: tuple[str, ...]


LOOKS: dict[str, Look] = {
    "mover": Look("END", "IO", ("S1", "S2")),
    "s_inhibition": Look("END", "S2", ("IO", "S1")),
    "duplicate_token": Look("S2", "S1", ("IO", "S1+1")),
    "induction": Look("S2", "S1+1", ("IO", "S1")),
    "previous_token": Look("S1+1", "S1", ("S1-1", "S1+1")),
}


@dataclass(frozen=True, eq=False)
class Classes:
    """All heads of classes, strongest first in each; `backup`: attributions once the movers are out."""

    heads: tuple[CircuitHead, ...]
    backup: Backup
    notes: tuple[str, ...] = ()

    def of(self, kind: str) -> tuple[CircuitHead, ...]:
        """The heads of a class; empty where the model has none."""
        return tuple(one for one in self.heads if one.kind == kind)

    @property
    def none_found(self) -> tuple[str, ...]:
        return tuple(kind for kind in CLASSES if not self.of(kind))


class Attentions:
    """Where heads look, by prompt, read once for all looks."""

    def __init__(self, model: LanguageModel, prompts: ContrastSet, seed: int) -> None:
        pairs = [(look.dst, src) for look in LOOKS.values() for src in (look.src, *look.others)]
        there = [pair for pair in dict.fromkeys(pairs) if pair[1] in prompts.roles]
        found = prompt_attention(model, prompts, there)
        self._of: Mapping[tuple[str, str], Float64[np.ndarray, "layer head prompt"]] = dict(
            zip(there, found, strict=True)
        )
        self._resamples = Resamples.of(len(prompts), seed)

    def at(self, head: Head, look: Look) -> Interval:
        """Mean attention at what is looked at."""
        return self._mean(self._of[look.dst, look.src][head.layer, head.index])

    def most(self, head: Head, look: Look) -> str:
        """What is looked at most, of all that the look names."""
        return max((look.src, *look.others), key=lambda src: self.at(head, Look(look.dst, src, ())).value)

    def prefers(self, head: Head, look: Look, least: float) -> bool:
        """At least so much, and more than to each alternative, beyond the interval."""
        own = self._of[look.dst, look.src][head.layer, head.index]
        others = [self._of[look.dst, src][head.layer, head.index] for src in look.others if (look.dst, src) in self._of]
        above = all(self._mean(own - np.nan_to_num(other)).low > 0 for other in others)
        return above and self._mean(own).low >= least

    def _mean(self, values: Float64[np.ndarray, " prompt"]) -> Interval:
        drawn = self._resamples.totals(values) / len(values)
        low, high = interval(drawn)
        return Interval(value=float(values.mean()), low=low, high=high, n=len(values))


def classify(
    model: LanguageModel, prompts: ContrastSet, stages: Sequence[Stage], ablation: Ablation, spec: TraceSpec
) -> Classes:
    """Classes of the heads that are reached from the logits (`stages[0]`). `prompts`: clean beside the reference."""
    finder = _Finder(model, prompts, spec, Attentions(model, prompts, spec.seed), list(stages))
    writers = [*finder.writers("name_mover", stages[0].helping), *finder.writers("negative_mover", stages[0].hurting)]
    movers = [one.head for one in writers if one.kind == "name_mover"]
    notes = []
    if not movers:
        movers = [one.head for one in writers if one.kind == "other_writer" and one.effect.value < 0]
        notes.append("no name mover: other heads that write the answer take their place below")
    inhibiting = finder.senders("s_inhibition", [("q", movers, "END")])
    reading = [one.head for one in inhibiting]
    if not reading:
        look = LOOKS["s_inhibition"]
        reading = [one.head for one in writers if finder.attentions.prefers(one.head, look, spec.attended)]
        if reading:
            notes.append("no S-inhibition head: the writers that look at S2 take their place below")
    into = [("k", reading, "S2"), ("v", reading, "S2")]
    inducing = finder.senders("induction", into)
    previous = finder.senders("previous_token", [("k", [one.head for one in inducing], "S1+1")])
    backup = backup_heads(model, prompts, [CircuitNode(head, "END") for head in movers or stages[0].senders], ablation)
    found = [*writers, *inhibiting, *inducing, *finder.senders("duplicate_token", into), *previous]
    return Classes((*found, *_backups(backup, finder.attentions, spec)), backup, tuple(notes))


@dataclass(frozen=True, eq=False)
class _Finder:
    model: LanguageModel
    prompts: ContrastSet
    spec: TraceSpec
    attentions: Attentions
    known: list[Stage]

    def writers(self, kind: str, heads: Sequence[Head]) -> list[CircuitHead]:
        """Direct senders of one sign, as movers or others."""
        first, look = self.known[0], LOOKS["mover"]
        found = []
        for head in heads:
            own = kind if self.attentions.prefers(head, look, self.spec.attended) else "other_writer"
            src = self.attentions.most(head, look)
            found.append(
                CircuitHead(
                    head=head, kind=own, position="END", evidence="path to the logits at END",
                    effect=first.effect(head), attention=self.attentions.at(head, Look("END", src, ())),
                    looks_at=f"END to {src}",
                )
            )  # fmt: skip
        return found

    def senders(self, kind: str, into: Sequence[tuple[str, Sequence[Head], str]]) -> list[CircuitHead]:
        """Heads that help into any of these inputs and look as the class does; by their strongest path."""
        look = LOOKS[kind]
        best: dict[Head, CircuitHead] = {}
        for input_kind, heads, position in into:
            stage = self._stage(input_kind, heads, position)
            for head in stage.helping if stage else ():
                effect = stage.effect(head) if stage else None
                known = best.get(head)
                if effect is None or (known and abs(known.effect.value) >= abs(effect.value)):
                    continue
                if self.attentions.prefers(head, look, self.spec.attended):
                    of = ", ".join(map(str, stage.receivers)) if stage else ""
                    best[head] = CircuitHead(
                        head=head, kind=kind, position=position, evidence=f"path to {input_kind} of {of} at {position}",
                        effect=effect, attention=self.attentions.at(head, look), looks_at=f"{look.dst} to {look.src}",
                    )  # fmt: skip
        return sorted(best.values(), key=lambda one: one.effect.value)

    def _stage(self, into: str, heads: Sequence[Head], position: str) -> Stage | None:
        """Traced before, or now; None where nothing sends there."""
        inner = tuple(sorted(head for head in heads if head.layer > 0))
        if not inner:
            return None
        for stage in self.known:
            if (stage.into, tuple(sorted(stage.receivers)), stage.position) == (into, inner, position):
                return stage
        self.known.append(find_senders(self.model, self.prompts, self.spec, (into, inner, position)))
        return self.known[-1]


def _backups(backup: Backup, attentions: Attentions, spec: TraceSpec) -> list[CircuitHead]:
    """Heads whose attribution rises beyond what the smaller divisor of the norm gives to all."""
    table, look = backup.change, LOOKS["mover"]
    taken, after, before = str(table.settings["taken_out"]), backup.logit_diff[1], backup.before
    needed = spec.least * abs(backup.logit_diff[0])
    found = []
    for n in table.strongest(len(table.cells)):
        head = Head(layer=table.cells[n].layer, index=table.cells[n].head)
        low, high = float(table.numbers["low"][n]), float(table.numbers["high"][n])
        norm = max(0.0, float(before[head.layer, head.index]) * (backup.scale_ratio - 1))
        if table.flagged[n] and table.mean[n] >= needed and low > norm:
            found.append(
                CircuitHead(
                    head=head, kind="backup_mover", position="END",
                    evidence=f"rise of its direct attribution with {taken} out (logit difference left {after:.3f})",
                    effect=Interval(value=float(table.mean[n]), low=low, high=high, n=int(table.n[n])),
                    attention=attentions.at(head, look), looks_at="END to IO",
                )
            )  # fmt: skip
    return found
