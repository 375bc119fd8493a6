"""Evaluates task vectors on mentions of seen and of unseen entities, with every control and baseline beside them.

1. The lens: greedy generation from each test vector at each layer.
2. Controls, same prompt and task vector: nothing put in, zero, random of the same norm, the layer's mean, the vector
   of another item with another entity. The embedding is the lens' own row at layer -1.
3. Baselines without a task vector: an in-context prompt of training mentions, and the logit lens' top token.
4. Exact match, partial match, chrF by layer, with intervals over documents; margins over the best control.

Optionally the matrix: the task vector of each layer on the vectors of each other.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from autointerp.lenses.entity_bench import Evaluation
from autointerp.lenses.entity_checkpoint import EntityVectors
from autointerp.lenses.entity_frame import stripped
from autointerp.lenses.entity_items import MentionItem, Parts
from autointerp.lenses.entity_reader import CONTROLS, Control, EntityReader, logit_lens
from autointerp.lenses.entity_run import Prefix, PromptRunner
from autointerp.lenses.entity_scores import EvalRow, Judge, subsets
from autointerp.lenses.entity_steps import with_stop
from autointerp.lenses.entity_vectors import Progress, ReadPlan, Sources, check_layers, read_sources, silent

LENS, ICL, LOGIT = "lens", "in_context_prompt", "logit_lens"
FACTS = ("model", "revision", "layers", "context", "method", "data", "dev_match", "dev_em", "rates", "seconds")
N_EXAMPLES = 3
N_MATRIX = 200


@dataclass(frozen=True)
class EvalPlan:
    """`layers` None: all that are trained; `max_test` mentions of each part, chosen by hash."""

    layers: tuple[int, ...] | None = None
    use_filter: bool | None = None
    matrix: bool = False
    max_test: int = 600
    seed: int = 0


def evaluate_vectors(
    runner: PromptRunner, vectors: EntityVectors, parts: Parts, plan: EvalPlan, progress: Progress = silent
) -> Evaluation:
    """All rows of the evaluation. Raises BadInput for a layer without a vector."""
    layers = vectors.layers if plan.layers is None else check_layers(runner.model, plan.layers)
    for layer in layers:
        vectors.place(layer)
    reader = EntityReader(runner, vectors, plan.use_filter)
    read = ReadPlan(layers, vectors.method, vectors.context)
    rows: list[EvalRow] = []
    matrix: dict[str, list[list[float]]] = {}
    for part in ("seen", "unseen"):
        items = _sample(getattr(parts, part), plan.max_test)
        if not items:
            continue
        sources = read_sources(runner.model, runner.frame, items, read, progress)
        bench = _Bench(reader, sources, parts.train, part, plan.seed)
        for n, layer in enumerate(layers):
            progress(f"evaluating {part} entities", n, len(layers))
            rows += bench.layer(n, layer)
        progress(f"evaluating {part} entities", len(layers), len(layers))
        if plan.matrix:
            matrix[part] = bench.matrix(layers, progress)
    facts = {name: vectors.facts[name] for name in FACTS}
    return Evaluation(tuple(rows), layers, facts, reader.filtered, matrix)


def _sample(items: Sequence[MentionItem], n: int) -> list[MentionItem]:
    def key(item: MentionItem) -> bytes:
        return hashlib.sha256(
            f"{item.doc_id}:{item.char_start}:{item.mention}".encode("utf-8", "surrogatepass")
        ).digest()

    return sorted(items, key=key)[:n]


class _Bench:
    """One part of the test items."""

    def __init__(
        self, reader: EntityReader, sources: Sources, train: Sequence[MentionItem], part: str, seed: int
    ) -> None:
        self.reader, self.sources, self.part = reader, sources, part
        runner = reader.runner
        self.judge = Judge(
            tuple(i.mention.strip() for i in sources.items), tuple(i.doc_id for i in sources.items), seed
        )
        often = Counter(item.entity_id for item in train)
        self.subsets = subsets([len(t) for t in sources.targets], [often[i.entity_id] for i in sources.items])
        self.max_tokens = max(len(target) for target in sources.targets) + 1
        self.shared = reader.vectors.context == "none"
        contexts = sources.contexts[:1] if self.shared else sources.contexts
        self.prefix: Prefix = runner.prefix(contexts)
        self.of = torch.zeros(len(sources), dtype=torch.long) if self.shared else torch.arange(len(sources))
        self.examples = _examples(runner, train)

    def layer(self, n: int, layer: int) -> list[EvalRow]:
        """Rows of one layer: the lens in all subsets, everything else on all items and on those of several tokens."""
        said = self._said(n, layer)
        rows: list[EvalRow] = []
        for condition, texts in said.items():
            for name, chosen in self.subsets.items():
                if condition == LENS or name in ("all", "several tokens"):
                    rows.append(self.judge.row((self.part, layer, condition, name), texts, chosen))
        best = max(CONTROLS, key=lambda control: float(self.judge.pairs(said[control])["em"].mean()))
        margin = self.judge.margin(said[LENS], said[best])
        token, first = self._teacher_forced(n, layer)
        rows[0] = replace(
            rows[0], token_acc=token, first_token_acc=first, margin=margin.value, margin_low=margin.low,
            margin_high=margin.high, best_control=best,
        )  # fmt: skip
        return rows

    def _said(self, n: int, layer: int) -> dict[str, list[str]]:
        h = self.sources.h[:, n]
        place = torch.full((len(h),), self.reader.vectors.place(layer))
        contexts = (self.prefix, self.of)
        ours = self.reader.read(h, place, place, contexts, self.max_tokens)
        said = {LENS: [self.reader.text(one) for one in ours]}
        for control in CONTROLS:
            said[control] = self._control(control, h, place)
        said[ICL] = self._in_context(h)
        said[LOGIT] = [top[0][0].strip() for top in logit_lens(self.reader.runner, h, 1)]
        return said

    def _control(self, name: Control, h: Tensor, place: Tensor) -> list[str]:
        if self.shared and name in ("no_insertion", "zero", "mean"):  # the same for all items: run it once
            one = self.reader.read_control(
                name, h[:1], place[:1], place[:1], (self.prefix, self.of[:1]), self.max_tokens
            )
            return [self.reader.text(one[0])] * len(h)
        found = self.reader.read_control(
            name, h, place, place, (self.prefix, self.of), self.max_tokens, h[self._others()]
        )
        return [self.reader.text(one) for one in found]

    def _others(self) -> list[int]:
        """For each item, the next one that names another entity (itself where all name the same)."""
        names = [item.entity_id for item in self.sources.items]
        n = len(names)
        return [next((j % n for j in range(i + 1, i + n) if names[j % n] != names[i]), i) for i in range(n)]

    def _in_context(self, h: Tensor) -> list[str]:
        context, tail, stops = self.examples
        runner = self.reader.runner
        prefix = runner.prefix([context])
        rows = runner.rows(prefix, [0] * len(h), h[:, None], tail)
        return [stripped(runner.model, list(one.ids)) for one in runner.generate(rows, self.max_tokens, stops)]

    def _teacher_forced(self, n: int, layer: int) -> tuple[float, float]:
        """Share of right tokens, and of right first tokens, given the true ones before them; padding left out."""
        runner, place = self.reader.runner, self.reader.vectors.place(layer)
        here = torch.full((len(self.sources),), place)
        soft = self.reader.soft(self.sources.h[:, n], here, here)
        targets = with_stop(runner.frame, self.sources)
        hits: list[Tensor] = []
        firsts: list[Tensor] = []
        with torch.no_grad():
            for start in range(0, len(targets), 128):
                part = slice(start, start + 128)
                rows = runner.rows(self.prefix, self.of[part], soft[part], np.array(runner.frame.slots))
                scored = runner.score(rows, targets[part])
                hits.append(scored.hit)
                firsts.append(scored.hit[scored.first])
        return float(torch.cat(hits).float().mean()), float(torch.cat(firsts).float().mean())

    def matrix(self, layers: tuple[int, ...], progress: Progress) -> list[list[float]]:
        """Exact match of the task vector of layer `layers[a]` on the vectors of `layers[b]`, `[a][b]`."""
        n, found = min(N_MATRIX, len(self.sources)), []
        places = torch.tensor([self.reader.vectors.place(layer) for layer in layers])
        source = places.repeat_interleave(n)
        h = self.sources.h[:n].transpose(0, 1).flatten(0, 1)
        of = self.of[:n].repeat(len(layers))
        for a, place in enumerate(places.tolist()):
            progress(f"matrix of {self.part} entities", a, len(layers))
            said = self.reader.read(h, source, torch.full_like(source, place), (self.prefix, of), self.max_tokens)
            right = [self.reader.text(one) == self.judge.true[i % n] for i, one in enumerate(said)]
            found.append([float(v) for v in np.array(right, dtype=float).reshape(len(layers), n).mean(1)])
        return found


def _examples(runner: PromptRunner, train: Sequence[MentionItem]) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """The in-context prompt `e1>e1;e2>e2;e3>e3;`, what follows the vector, and the ids that end an answer."""
    model = runner.model
    names = list(dict.fromkeys(item.mention for item in train))[:N_EXAMPLES]
    context = runner.frame.text(model, "".join(f"{name}>{name};" for name in names))
    tail = np.concatenate([[runner.frame.slots[0]], model.encode(">")[0]]).astype(np.int64)
    return context, tail, tuple(i for i, text in enumerate(model.strings) if ";" in text)
