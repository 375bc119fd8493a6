"""A text as fed, its marked destination, and one head's row there.

1. A text is tokenised as text (control tokens spelled out in it stay text) and BOS is fed where the run feeds it.
2. The mark is a token string of the text, its leading space optional, or a word of several tokens, whose last token
   is then the destination.
3. One forward reads all rows of a request; quantities are those of the evidence (`evidence.pairs`, `model.Readout`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.agent.arguments import LAST, LabelledItem, Place
from autointerp.agent.plain import Plain, number, token, values
from autointerp.agent.subject import Subject
from autointerp.errors import BadInput
from autointerp.evidence.examples import extreme_tokens
from autointerp.evidence.pairs import RowPairs, row_pairs
from autointerp.evidence.rows import TAU, Masks, OutputGeometry, write_norms
from autointerp.finder import TokenFinder
from autointerp.model import LanguageModel, Layer
from autointerp.records import TokenValue

N_SOURCES, N_TOKENS, SHOWN = 3, 3, 160
MIN_SHARE = 0.05


@dataclass(frozen=True)
class Fed:
    """Ids as fed, and the destination among them."""

    ids: Int[np.ndarray, " pos"]
    dst: int
    tokens: tuple[str, ...]


def fed_text(model: LanguageModel, text: str) -> tuple[Int[np.ndarray, " pos"], Int[np.ndarray, "pos 2"]]:
    """Ids and character ranges, BOS included where it is fed. Raises BadInput for a text that does not fit."""
    ids, offsets = model.encode(text)
    if not len(ids):
        raise BadInput("a text has no token; write some words")
    if model.bos_id is not None:
        ids, offsets = np.concatenate([[model.bos_id], ids]), np.concatenate([[[0, 0]], offsets])
    if len(ids) > model.n_ctx:
        raise BadInput(f"a text has {len(ids)} tokens; the model reads at most {model.n_ctx}")
    return ids.astype(np.int64), offsets


def feed(model: LanguageModel, place: Place | LabelledItem) -> Fed:
    """The text of a place and its destination. Raises BadInput where the mark does not stand in it."""
    ids, offsets = fed_text(model, place.text)
    tokens = tuple(model.strings[i] for i in ids.tolist())
    return Fed(ids, _marked(model, place, ids, offsets), tokens)


def _marked(model: LanguageModel, place: Place | LabelledItem, ids: np.ndarray, offsets: np.ndarray) -> int:
    if place.mark == LAST:
        return len(ids) - 1
    own = range(int(model.bos_id is not None), len(ids))
    names = {at: model.strings[int(ids[at])] for at in own}
    found = [at for at, name in names.items() if name in (place.mark, f" {place.mark}")]
    if not found:
        finder = TokenFinder.fed(place.text, ids, offsets)
        found = [span.stop - 1 for span in finder.find_all(place.mark)]
    if len(found) >= place.occurrence:
        return found[place.occurrence - 1]
    cut = " | ".join(token(name) for name in names.values())[:SHOWN]
    times = f"stands {len(found)} times" if found else "does not stand"
    raise BadInput(f"the mark {place.mark[:40]!r} {times} in the text, whose tokens are {cut}")


@dataclass(frozen=True, eq=False)
class ReadRow:
    """One head's row: its quantities, its write without the part that every source shares, tokens up and down."""

    fed: Fed
    pairs: RowPairs
    up: tuple[TokenValue, ...]
    down: tuple[TokenValue, ...]

    @property
    def top(self) -> int:
        """The allowed source that most is moved from, -1 where there is none."""
        contribution = torch.where(self.pairs.allowed[0], self.pairs.contribution[0], -1.0)
        return int(contribution.argmax()) if bool(self.pairs.allowed.any()) else -1

    @property
    def rests(self) -> bool:
        return float(self.pairs.mass[0]) < TAU

    def view(self, n_sources: int = N_SOURCES) -> Plain:
        """As it is shown: sources with attention, share off the first position, and part of what is moved."""
        share, moved = self.pairs.share[0].nan_to_num(0.0), self.pairs.contribution_share[0]
        order = torch.argsort(share, descending=True, stable=True).tolist()
        chosen = [s for s in order if float(share[s]) >= MIN_SHARE][:n_sources]
        found: Plain = {
            "at": token(self.fed.tokens[self.fed.dst]),
            "first_position": number(float(self.pairs.sink_mass[0])),
            "sources": [
                {
                    "token": token(self.fed.tokens[s]), "distance": self.fed.dst - s,
                    "attention": number(float(self.pairs.attn[0, s])), "share": number(float(share[s])),
                    "moved": number(float(moved[s])),
                }
                for s in chosen
            ],
        }  # fmt: skip
        if self.rests:
            found["note"] = "rests on the first position"
        if self.up:
            found |= {"raises": values(self.up, N_TOKENS), "lowers": values(self.down, N_TOKENS)}
        return found


def padded(rows: Sequence[Fed], size: int | None = None) -> tuple[Int[np.ndarray, "row pos"], Int[np.ndarray, " row"]]:
    """Ids padded on the right, and lengths."""
    lengths = np.array([len(row.ids) for row in rows])
    ids = np.zeros((len(rows), size or int(lengths.max())), np.int64)
    for number_, row in enumerate(rows):
        ids[number_, : len(row.ids)] = row.ids
    return ids, lengths


def read_rows(subject: Subject, rows: Sequence[Fed]) -> list[ReadRow]:
    """The head's row of each text, in one forward."""
    model, head = subject.model, subject.head
    ids, lengths = padded(rows)
    fed = model.to_ids(ids)
    masks = Masks.of(fed, torch.as_tensor(lengths, device=fed.device), model.special_ids)
    geometry = OutputGeometry.of(model, head.layer)
    pairs: list[RowPairs] = []
    writes: list[Tensor] = []

    def keep(layer: Layer) -> None:
        norms = write_norms(model, layer, geometry)
        constant = model.expand_kv(geometry.v_constant[None])[0, head.index]
        w_o = model.W_O(head.layer)[head.index]
        for n, row in enumerate(rows):
            pattern = layer.pattern[n, head.index, row.dst].float()
            dst = torch.tensor([row.dst], device=pattern.device)
            pairs.append(row_pairs(pattern[None], norms[n, head.index], masks.allowed[n], dst))
            writes.append((layer.z[n, row.dst, head.index].float() - constant * pattern.sum()) @ w_o)

    with model.observing([head.layer], keep):
        residual = model.final_states(fed)[0]
    at = torch.tensor([row.dst for row in rows], device=residual.device)
    stream = residual[torch.arange(len(rows), device=residual.device), at].float()
    tokens = written(subject, torch.stack(writes), stream, N_TOKENS)
    return [ReadRow(row, *found) for row, *found in zip(rows, pairs, *zip(*tokens, strict=True), strict=True)]


def written(
    subject: Subject, writes: Float[Tensor, "row d_model"], stream: Float[Tensor, "row d_model"], n: int
) -> list[tuple[tuple[TokenValue, ...], tuple[TokenValue, ...]]]:
    """Tokens that each write raises and lowers, at the scale of the stream there; nothing without a readout."""
    output = subject.data.output
    if output is None:
        return [((), ())] * len(writes)
    logits = output.readout.logits(writes, output.readout.scale(stream))
    return [extreme_tokens(row, subject.model.strings, n) for row in logits]
