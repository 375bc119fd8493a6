"""The result of an evaluation: tables for people, `bench.json`, `bench.csv` and `bench.md` in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from autointerp.lenses.entity_scores import EvalRow
from autointerp.store.files import write_whole
from autointerp.tables import Cell, TokenTable


@dataclass(frozen=True)
class Evaluation:
    """Rows by part, layer, condition and subset; `matrix[part][a][b]` is exact match of layer a's vector at layer b."""

    rows: tuple[EvalRow, ...]
    layers: tuple[int, ...]
    facts: dict[str, Any]
    filtered: bool
    matrix: dict[str, list[list[float]]]

    def find(self, part: str, layer: int, condition: str = "lens", subset: str = "all") -> EvalRow | None:
        """The row, where there is one."""
        key = (part, layer, condition, subset)
        return next((r for r in self.rows if (r.part, r.layer, r.condition, r.subset) == key), None)

    @property
    def best_layer(self) -> int:
        """The layer of the highest dev match (chosen without the test items), the embedding left out."""
        found = self.facts["dev_match"]["filter" if self.filtered else "theta"]
        trained = self.facts["layers"]
        scores = {layer: found[trained.index(layer)] for layer in self.layers if layer >= 0}
        return max(scores, key=lambda layer: scores[layer]) if scores else self.layers[0]

    def tables(self) -> list[TokenTable]:
        """By part: the lens and what it is compared with; then bins; then the matrix."""
        found = []
        for part in dict.fromkeys(row.part for row in self.rows):
            every = [row for row in self.rows if row.part == part]
            whole = [row for row in every if row.subset == "all"]
            found.append(_table(f"{part} entities", _MAIN, whole))
            best = [row for row in every if row.layer in (-1, self.best_layer) and row.subset != "all"]
            found.append(_table(f"{part} entities by kind of mention", _BINS, best))
        for part, matrix in self.matrix.items():
            names = tuple(f"on {layer}" for layer in self.layers)
            lines: list[tuple[Cell, ...]] = [(a, *line) for a, line in zip(self.layers, matrix, strict=True)]
            title = f"exact match of each layer's vector on each layer's inputs, {part} entities"
            found.append(TokenTable(("vector of layer", *names), tuple(lines), title=title))
        return found

    def to_markdown(self) -> str:
        """All tables, and what they are of."""
        context = f"context {self.facts['context']}, method {self.facts['method']}"
        kind = "task vectors with linear filter" if self.filtered else "task vectors"
        head = f"Entity lens of {self.facts['model']}: {kind}, {context}. Layer -1 is the embedding.\n\n"
        return head + "\n".join(table.to_markdown() for table in self.tables())

    def summary(self) -> dict[str, Any]:
        """Numbers of the best layer by dev match."""
        layer = self.best_layer
        found: dict[str, Any] = {"layer": layer, "filter": self.filtered}
        for part in ("seen", "unseen"):
            row, embedding = self.find(part, layer), self.find(part, -1)
            if row is None:
                continue
            found |= {f"{part}_{name}": getattr(row, name) for name in ("n", "em", "em_low", "em_high", "pm", "chrf")}
            found |= {f"{part}_margin_low": row.margin_low, f"{part}_best_control": row.best_control}
            if embedding is not None:
                found |= {f"{part}_embedding_em": embedding.em, f"{part}_embedding_em_high": embedding.em_high}
            for name in ("in_context_prompt", "logit_lens"):
                other = self.find(part, layer, name)
                found |= {f"{part}_{name}_em": other.em} if other is not None else {}
        return found


_MAIN = ("layer", "condition", "n", "n_docs", "em", "em_low", "em_high", "em_norm", "pm", "pm_original", "chrf",
         "chrf_low", "chrf_high", "token_acc", "first_token_acc", "margin", "margin_low", "margin_high",
         "best_control")  # fmt: skip
_BINS = ("layer", "condition", "subset", "n", "em", "em_low", "em_high", "pm", "chrf")


def _table(title: str, columns: tuple[str, ...], rows: list[EvalRow]) -> TokenTable:
    return TokenTable(columns, tuple(tuple(_short(getattr(r, name)) for name in columns) for r in rows), title=title)


def _short(value: Cell) -> Cell:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def write_bench(folder: Path, found: Evaluation, summary: Mapping[str, Any]) -> None:
    """The three files."""
    every = {"summary": dict(summary), "facts": found.facts, "filtered": found.filtered, "layers": list(found.layers),
             "rows": [asdict(row) for row in found.rows], "matrix": found.matrix}  # fmt: skip
    write_whole(folder / "bench.json", json.dumps(every, indent=1).encode())
    names = tuple(field.name for field in fields(EvalRow))
    table = TokenTable(names, tuple(tuple(getattr(row, name) for name in names) for row in found.rows))
    write_whole(folder / "bench.csv", table.to_csv().encode())
    write_whole(folder / "bench.md", found.to_markdown().encode())
