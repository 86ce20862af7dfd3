"""The GAN family: two phases from an objective and a penalty."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aigc.artifact.manifest import Signature
from aigc.config import ModelConfig, OptimizerConfig, require, require_values
from aigc.config.schedule import Scheduled
from aigc.model import Batch, Export, GenerativeModel, Phase
from aigc.nn import losses
from aigc.nn.augmentations import Augmentation, augmented
from aigc.nn.tensor_specs import label_spec, latent_spec, sample_spec
from aigc.rng import BatchRNG

CERTAIN = 6.9
"""Logit of probability 0.999."""


@dataclass(frozen=True, kw_only=True)
class GANConfig(ModelConfig):
    """Fields of every GAN's Config."""

    objective: Literal[
        "minimax", "non_saturating", "least_squares", "hinge", "wasserstein", "relativistic"
    ] = "non_saturating"
    """Adversarial loss; see aigc/nn/losses.py."""
    penalty: Literal["none", "gradient", "r1", "r1_r2"] = "none"
    """Regulariser of the discriminator's gradient: at mixtures of real and fake, at real, or at
    both."""
    penalty_weight: Scheduled = 10.0
    """Weight of the penalty; may change during the run."""
    penalty_every: int = 1
    """Compute the penalty on every n-th batch only, with n times the weight (Karras et al. 2020,
    arXiv:1912.04958, appendix B)."""
    augmentation: tuple[Augmentation, ...] = ()
    """Random changes of the pictures that the discriminator sees, real and fake alike; see
    aigc/nn/augmentations.py."""
    augmentation_probability: Scheduled = 1.0
    """Probability of each change of each picture; may change during the run."""
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
        require_values("penalty_weight", self.penalty_weight, 0)
        require(self.penalty_every > 0, f"penalty_every must be > 0, got {self.penalty_every}")
        require(
            not self.augmentation or self.modality == "image",
            f"augmentation changes pictures; leave it out for a model of {self.modality}",
        )
        require_values("augmentation_probability", self.augmentation_probability, 0, 1 + 1e-9)


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
        real = batch[self.config.modality]
        if phase != "generator":
            return self._discriminator_loss(real, fake.detach(), label, noise)
        if self.config.fresh_noise:
            fake = self.generator(noise.normal("latent/generator", self.config.latent), label)
        logits, classes = self.discriminator(self._augment(fake, noise, "generator"), label)
        # Losses are computed in full precision, also under autocast.
        each = [logits.to(real.dtype)]
        objective = losses.OBJECTIVES[self.config.objective]
        if objective.paired:
            with torch.no_grad():
                on_real, _ = self.discriminator(self._augment(real, noise, "real"), label)
            each.append(on_real.to(real.dtype))
        return self._classify(objective.generator(*each), classes, label), {}

    def _augment(self, x: Tensor, noise: BatchRNG, purpose: str) -> Tensor:
        """Samples as the discriminator sees them."""
        config = self.config
        if not config.augmentation:
            return x
        probability = noise.at(config.augmentation_probability)
        return augmented(x, config.augmentation, probability, noise, f"augmentation/{purpose}")

    def _discriminator_loss(
        self, real: Tensor, fake: Tensor, label: Tensor | None, noise: BatchRNG
    ) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        due = noise.batches % config.penalty_every == 0
        penalty = config.penalty if due else "none"
        real, fake = self._augment(real, noise, "real"), self._augment(fake, noise, "fake")
        # forward() is never compiled: a compiled network cannot be differentiated twice.
        twice = penalty in ("r1", "r1_r2")
        discriminate = self.discriminator.forward if twice else self.discriminator
        if twice:
            real = real.detach().requires_grad_()
        if penalty == "r1_r2":
            fake = fake.detach().requires_grad_()
        # One forward for both: two would break BatchNorm under data parallelism, and take longer.
        labels = None if label is None else torch.cat([label, label])
        logits, classes = discriminate(torch.cat([real, fake]), labels)
        on_real, on_fake = logits.to(real.dtype).chunk(2)
        loss = losses.OBJECTIVES[config.objective].discriminator(on_real, on_fake)
        metrics = {"real": on_real.mean().detach(), "fake": on_fake.mean().detach()}
        if penalty != "none":
            size = self._penalty(penalty, (real, fake), (on_real, on_fake), label, noise)
            loss = loss + noise.at(config.penalty_weight) * config.penalty_every * size
            metrics["penalty"] = size.detach()
        return self._classify(
            loss, None if classes is None else classes.chunk(2)[0], label
        ), metrics

    def _penalty(
        self,
        kind: str,
        x: tuple[Tensor, Tensor],
        logits: tuple[Tensor, Tensor],
        label: Tensor | None,
        noise: BatchRNG,
    ) -> Tensor:
        """Penalty () of real and fake, and of their logits."""
        if kind == "gradient":
            real, fake = x
            share = noise.uniform("mix", *[1] * (real.dim() - 1))
            mix = (share * real + (1 - share) * fake).requires_grad_()
            return losses.gradient_penalty(self.discriminator.forward(mix, label)[0], mix)
        at = 1 if kind == "r1" else 2
        sizes = [losses.r1_penalty(on, of) for on, of in zip(logits[:at], x[:at], strict=True)]
        return sum(sizes[1:], sizes[0])

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
