"""Losses of models that make a picture again: of pixels, of feature maps, and of a discriminator.

The autoencoder and the restorations share them. The mean absolute error of the pixels is always
there; a network's feature maps are compared beside it, and patches are judged, if the config says
so (Esser et al. 2021, arXiv:2012.09841, eq. 6 and 7; Ledig et al. 2017, arXiv:1609.04802, 2.2).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from torch import Tensor

from aigc import feature_network
from aigc.config import ModelConfig, OptimizerConfig, check_turn, require_values
from aigc.config.schedule import Scheduled, values
from aigc.model import GenerativeModel, Phase
from aigc.nn.layers import check_positive, downsampled
from aigc.nn.patch_discriminator import PatchJudge
from aigc.perceptual import PerceptualLoss
from aigc.rng import BatchRNG

BALANCE_EVERY = 4
"""Batches from one comparison of the gradients of the losses of pictures to the next."""


@dataclass(frozen=True, kw_only=True)
class PictureLossConfig(ModelConfig):
    """Weights of the losses beside the mean absolute error of the pixels."""

    adversarial_weight: Scheduled = 0.0
    """Weight of a discriminator's judgement of patches beside the error of the pixels, such as
    '0:0 50%:0.5:step' for the second half of the run (Esser et al. 2021, arXiv:2012.09841, eq. 6
    and 7): at 1 both change the last convolution alike much. 0 all the time builds none."""
    discriminator_widths: tuple[int, ...] = (32, 64, 128)
    """Channels of the discriminator's convolutions, the last without a stride."""
    perceptual: str = ""
    """Network whose feature maps are compared beside the pixels: a reference as in
    aigc/feature_network, such as the run of a classifier; empty for none. A run keeps it with its
    SHA-256, and goes on with no other."""
    perceptual_weight: Scheduled = 1.0
    """Weight of that comparison."""
    discriminator_optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=4e-4, betas=(0.5, 0.9))
    )

    @property
    def is_adversarial(self) -> bool:
        """True if there is a discriminator, at least for a part of the run."""
        return max(values(self.adversarial_weight)) > 0

    def without_effect(self) -> dict[str, str]:
        """See ModelConfig.without_effect."""
        found = super().without_effect()
        if not self.is_adversarial:
            names = "discriminator_widths", "discriminator_optimizer"
            found |= dict.fromkeys(names, "adversarial_weight is 0")
        if not self.perceptual:
            found["perceptual_weight"] = "perceptual names no network"
        return found

    def settled(self) -> "PictureLossConfig":
        """See ModelConfig.settled: the perceptual network with digits of its SHA-256."""
        return replace(self, perceptual=feature_network.pinned(self.perceptual))

    def check_losses(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError for weights below 0, or a discriminator too deep for pictures (C, H, W)
        of the shape that is trained on."""
        require_values("adversarial_weight", self.adversarial_weight, 0)
        require_values("perceptual_weight", self.perceptual_weight, 0)
        check_positive("discriminator_widths", self.discriminator_widths)
        if not self.is_adversarial:
            return
        check_turn("adversarial_weight", self.adversarial_weight, self.discriminator_optimizer)
        try:
            downsampled(shape, self.discriminator_widths[:-1] or self.discriminator_widths, 4)
        except ValueError as error:
            raise ValueError(
                f"discriminator_widths {self.discriminator_widths} for pictures of {shape}, as the"
                f" discriminator is shown: {error}"
            ) from None


class PictureModel(GenerativeModel):
    """Model whose last layer makes pictures, of which the losses are taken.

    A subclass calls add_judge() last in its constructor, so that its own weights begin as without a
    discriminator; picture_loss() and judgement() in its loss, judge_sums() in its batch_sums and
    update_judge() in its update().
    """

    config: PictureLossConfig

    def __init__(self, config: PictureLossConfig) -> None:
        super().__init__()
        self.config = config
        self.judge: PatchJudge | None = None
        self.perceptual = PerceptualLoss(config.perceptual) if config.perceptual else None

    def add_judge(self) -> None:
        """Build the discriminator, if there is one."""
        if self.config.is_adversarial:
            self.judge = PatchJudge(self.config.shape[0], self.config.discriminator_widths)

    def discriminator_phases(self) -> tuple[Phase, ...]:
        """The phase `discriminator`, if there is one."""
        if self.judge is None:
            return ()
        network, optimizer = self.judge.discriminator, self.config.discriminator_optimizer
        return (Phase(name="discriminator", module=network, optimizer=optimizer),)

    def is_judging(self, noise: BatchRNG) -> bool:
        """True if a discriminator has a weight in this batch."""
        return self.judge is not None and noise.at(self.config.adversarial_weight) > 0

    def picture_loss(
        self, made: Tensor, real: Tensor, noise: BatchRNG, metrics: dict[str, Tensor]
    ) -> Tensor:
        """Mean absolute error of pixels in [-1, 1], and the weighted perceptual distance, which
        joins `metrics`: made, real (N, C, H, W) -> ()."""
        loss = (made - real).abs().mean()
        if self.perceptual is not None:
            distance = self.perceptual(made, real)
            loss = loss + noise.at(self.config.perceptual_weight) * distance
            metrics["perceptual"] = distance.detach()
        return loss

    def judgement(self, made: Tensor, noise: BatchRNG, metrics: dict[str, Tensor]) -> Tensor:
        """The discriminator's weighted judgement of made (N, C, H, W), with its metrics -> ()."""
        assert self.judge is not None
        judgement, balance = self.judge.judgement(made), self.judge.balance
        metrics |= {"adversarial": judgement.detach(), "balance": balance.clone()}
        return noise.at(self.config.adversarial_weight) * balance * judgement

    def judge_sums(
        self,
        features: Tensor | None,
        pixels: Callable[[Tensor], Tensor],
        weight: Tensor,
        real: Tensor,
        noise: BatchRNG,
    ) -> dict[str, Tensor]:
        """Sums for update_judge(), empty without a discriminator.

        `pixels` makes pictures of `features` by a layer of that `weight`; None before the
        discriminator's time.
        """
        if self.judge is None:
            return {}
        due = features is not None and noise.batches % BALANCE_EVERY == 0

        def compared(features: Tensor) -> tuple[Tensor, Tensor]:
            made = pixels(features).to(real.dtype)
            return made, self.picture_loss(made, real, noise, {})

        return self.judge.sums(features if due else None, compared, weight)

    def update_judge(self, sums: dict[str, Tensor]) -> None:
        """The balance of the losses of pictures, for the batches that follow."""
        if self.judge is not None:
            self.judge.update(sums)
