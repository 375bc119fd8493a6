"""What a changed final state does to the next-token distribution: rise of the loss and KL, row by row.

The change is taken in place, entry by entry, before it is weighted and summed: the difference of two sums of
p log p would lose the small effects that most heads have.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.model import LanguageModel, log_probs

CHUNK_CELLS = 12_000_000  # logits in memory at once, beside the unchanged ones
CACHED_CELLS = 250_000  # on a CPU, logits that its cache holds from one pass over them to the next


@dataclass(frozen=True)
class CleanDistributions:
    """Unchanged next-token distributions of some rows, which changed ones are compared with."""

    model: LanguageModel
    next_ids: Int[Tensor, " row"]
    log_p: Float[Tensor, "row d_vocab"]

    @classmethod
    def of(
        cls, model: LanguageModel, hidden: Float[Tensor, "row d_model"], next_ids: Int[Tensor, " row"]
    ) -> CleanDistributions:
        """From the final norm's output; `next_ids` are the true next tokens."""
        found = torch.empty(len(hidden), model.d_vocab, device=hidden.device)
        for part in _parts(len(hidden), CHUNK_CELLS // model.d_vocab):
            found[part] = log_probs(model, hidden[part])
        return cls(model, next_ids, found)

    def effects(
        self, hidden: Float[Tensor, "change row d_model"]
    ) -> tuple[Float[Tensor, "change row"], Float[Tensor, "change row"]]:
        """(rise of the loss, KL from unchanged to changed) at each row, nats, for several changes of the same rows."""
        flat = hidden.flatten(0, 1)
        row = torch.arange(hidden.shape[1], device=hidden.device).repeat(len(hidden))
        rise, kl = (torch.empty(len(flat), device=hidden.device) for _ in range(2))
        cells = CACHED_CELLS if hidden.device.type == "cpu" else CHUNK_CELLS
        for part in _parts(len(flat), CHUNK_CELLS // self.model.d_vocab):
            logits = self.model.unembed(flat[part])
            for few in _parts(len(logits), cells // self.model.d_vocab):
                at = slice(part.start + few.start, part.start + few.stop)
                log_p = self.log_p[row[at]]
                gain = torch.log_softmax(logits[few], -1).sub_(log_p)
                rise[at] = -gain.gather(1, self.next_ids[row[at], None])[:, 0]
                kl[at] = -gain.mul_(log_p.exp_()).sum(-1)
        return rise.reshape(hidden.shape[:2]), kl.clamp_min_(0).reshape(hidden.shape[:2])


def _parts(n: int, most: int) -> list[slice]:
    """Slices of at most `most` (at least 1) that cover n."""
    step = max(1, most)
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]
