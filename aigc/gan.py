"""The GAN family: two phases from an objective and a penalty."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aigc.artifact.manifest import Signature
from aigc.config import ModelConfig, OptimizerConfig, require, require_values
from aigc.config.schedule import Scheduled, values
from aigc.model import Batch, Export, GenerativeModel, Phase
from aigc.nn import losses
from aigc.nn.augmentations import Augmentation, augmented
from aigc.nn.layers import has_head, head_inputs
from aigc.nn.tensor_specs import label_spec, latent_spec, sample_spec
from aigc.rng import BatchRNG

CERTAIN = 6.9
"""Logit of probability 0.999."""
WATCH_EVERY = 4
"""Batches from one look at the discriminator's logits to the next."""


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
    augmentation_target: float = 0.0
    """Adapt the probability, from 0 on, so that the mean sign of the logits of real pictures is
    this (Karras et al. 2020, arXiv:2006.06676, section 3: 0.6): it rises while the discriminator
    overfits. 0 leaves it as it is given."""
    augmentation_ramp: int = 500_000
    """Samples over which an adapted probability goes from 0 to 1 at most."""
    lecam: Scheduled = 0.0
    """Weight of the distances between the logits of real and the running mean of those of fake, and
    the other way round (Tseng et al. 2021, arXiv:2104.03310, eq. 4); for little data."""
    feature_matching: Scheduled = 0.0
    """Weight of the generator's squared distance between the mean features of real and of fake, in
    the discriminator's last layer (Salimans et al. 2016, arXiv:1606.03498, section 3.1); costs
    another pass of the discriminator."""
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
        require(
            0 <= self.augmentation_target < 1,
            f"augmentation_target must be in [0, 1), got {self.augmentation_target}",
        )
        require(
            not self.augmentation_target or bool(self.augmentation),
            "augmentation_target adapts the probability of augmentation, which has no kinds",
        )
        require(
            self.augmentation_ramp > 0,
            f"augmentation_ramp must be > 0 samples, got {self.augmentation_ramp}",
        )
        require_values("lecam", self.lecam, 0)
        require_values("feature_matching", self.feature_matching, 0)
        require(
            self.objective != "relativistic" or not self.watches_logits,
            "augmentation_target and lecam look at logits by themselves, of which objective"
            " relativistic determines differences only; take another objective, or leave them out",
        )

    def without_effect(self) -> dict[str, str]:
        """See ModelConfig.without_effect."""
        found = super().without_effect()
        if self.penalty == "none":
            found |= dict.fromkeys(("penalty_weight", "penalty_every"), "penalty is none")
        if not self.augmentation:
            found["augmentation_probability"] = "augmentation has no kinds"
        if not self.augmentation_target:
            found["augmentation_ramp"] = "augmentation_target is 0"
        return found

    @property
    def watches_logits(self) -> bool:
        """True if running means of the discriminator's logits are needed."""
        return self.augmentation_target > 0 or self.has_lecam

    @property
    def has_lecam(self) -> bool:
        """True if LeCam's term is part of the loss, at least for a time."""
        return max(values(self.lecam)) > 0

    @property
    def matches_features(self) -> bool:
        """True if feature matching is part of the loss, at least for a time."""
        return max(values(self.feature_matching)) > 0


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
        if config.augmentation_target:
            self.register_buffer("probability", torch.zeros(()))
        if config.watches_logits:
            self.register_buffer("mean_logits", torch.zeros(2))  # of real and fake
        require(
            not config.matches_features or has_head(discriminator),
            "feature_matching compares what the DiscriminatorHead of a discriminator gets, and this"
            " one has none; set feature_matching 0",
        )
        self.probability: Tensor
        self.mean_logits: Tensor

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

    def generate(self, noise: BatchRNG, purpose: str, label: Tensor | None) -> Tensor:
        """Fakes (N, *shape) of latents that are drawn for a purpose."""
        return self.generator(noise.normal(purpose, self.config.latent), label)  # type: ignore[no-any-return]

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
            fake = self.generate(noise, "latent", label)
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
            fake = self.generate(noise, "latent/generator", label)
        logits, classes = self.discriminator(self._augment(fake, noise, "generator"), label)
        # Losses are computed in full precision, also under autocast.
        each = [logits.to(real.dtype)]
        objective = losses.OBJECTIVES[self.config.objective]
        if objective.paired:
            with torch.no_grad():
                on_real, _ = self.discriminator(self._augment(real, noise, "real"), label)
            each.append(on_real.to(real.dtype))
        loss, metrics = self._classify(objective.generator(*each), classes, label), {}
        if self.config.matches_features:
            difference = batch["sum/features"] / batch["sum/rows"]
            distance = difference.square().mean()
            loss = loss + noise.at(self.config.feature_matching) * distance
            metrics = {"feature_matching": distance.detach()}
        return loss, metrics

    @property
    def has_loss_sums(self) -> bool:
        """True with feature matching, or where a subclass has loss_sums() of its own."""
        return self.config.matches_features or type(self).loss_sums is not GAN.loss_sums

    def loss_sums(
        self, phase: str, batch: Batch, noise: BatchRNG, shared: tuple[Tensor, Tensor | None]
    ) -> dict[str, Tensor]:
        """Sums over the rows of the features of real minus those of fake, and the rows."""
        if phase != "generator" or not self.config.matches_features:
            return {}
        fake, label = shared
        real = batch[self.config.modality]
        if self.config.fresh_noise:
            fake = self.generate(noise, "latent/generator", label)
        with torch.no_grad():
            on_real = head_inputs(self.discriminator, self._augment(real, noise, "real"), label)
        on_fake = head_inputs(self.discriminator, self._augment(fake, noise, "generator"), label)
        difference = (on_real - on_fake).to(real.dtype).sum(0)
        return {"features": difference, "rows": real.new_tensor(float(len(real)))}

    def _augment(self, x: Tensor, noise: BatchRNG, purpose: str) -> Tensor:
        """Samples as the discriminator sees them."""
        config = self.config
        if not config.augmentation:
            return x
        adapted = config.augmentation_target > 0
        given = noise.at(config.augmentation_probability)
        probability = self.probability * given if adapted else given
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
        on_real, on_fake, classes = _on_both(discriminate, real, fake, label)
        loss = losses.OBJECTIVES[config.objective].discriminator(on_real, on_fake)
        metrics = {"real": on_real.mean().detach(), "fake": on_fake.mean().detach()}
        if penalty != "none":
            size = self._penalty(penalty, (real, fake), (on_real, on_fake), label, noise)
            loss = loss + noise.at(config.penalty_weight) * config.penalty_every * size
            metrics["penalty"] = size.detach()
        if config.has_lecam:
            means = self.mean_logits.to(on_real.dtype)
            distance = (on_real - means[1]).square().mean() + (on_fake - means[0]).square().mean()
            loss = loss + noise.at(config.lecam) * distance
            metrics["lecam"] = distance.detach()
        if config.augmentation_target:
            metrics["augmentation"] = self.probability.clone()
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

    def batch_sums(
        self, batch: Batch, noise: BatchRNG, shared: tuple[Tensor, Tensor | None]
    ) -> dict[str, Tensor]:
        """Sums of the logits of real and fake, and of the signs of the former, by another pass of
        the discriminator on every WATCH_EVERY-th batch."""
        if not self.config.watches_logits:
            return {}
        fake, label = shared
        real = batch[self.config.modality]
        sums = real.new_zeros(4)
        if noise.batches % WATCH_EVERY == 0:
            seen = self._augment(real, noise, "real"), self._augment(fake, noise, "fake")
            on_real, on_fake, _ = _on_both(self.discriminator, *seen, label)
            rows = on_real.new_tensor(len(real))
            sums = torch.stack([on_real.sum(), on_fake.sum(), on_real.sign().sum(), rows])
        return {"logits": sums}

    def update(self, sums: dict[str, Tensor]) -> None:
        """Running means of the logits (decay 0.99 per batch that was watched), and the adapted
        probability."""
        if "logits" not in sums:
            return
        *totals, signs, rows = sums["logits"]
        watched = (rows > 0).to(rows.dtype)
        means = torch.stack(totals) / rows.clamp_min(1)
        self.mean_logits.lerp_(means.to(self.mean_logits.dtype), 0.01 * watched)
        if self.config.augmentation_target:
            above = signs / rows.clamp_min(1) - self.config.augmentation_target
            step = WATCH_EVERY * rows / self.config.augmentation_ramp
            self.probability.add_(watched * above.sign() * step).clamp_(0, 1)

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


def _on_both(
    discriminate: Callable[..., Any], real: Tensor, fake: Tensor, label: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logits of real and of fake, each (N,), and the class logits of both.

    One forward for both: two would break BatchNorm under data parallelism, and take longer. Losses
    are computed in the precision of the data, also under autocast.
    """
    labels = None if label is None else torch.cat([label, label])
    logits, classes = discriminate(torch.cat([real, fake]), labels)
    on_real, on_fake = logits.to(real.dtype).chunk(2)
    return on_real, on_fake, classes


class _Sample(nn.Module):
    """The generator with a label that may be left out of the call."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        return self.generator(latent, label)  # type: ignore[no-any-return]
