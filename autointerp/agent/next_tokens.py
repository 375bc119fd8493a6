"""Which next tokens a change makes less and more likely."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from autointerp.agent.plain import Plain, number, token

N_CHANGED = 4


def moved(
    strings: Sequence[str],
    before: Float[Tensor, " d_vocab"],
    after: Float[Tensor, " d_vocab"],
    names: tuple[str, str] = ("lose", "gain"),
) -> Plain:
    """[token, probability before, after] of those that lose and gain most, under two names."""
    change = after - before

    def named(sign: float) -> list[list[object]]:
        size, order = (sign * change).topk(min(N_CHANGED, len(change)))
        return [
            [token(strings[i]), number(float(before[i])), number(float(after[i]))]
            for i, s in zip(order.tolist(), size.tolist(), strict=True)
            if s > 0
        ]

    return {names[0]: named(-1.0), names[1]: named(1.0)}
