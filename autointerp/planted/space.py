"""The residual stream of the planted model: which directions hold what, embeddings and unembedding.

1. Every part of the stream (`PARTS`) is a block of an ideal basis; a random rotation turns them all, so that no part
   can be read off the weights by eye.
2. A token puts its code, its class and a constant into the stream, a position a direction of its own.
3. Heads read `identity`, `position`, `kind`, `before` and `said`; they write `before` (which token stood before),
   `said` and `said_kind` (what comes next, read by the unembedding) or `dead`, which nothing reads.
4. The unembedding reads `said`, `said_kind` and, off the constant, how frequent each token is in the planted text.

The constant is long beside all else, so that the final norm divides by nearly the same number everywhere.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import islice

import numpy as np
from jaxtyping import Float

from autointerp.planted.codes import spread_codes
from autointerp.planted.corpus import documents
from autointerp.planted.tokenizer import planted_tokenizer
from autointerp.planted.words import vocabulary

N_CTX, CODE, DEAD = 128, 48, 16
KINDS = tuple(dict.fromkeys(kind for _, kind in vocabulary() if kind != "control"))
ANY, REST = "any", "rest"  # every word has the first, BOS has the second
CONSTANT = 6.0
TOKEN_GAIN, KIND_GAIN, PRIOR = 4.5, 2.0, 0.6  # logits of a write of 1, share of the log frequency
SOFT_COUNT, PRIOR_DOCUMENTS = 0.3, 200


@dataclass(frozen=True)
class Space:
    """The rotated stream of one seed. `part(name)` maps a part's own dimensions into the stream."""

    codes: Float[np.ndarray, "token code"]
    rotation: Float[np.ndarray, "d_model d_model"]
    starts: dict[str, tuple[int, int]]

    @classmethod
    def of(cls, generator: np.random.Generator) -> Space:
        codes = spread_codes(len(vocabulary()), CODE, generator)
        codes[0] = 0.0  # BOS is where heads rest, and moves nothing
        sizes = {
            "identity": CODE, "position": N_CTX - 1, "kind": len(KINDS) + 2, "before": CODE,
            "said": CODE, "said_kind": len(KINDS), "dead": DEAD, "constant": 1,
        }  # fmt: skip
        ends = np.cumsum(list(sizes.values()))
        starts = {name: (int(end) - size, int(end)) for (name, size), end in zip(sizes.items(), ends, strict=True)}
        rotation = np.linalg.qr(generator.normal(size=(int(ends[-1]), int(ends[-1]))))[0]
        return cls(codes, rotation, starts)

    @property
    def d_model(self) -> int:
        return len(self.rotation)

    def part(self, name: str) -> Float[np.ndarray, "dim d_model"]:
        """Rows: where each dimension of a part lies in the stream."""
        start, end = self.starts[name]
        return self.rotation[start:end]

    def kinds(self) -> Float[np.ndarray, "token kind"]:
        """What each token has in `kind`: its class and `any`; BOS has `rest` alone."""
        found = np.zeros((len(vocabulary()), len(KINDS) + 2))
        for token, (_, kind) in enumerate(vocabulary()):
            if kind != "control":
                found[token, [KINDS.index(kind), len(KINDS)]] = 1.0
        found[0, len(KINDS) + 1] = 1.0
        return found

    def embedding(self) -> Float[np.ndarray, "token d_model"]:
        constant = np.full((len(self.codes), 1), CONSTANT)
        parts = {"identity": self.codes, "kind": self.kinds(), "constant": constant}
        return np.asarray(sum(values @ self.part(name) for name, values in parts.items()))

    def position_embedding(self) -> Float[np.ndarray, "pos d_model"]:
        """A direction of its own for each position; none for position 0, where BOS stands."""
        return np.concatenate([np.zeros((1, self.d_model)), self.part("position")])

    def unembedding(self) -> Float[np.ndarray, "token d_model"]:
        """Rows in logits per unit of the stream after the final norm."""
        norm = np.sqrt((CONSTANT**2 + 4.0) / self.d_model)
        kinds = self.kinds()[:, : len(KINDS)]
        prior = PRIOR * log_frequencies()[:, None] / CONSTANT
        parts = {"said": TOKEN_GAIN * self.codes, "said_kind": KIND_GAIN * kinds, "constant": prior}
        return np.asarray(sum(norm * values @ self.part(name) for name, values in parts.items()))


@cache
def log_frequencies() -> Float[np.ndarray, " token"]:
    """Log share of each token in a stream of planted text of its own."""
    tokenizer = planted_tokenizer()
    counts: Counter[int] = Counter()
    for text in islice(documents("planted-prior"), PRIOR_DOCUMENTS):
        counts.update(tokenizer.encode(text, add_special_tokens=False))
    found = np.array([counts[token] + SOFT_COUNT for token in range(len(vocabulary()))])
    return np.asarray(np.log(found / found.sum()))
