"""GAN whose losses compare each row with the whole batch, by sums that have gradients."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from aigc.config import TrainConfig
from aigc.model import Batch
from aigc.models import dcgan
from aigc.rng import BatchRNG

Config = dcgan.Config


class Model(dcgan.Model):
    """Logits in units of their standard deviation over the batch."""

    def _logits(self, phase: str, batch: Batch, shared: Any) -> Tensor:
        fake, label = shared
        logits: Tensor = self.discriminator(
            fake if phase == "generator" else batch["image"], label
        )[0]
        return logits

    def loss_sums(
        self, phase: str, batch: Batch, noise: BatchRNG, shared: Any
    ) -> dict[str, Tensor]:
        logits = self._logits(phase, batch, shared)
        return {
            "rows": logits.new_tensor(len(logits)),
            "moments": torch.stack([logits.sum(), logits.square().sum()]),
        }

    def loss(
        self, phase: str, batch: Batch, noise: BatchRNG, shared: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = super().loss(phase, batch, noise, shared)
        mean, square = batch["sum/moments"] / batch["sum/rows"]
        deviation = (square - mean.square() + 1e-3).sqrt()
        logits = (self._logits(phase, batch, shared) - mean) / deviation
        return loss + logits.exp().mean(), metrics | {"deviation": deviation.detach()}


def small() -> TrainConfig:
    """Spectral norm, without BatchNorm."""
    run = dcgan.PRESETS["digits"]()
    widths = {"generator_widths": (16, 8), "discriminator_widths": (8, 16)}
    model = replace(run.model, batch_norm=False, **widths)  # type: ignore[call-arg]
    return replace(run, preset="coupled_gan:small", model=model)


PRESETS = {"small": small}
