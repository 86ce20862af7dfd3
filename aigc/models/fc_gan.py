"""Fully connected GAN (Goodfellow et al. 2014, arXiv:1406.2661)."""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from aigc.config import DataConfig, OptimizerConfig, TrainConfig
from aigc.gan import GAN, GANConfig
from aigc.nn.layers import Dense, DiscriminatorHead, condition


@dataclass(frozen=True, kw_only=True)
class Config(GANConfig):
    """Layers of both networks; none at all is the one-layer GAN of preset `seed`."""

    generator_widths: tuple[int, ...] = (256, 512)
    """Widths of the generator's hidden layers."""
    discriminator_widths: tuple[int, ...] = (512, 256)
    """Widths of the discriminator's hidden layers."""


class Generator(nn.Module):
    """(N, latent) -> (N, *shape): σ scaled to [-1, 1] for images, unbounded for vectors."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        features = config.latent + config.num_classes
        self.layers = Dense(features, *config.generator_widths, math.prod(config.shape))

    def forward(self, z: Tensor, label: Tensor | None) -> Tensor:
        raw = self.layers(condition(z, label, self.config.num_classes))
        x = 2 * raw.sigmoid() - 1 if self.config.modality == "image" else raw
        return x.reshape(-1, *self.config.shape)  # type: ignore[no-any-return]


class Discriminator(nn.Module):
    """(N, *shape) -> logits (N,); the sigmoid is in the loss, where it cannot overflow."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        widths = (math.prod(config.shape), *config.discriminator_widths)
        self.layers = nn.Sequential(nn.Flatten(), Dense(*widths))
        if config.discriminator_widths:
            self.layers.append(nn.LeakyReLU(0.2))
        self.verdict = DiscriminatorHead(
            widths[-1], config.num_classes, config.auxiliary > 0, False
        )

    def forward(self, x: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self.verdict(self.layers(x), label)  # type: ignore[no-any-return]


class Model(GAN):
    """Fully connected generator and discriminator."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, Generator(config), Discriminator(config))


def mlp() -> TrainConfig:
    """A class-conditional one that works."""
    return TrainConfig(
        preset="fc_gan:mlp",
        model=Config(
            num_classes=10,
            auxiliary=1.0,
            generator_optimizer=OptimizerConfig(learning_rate=5e-4),
            discriminator_optimizer=OptimizerConfig(learning_rate=5e-4),
        ),
        samples=400_000,
    )


def seed() -> TrainConfig:
    """One layer each, σ(W·x + b): the smallest GAN there is."""
    return TrainConfig(
        preset="fc_gan:seed",
        model=Config(latent=100, generator_widths=(), discriminator_widths=()),
        samples=200_000,
    )


def ring() -> TrainConfig:
    """Eight Gaussians in the plane: trains in seconds, for tests and for looking at a GAN."""
    return TrainConfig(
        preset="fc_gan:ring",
        model=Config(
            shape=(2,), latent=4, generator_widths=(64, 64), discriminator_widths=(64, 64)
        ),
        data=DataConfig(source="ring"),
        samples=100_000,
    )


PRESETS = {"mlp": mlp, "seed": seed, "ring": ring}
