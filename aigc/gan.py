"""The GAN family: two phases from an objective and a penalty."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aigc.artifact.manifest import Signature
from aigc.config import ModelConfig, OptimizerConfig, require
from aigc.model import Batch, Export, GenerativeModel, Phase
from aigc.nn import losses
from aigc.nn.tensor_specs import label_spec, latent_spec, sample_spec
from aigc.rng import BatchRNG

CERTAIN = 6.9
"""Logit of probability 0.999."""


@dataclass(frozen=True, kw_only=True)
class GANConfig(ModelConfig):
    """Fields of every GAN's Config."""

    objective: Literal["minimax", "non_saturating", "least_squares", "hinge", "wasserstein"] = (
        "non_saturating"
    )
    """Adversarial loss; see aigc/nn/losses.py."""
    penalty: Literal["none", "gradient", "r1"] = "none"
    """Regulariser of the discriminator's gradient."""
    penalty_weight: float = 10.0
    """Weight of the penalty."""
    auxiliary: float = 0.0
    """Weight of an auxiliary classifier in the discriminator; needs num_classes."""
    discriminator_steps: int = 1
    """Discriminator steps per generator step."""
    fresh_noise: bool = False
    """Draw new latents for the generator's step instead of reusing the discriminator's; costs 10 to
    15 % of the speed."""
    generator_optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    discriminator_optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.objective != "wasserstein" or self.penalty == "gradient",
            "objective wasserstein needs a discriminator of bounded slope:"
            " take penalty gradient (preset wgan_gp)",
        )
        require(self.auxiliary >= 0, f"auxiliary must be >= 0, got {self.auxiliary}")
        require(
            self.auxiliary == 0 or self.num_classes > 0,
            f"auxiliary {self.auxiliary} needs labels: set --model.auxiliary 0 for data without, or"
            " --model.num-classes to the number of their classes",
        )
        require(
            self.discriminator_steps > 0,
            f"discriminator_steps must be > 0, got {self.discriminator_steps}",
        )
        require(self.penalty_weight >= 0, f"penalty_weight must be >= 0, got {self.penalty_weight}")


class GAN(GenerativeModel):
    """Generator and discriminator; a subclass builds the two networks.

    generator(z: (N, latent), label: (N,) or None) -> (N, *shape) in [-1, 1]
    discriminator(x: (N, *shape), label) -> logits (N,), class logits (N, num_classes) or None
    """

    family = "gan"

    def __init__(self, config: GANConfig, generator: nn.Module, discriminator: nn.Module) -> None:
        super().__init__()
        self.config: GANConfig = config
        self.generator, self.discriminator = generator, discriminator

    def phases(self) -> tuple[Phase, ...]:
        """Discriminator, then generator; both use the same fakes of a batch."""
        c = self.config
        return (
            Phase(
                name="discriminator",
                module=self.discriminator,
                optimizer=c.discriminator_optimizer,
            ),
            Phase(
                name="generator",
                module=self.generator,
                optimizer=c.generator_optimizer,
                every=c.discriminator_steps,
            ),
        )

    def averaged(self) -> nn.Module:
        """The generator."""
        return self.generator

    def prepare(
        self, batch: Batch, noise: BatchRNG, due: Collection[str]
    ) -> tuple[Tensor, Tensor | None]:
        """Fakes (N, *shape), with the labels (N,) of the real batch."""
        label = batch["label"] if self.config.num_classes else None
        reused = "generator" in due and not self.config.fresh_noise
        with torch.set_grad_enabled(reused):
            fake = self.generator(noise.normal("latent", self.config.latent), label)
        return fake.to(batch[self.config.modality].dtype), label

    def loss(
        self, phase: str, batch: Batch, noise: BatchRNG, shared: tuple[Tensor, Tensor | None]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See GenerativeModel.loss."""
        fake, label = shared
        if phase == "generator":
            if self.config.fresh_noise:
                fake = self.generator(noise.normal("latent/generator", self.config.latent), label)
            logits, classes = self.discriminator(fake, label)
            # Losses are computed in full precision, also under autocast.
            logits = logits.to(batch[self.config.modality].dtype)
            loss = losses.OBJECTIVES[self.config.objective].generator(logits)
            return self._classify(loss, classes, label), {}
        return self._discriminator_loss(batch[self.config.modality], fake.detach(), label, noise)

    def _discriminator_loss(
        self, real: Tensor, fake: Tensor, label: Tensor | None, noise: BatchRNG
    ) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        if config.penalty == "r1":
            real = real.detach().requires_grad_()
        # One forward for both: two would break BatchNorm under data parallelism, and take longer.
        labels = None if label is None else torch.cat([label, label])
        # forward() is never compiled: a compiled network cannot be differentiated twice.
        twice = config.penalty == "r1"
        discriminate = self.discriminator.forward if twice else self.discriminator
        logits, classes = discriminate(torch.cat([real, fake]), labels)
        on_real, on_fake = logits.to(real.dtype).chunk(2)
        loss = losses.OBJECTIVES[config.objective].discriminator(on_real, on_fake)
        metrics = {"real": on_real.mean().detach(), "fake": on_fake.mean().detach()}
        if config.penalty == "r1":
            penalty = losses.r1_penalty(on_real, real)
        elif config.penalty == "gradient":
            mix = noise.uniform("mix", *[1] * (real.dim() - 1))
            x = (mix * real + (1 - mix) * fake).requires_grad_()
            penalty = losses.gradient_penalty(self.discriminator.forward(x, label)[0], x)
        if config.penalty != "none":
            loss = loss + config.penalty_weight * penalty
            metrics["penalty"] = penalty.detach()
        return self._classify(
            loss, None if classes is None else classes.chunk(2)[0], label
        ), metrics

    def _classify(self, loss: Tensor, classes: Tensor | None, label: Tensor | None) -> Tensor:
        if classes is None or label is None:
            return loss
        return loss + self.config.auxiliary * F.cross_entropy(classes, label)

    def collapsed(self, values: dict[str, float]) -> str:
        """Message if the discriminator is so certain that the generator learns nothing from it.

        For objectives on logits: σ(D(x)) > 0.999 for real and < 0.001 for fake, on average.
        """
        if self.config.objective not in ("minimax", "non_saturating"):
            return ""
        real, fake = values["discriminator/real"], values["discriminator/fake"]
        if real > CERTAIN and fake < -CERTAIN:
            return (
                f"the discriminator is certain of everything (logits {real:.1f}, {fake:.1f}); lower"
                " the learning rate, or regularise with spectral norm or a penalty"
            )
        return ""

    def distributions(self, batch: Batch, noise: BatchRNG) -> dict[str, Tensor]:
        """Logits of the discriminator on real and fake samples."""
        fake, label = self.prepare(batch, noise, ())
        real = batch[self.config.modality]
        return {
            "discriminator/real": self.discriminator(real, label)[0],
            "discriminator/fake": self.discriminator(fake, label)[0],
        }

    def exports(self) -> dict[str, Export]:
        """`sample`: latent (and label) to sample."""
        inputs = (latent_spec(self.config), *label_spec(self.config))
        signature = Signature(
            graph="generator.onnx", inputs=inputs, outputs=(sample_spec(self.config),)
        )
        return {"sample": Export(module=_Sample(self.generator), signature=signature)}


class _Sample(nn.Module):
    """The generator with a label that may be left out of the call."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        return self.generator(latent, label)  # type: ignore[no-any-return]
