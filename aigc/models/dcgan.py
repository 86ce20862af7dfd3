"""Convolutional GAN (Radford et al. 2016, arXiv:1511.06434), optionally class-conditional."""

import math
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from aigc.config import DataConfig, OptimizerConfig, TrainConfig, require
from aigc.gan import GAN, GANConfig
from aigc.nn.layers import (
    Activation,
    DiscriminatorHead,
    Downsampler,
    Upsampler,
    Upsampling,
    condition,
    downsampled,
    fitting_widths,
    upsampling_base,
)


@dataclass(frozen=True, kw_only=True)
class Config(GANConfig):
    """Both networks. The image's height and width must be multiples of the strides' product."""

    generator_widths: tuple[int, ...] = (64, 32)
    """Channels that go into each convolution of the generator."""
    generator_strides: tuple[int, ...] = (2, 2)
    """Factor by which each of these convolutions enlarges height and width."""
    generator_kernel: int = 4
    """Kernel size of these convolutions."""
    upsampling: Upsampling = "transposed"
    """Convolutions of the generator: transposed, or resize, which upsamples by nearest neighbours
    and then convolves, against checkerboards; its kernel size must be odd."""
    generator_activation: Activation = "relu"
    batch_norm: bool = True
    """BatchNorm in the generator."""
    discriminator_widths: tuple[int, ...] = (32, 64)
    """Channels that come out of each convolution of stride 2."""
    discriminator_kernel: int = 4
    """Kernel size of the convolutions."""
    discriminator_hidden: int = 128
    """Width of a dense layer before the verdict; 0 for none."""
    dropout: float = 0.0
    """Dropout after each convolution of the discriminator."""
    spectral_norm: bool = False
    """Spectral normalisation of the discriminator (Miyato et al. 2018, arXiv:1802.05957)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.dropout < 1, f"dropout must be in [0, 1), got {self.dropout}")
        upsampling_base(
            self.shape,
            self.generator_widths,
            self.generator_strides,
            self.generator_kernel,
            self.upsampling,
        )
        downsampled(self.shape, self.discriminator_widths, self.discriminator_kernel)
        require(
            self.discriminator_hidden >= 0,
            f"discriminator_hidden must be >= 0, got {self.discriminator_hidden}",
        )

    def sizes_for(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """A layer per halving down to 4 to 7 pixels, where the layers do not fit the shape."""
        widths = fitting_widths(shape, math.prod(self.generator_strides))
        if not widths:
            return {}
        return {
            "generator_widths": widths[::-1],
            "generator_strides": (2,) * len(widths),
            "discriminator_widths": widths,
        }


class Generator(nn.Module):
    """(N, latent), labels (N,) -> (N, C, H, W) in [-1, 1]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.num_classes = config.num_classes
        self.layers = Upsampler(
            config.latent + config.num_classes,
            config.shape,
            config.generator_widths,
            config.generator_strides,
            config.generator_kernel,
            config.generator_activation,
            config.batch_norm,
            config.upsampling,
        )

    def forward(self, z: Tensor, label: Tensor | None) -> Tensor:
        return self.layers(condition(z, label, self.num_classes)).tanh()  # type: ignore[no-any-return]


class Discriminator(nn.Module):
    """(N, C, H, W) in [-1, 1], labels (N,) -> logits (N,), class logits or None."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.layers = Downsampler(
            config.shape,
            config.discriminator_widths,
            config.discriminator_kernel,
            config.discriminator_hidden,
            config.dropout,
            config.spectral_norm,
        )
        self.verdict = DiscriminatorHead(
            self.layers.features, config.num_classes, config.auxiliary > 0, config.spectral_norm
        )

    def forward(self, x: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self.verdict(self.layers(x), label)  # type: ignore[no-any-return]


class Model(GAN):
    """Transposed convolutions against convolutions."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, Generator(config), Discriminator(config))


def digits() -> TrainConfig:
    """Class-conditional digits in a minute: projection, auxiliary head, spectral norm, EMA."""
    return TrainConfig(
        preset="dcgan:digits",
        model=Config(num_classes=10, auxiliary=1.0, spectral_norm=True),
        samples=192_000,
    )


def pictures64() -> TrainConfig:
    """Colour pictures of 64 x 64 on one core in minutes: resize convolutions, and augmentation for
    few pictures."""
    adam = OptimizerConfig(learning_rate="0:1e-3 50%:1e-3 100%:1e-4")
    return TrainConfig(
        preset="dcgan:pictures64",
        model=Config(
            shape=(3, 64, 64),
            num_classes=2,
            auxiliary=1.0,
            generator_widths=(128, 64, 32, 16),
            generator_strides=(2, 2, 2, 2),
            generator_kernel=3,
            upsampling="resize",
            discriminator_widths=(16, 32, 64, 128),
            discriminator_hidden=0,
            penalty="r1",
            penalty_every=4,
            penalty_weight=1.0,
            feature_matching=1.0,
            augmentation=("flip", "translation"),
            generator_optimizer=adam,
            discriminator_optimizer=adam,
        ),
        data=DataConfig(source="folder"),
        batch=16,
        samples=40_000,
        report_interval=1_600,
        grid_interval=0,
        checkpoint_interval=10_000,
    )


def _variant(name: str, **changes: object) -> TrainConfig:
    """`digits` with another objective."""
    run = digits()
    return replace(run, preset=f"dcgan:{name}", model=replace(run.model, **changes))  # type: ignore[arg-type]


def hinge() -> TrainConfig:
    """Hinge objective (Lim & Ye 2017)."""
    return _variant("hinge", objective="hinge")


def least_squares() -> TrainConfig:
    """LSGAN (Mao et al. 2017)."""
    return _variant("least_squares", objective="least_squares")


def minimax() -> TrainConfig:
    """The saturating objective of the first GAN paper (Goodfellow et al. 2014)."""
    return _variant("minimax", objective="minimax")


def wgan_gp() -> TrainConfig:
    """WGAN-GP (Gulrajani et al. 2017): five discriminator steps per generator step."""
    adam = OptimizerConfig(learning_rate=2e-4, betas=(0.0, 0.9))
    return _variant(
        "wgan_gp",
        objective="wasserstein",
        penalty="gradient",
        spectral_norm=False,
        discriminator_steps=5,
        generator_optimizer=adam,
        discriminator_optimizer=adam,
    )


def article() -> TrainConfig:
    """Dense to 7x7x256, 5x5 transposed convolutions of strides 1, 2, 2; dropout; Adam 1e-4."""
    adam = OptimizerConfig(learning_rate=1e-4, betas=(0.5, 0.999))
    return TrainConfig(
        preset="dcgan:article",
        model=Config(
            latent=100,
            generator_widths=(256, 128, 64),
            generator_strides=(1, 2, 2),
            generator_kernel=5,
            generator_activation="leaky_relu",
            discriminator_kernel=5,
            discriminator_hidden=0,
            dropout=0.3,
            generator_optimizer=adam,
            discriminator_optimizer=adam,
        ),
        samples=600_000,
    )


PRESETS = {
    "digits": digits,
    "pictures64": pictures64,
    "hinge": hinge,
    "least_squares": least_squares,
    "minimax": minimax,
    "wgan_gp": wgan_gp,
    "article": article,
}
