"""What was found of an autoencoder's reconstruction: the numbers, what they say, and when it is refused."""

from __future__ import annotations

from dataclasses import dataclass

from autointerp.records import Interval

ENOUGH, BETTER = 0.5, 0.9  # explained variance that is trusted; else the rest must be under 0.9 of the turned rest


@dataclass(frozen=True)
class Reconstruction:
    """How well an autoencoder stands in for what it reads, position 0 and control tokens left as they are."""

    explained_variance: Interval
    loss_recovered: Interval  # against zeros at the hook
    loss_recovered_mean: Interval  # against the rows' mean at the hook
    turned: float  # best explained variance of the same vectors turned at random
    l0: float  # mean active latents a row
    alive: float  # share of latents active on some row
    with_first: tuple[float, float]  # explained variance and loss recovered with position 0
    losses: dict[str, float]  # nats a token: clean, sae, zero, mean
    n_tokens: int
    n_docs: int
    hint: str = ""  # a setting under which the vectors would be reconstructed

    @property
    def refusal(self) -> str | None:
        """Why this is no autoencoder of this model and place; None where it may be one.

        Refused: an explained variance of 0 or less; one under 0.5 that leaves more than 0.9 of what is left of the same
        vectors turned at random (a dictionary of another model, or a random one, explains up to a quarter of anything);
        a loss that is surely (whole interval) worse than with zeros at the hook, where zeros hurt. A weak autoencoder
        of the right model passes all three.
        """
        variance, recovered = self.explained_variance, self.loss_recovered
        if not variance.value > 0:
            return f"it explains {variance.value:.1%} of the variance: less than the mean alone"
        if variance.value < ENOUGH and 1 - variance.value > BETTER * (1 - self.turned):
            return (f"it explains {variance.value:.1%} of the variance, and {self.turned:.1%} of the same vectors "
                    "turned at random")  # fmt: skip
        if recovered.high < 0 and self.losses["zero"] > self.losses["clean"]:
            return (f"with its reconstruction the loss is {self.losses['sae']:.2f} nats a token, worse than with zeros "
                    f"({self.losses['zero']:.2f}; unchanged {self.losses['clean']:.2f})")  # fmt: skip
        return None

    @property
    def line(self) -> str:
        """The numbers in one line, for people."""
        variance, recovered = self.explained_variance, self.loss_recovered
        first = ""
        if abs(self.with_first[0] - variance.value) > 0.05 or abs(self.with_first[1] - recovered.value) > 0.05:
            first = f"; with position 0: {self.with_first[0]:.3f} and {self.with_first[1]:.3f}"
        return (
            f"explained variance {variance.value:.3f} [{variance.low:.3f}, {variance.high:.3f}], "
            f"loss recovered {recovered.value:.3f} [{recovered.low:.3f}, {recovered.high:.3f}]{first}, "
            f"{self.l0:.1f} latents active a token, {self.alive:.1%} of all alive, {self.n_tokens} tokens of "
            f"{self.n_docs} documents"
        )

    def facts(self) -> dict[str, object]:
        """For `run.json`."""
        return {
            "explained_variance": self.explained_variance.model_dump(mode="json"),
            "loss_recovered": self.loss_recovered.model_dump(mode="json"),
            "loss_recovered_mean": self.loss_recovered_mean.model_dump(mode="json"),
            "explained_variance_of_turned_vectors": self.turned,
            "with_position_0": {"explained_variance": self.with_first[0], "loss_recovered": self.with_first[1]},
            "l0": self.l0,
            "alive_share": self.alive,
            "losses": self.losses,
            "n_tokens": self.n_tokens,
            "n_docs": self.n_docs,
        }
