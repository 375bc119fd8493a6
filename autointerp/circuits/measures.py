"""What is read at the end of a prompt, and how a patched run is compared with the unpatched ones.

`logit_diff`: logit of the right answer minus that of the wrong one (equal to the difference of log-probabilities);
`log_prob`, `prob`, `rank` (tokens with a higher logit) of the right answer; `kl`: KL(clean || run) in nats. The effect
of a patch is the value of the patched run minus that of the base run.

`score` is normalised from logit differences: denoising `(patched - corrupted) / (clean - corrupted)`, 0 nothing and 1
restored; noising `(patched - clean) / (clean - reference)`, 0 intact and -1 destroyed, where the reference is the
corrupted run read with the clean answers. As a ratio of means (default), or as a mean of ratios without the prompts
whose denominator is below 0.1. (arXiv 2211.00593.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from autointerp.circuits.prompts import ContrastSet
from autointerp.errors import BadInput
from autointerp.model import LanguageModel
from autointerp.model.gradients import differentiable_logits

METRICS = ("logit_diff", "score", "log_prob", "prob", "rank", "kl")
RATIOS = ("of_means", "mean_of_ratios")
LEAST_DENOMINATOR = 0.1
_SAME = 1e-6
Values = dict[str, Float64[np.ndarray, "*variant prompt"]]


def check_metrics(names: Sequence[str], prompts: ContrastSet | None = None) -> tuple[str, ...]:
    """The names as a tuple. Raises BadInput for one that is unknown or that the answers do not allow."""
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        raise BadInput(f"--metric {','.join(unknown)} is unknown. Known are {', '.join(METRICS)}.")
    needing = [name for name in names if name in ("logit_diff", "score")]
    if prompts is not None and needing and not prompts.has_wrong:
        raise BadInput(f"--metric {needing[0]} needs a wrong answer in every prompt of {prompts.name}; use log_prob.")
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True, eq=False)
class Reader:
    """Reads the measures of some prompts off the final norm's output at their ends."""

    model: LanguageModel
    prompts: ContrastSet
    clean_log_probs: Float[Tensor, "prompt d_vocab"] | None = None  # for kl

    @classmethod
    def of(cls, model: LanguageModel, prompts: ContrastSet, clean: Float[Tensor, "prompt d_model"]) -> Reader:
        """`clean`: output of the final norm at the ends of the clean prompts."""
        return cls(model, prompts, torch.log_softmax(model.unembed(clean), -1))

    def values(self, hidden: Float[Tensor, "variant prompt d_model"], names: Sequence[str]) -> Values:
        """Each raw measure `[variant prompt]`; `score` is made of `logit_diff` later."""
        raw = list(dict.fromkeys("logit_diff" if name == "score" else name for name in names))
        if raw == ["logit_diff"] and not self.model.soft_cap:
            return {"logit_diff": self._differences(hidden)}
        found: dict[str, list[np.ndarray]] = {name: [] for name in raw}
        for variant in hidden:
            logits = self.model.unembed(variant)
            for name in raw:
                found[name].append(self._value(logits, name).double().cpu().numpy())
        return {name: np.stack(parts) for name, parts in found.items()}

    def _differences(self, hidden: Float[Tensor, "variant prompt d_model"]) -> Float64[np.ndarray, "variant prompt"]:
        """Logit differences from two columns of the unembedding a prompt."""
        right, wrong = (torch.from_numpy(a).to(hidden.device) for a in (self.prompts.answer, self.prompts.wrong))
        weight = self.model.bridge.W_U
        direction = (weight[:, right].float() - weight[:, wrong].float()).T * self.model.logit_scale
        bias = self.model.unembed(torch.zeros_like(hidden[:1, 0]))[0]
        found: Tensor = (hidden.float() * direction).sum(-1) + (bias[right] - bias[wrong])
        return np.asarray(found.double().detach().cpu().numpy())

    def differentiable(self, name: str) -> object:
        """A function from the final norm's whole output to the measure of each prompt, with gradients."""
        ends = torch.from_numpy(self.prompts.ends).to(self.model.device)

        def score(hidden: Float[Tensor, "prompt pos d_model"]) -> Float[Tensor, " prompt"]:
            rows = hidden[torch.arange(len(ends), device=ends.device), ends]
            return self._value(differentiable_logits(self.model, rows), name)

        return score

    def _value(self, logits: Float[Tensor, "prompt d_vocab"], name: str) -> Float[Tensor, " prompt"]:
        right = self._of(logits, self.prompts.answer)
        if name == "logit_diff":
            return right - self._of(logits, self.prompts.wrong)
        if name == "rank":
            return (logits > right[:, None]).sum(-1).float()
        log_probs = torch.log_softmax(logits, -1)
        if name == "kl":
            if self.clean_log_probs is None:
                raise BadInput("kl needs the clean run.")
            return (self.clean_log_probs.exp() * (self.clean_log_probs - log_probs)).sum(-1)
        chosen = self._of(log_probs, self.prompts.answer)
        return chosen if name == "log_prob" else chosen.exp()

    def _of(self, logits: Float[Tensor, "prompt d_vocab"], ids: np.ndarray) -> Float[Tensor, " prompt"]:
        return logits.gather(1, torch.from_numpy(ids).to(logits.device)[:, None])[:, 0]


@dataclass(frozen=True, eq=False)
class Effects:
    """Effects `[cell prompt]` of one metric, and what each is divided by before it is reported (None: nothing)."""

    metric: str
    values: Float64[np.ndarray, "cell prompt"]
    denominators: Float64[np.ndarray, " prompt"] | None = None
    notes: tuple[str, ...] = ()


def effects(
    metric: str,
    patched: Values,
    clean: Mapping[str, Float64[np.ndarray, " prompt"]],
    corrupted: Mapping[str, Float64[np.ndarray, " prompt"]],
    direction: str,
) -> Effects:
    """Effects of patches on the base run (corrupted for `denoise`, clean for `noise`).

    Raises BadInput for a score whose clean and corrupted means do not differ.
    """
    raw = "logit_diff" if metric == "score" else metric
    base = corrupted[raw] if direction == "denoise" else clean[raw]
    values = patched[raw] - base
    if metric != "score":
        return Effects(metric, values, None, _same_notes(raw, clean[raw], corrupted[raw]))
    gap = clean[raw] - corrupted[raw]
    if abs(float(gap.mean())) < _SAME:
        raise BadInput(
            f"the logit difference is {clean[raw].mean():.4g} on clean and on corrupted prompts, so the score would "
            "divide by 0. Use --metric logit_diff, or corrupt what the answer depends on."
        )
    error = gap.std(ddof=1) / np.sqrt(len(gap)) if len(gap) > 1 else np.inf
    notes = () if abs(gap.mean()) > 2 * error else (
        f"the logit difference of clean and corrupted differs by {gap.mean():.3g} with standard error {error:.3g}: "
        "the score divides by noise",
    )  # fmt: skip
    return Effects(metric, values, gap, notes)


def _same_notes(name: str, clean: np.ndarray, corrupted: np.ndarray) -> tuple[str, ...]:
    if name == "kl" or np.abs(clean - corrupted).max() >= _SAME:
        return ()
    return (f"{name} is the same on clean and on corrupted prompts: an effect says nothing about the contrast",)
