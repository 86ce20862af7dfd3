"""GANs of residual networks without normalisation, class-conditional, for pictures of any size.

`r3gan` is the recipe of Huang et al. 2024, arXiv:2501.05441: a relativistic objective with R1 and
R2, bottlenecks of grouped convolutions, Adam without momentum, and schedules that begin with
strong penalties. `sngan` (Miyato et al. 2018, arXiv:1802.05957) and `hinge_projection` (Miyato &
Koyama 2018, arXiv:1802.05637) are spectrally normalised with a hinge objective; their generators,
unlike those of the papers, have no BatchNorm.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from aigc.config import DataConfig, OptimizerConfig, TrainConfig, require
from aigc.gan import GAN, GANConfig
from aigc.nn.layers import activation, condition
from aigc.nn.residual import (
    Block,
    ResidualBlock,
    ResidualDiscriminator,
    ResidualDownsampler,
    convolution,
    doubled,
    levels,
    scaled_,
)


@dataclass(frozen=True, kw_only=True)
class Config(GANConfig):
    """Both networks; their depth and widths follow from the shape, see aigc/nn/residual.py."""

    shape: tuple[int, ...] = (3, 64, 64)
    latent: int = 64
    generator_width: int = 24
    """Channels of the generator at the picture's size; they double with each halving."""
    discriminator_width: int = 24
    """Channels of the discriminator at the picture's size; they double with each halving."""
    widest: int = 128
    """Most channels of either network."""
    blocks: int = 1
    """Residual blocks at each size."""
    block: Block = "bottleneck"
    """plain: two 3 x 3 convolutions; bottleneck: 1 x 1, grouped 3 x 3, 1 x 1."""
    spectral_norm: bool = False
    """Spectral normalisation of the discriminator (Miyato et al. 2018, arXiv:1802.05957)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.blocks > 0, f"blocks must be > 0, got {self.blocks}")
        for width in (self.generator_width, self.discriminator_width):
            levels(self.shape, width, self.widest)


class Generator(nn.Module):
    """(N, latent), labels (N,) -> (N, C, H, W) in [-1, 1].

    A learned picture of the smallest size, scaled per channel by the latent, then residual blocks
    and bilinear interpolation.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.num_classes = config.num_classes
        sizes = levels(config.shape, config.generator_width, config.widest)[::-1]
        channels = sizes[0][0]
        self.basis = nn.Parameter(torch.randn(sizes[0]))
        self.scales = nn.Linear(config.latent + config.num_classes, channels, bias=False)
        scaled_(self.scales.weight, 1.0)
        depth = config.blocks * len(sizes)
        self.stages = nn.ModuleList()
        for width, _, _ in sizes:
            layers = [] if width == channels else [convolution(channels, width, 1, spectral=False)]
            channels = width
            blocks = (
                ResidualBlock(width, config.block, depth, False) for _ in range(config.blocks)
            )
            self.stages.append(nn.Sequential(*layers, *blocks))
        self.picture = nn.Sequential(
            activation("leaky_relu"),
            convolution(channels, config.shape[0], 1, spectral=False),
        )

    def forward(self, z: Tensor, label: Tensor | None) -> Tensor:
        scales = self.scales(condition(z, label, self.num_classes))
        x = (self.basis * scales[:, :, None, None]).contiguous(memory_format=torch.channels_last)
        for i, stage in enumerate(self.stages):
            x = stage(doubled(x) if i else x)
        return self.picture(x).tanh()  # type: ignore[no-any-return]


def discriminator(config: Config) -> ResidualDiscriminator:
    """(N, C, H, W) in [-1, 1], labels (N,) -> logits (N,), class logits or None."""
    sizes = levels(config.shape, config.discriminator_width, config.widest)
    spectral = config.spectral_norm
    layers = ResidualDownsampler(config.shape, sizes, config.blocks, config.block, spectral)
    return ResidualDiscriminator(layers, config.num_classes, config.auxiliary > 0, spectral)


class Model(GAN):
    """Residual networks on both sides."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, Generator(config), discriminator(config))


def r3gan() -> TrainConfig:
    """Relativistic with R1 and R2; weights fall from ten times their final value in the first half
    of the run, and beta2 rises (section 4 and appendix of the paper)."""
    adam = OptimizerConfig(
        learning_rate="0:1e-3 50%:3e-4:cosine",
        betas=(0.0, "0:0.9 50%:0.99"),
    )
    return TrainConfig(
        preset="resnet_gan:r3gan",
        model=Config(
            num_classes=10,
            objective="relativistic",
            penalty="r1_r2",
            penalty_weight="0:10 50%:1:cosine",
            augmentation=("flip", "colour", "translation", "cutout"),
            augmentation_probability="0:0 50%:0.3:cosine",
            generator_optimizer=adam,
            discriminator_optimizer=adam,
        ),
        data=DataConfig(source="folder"),
        batch=32,
        samples=200_000,
    )


def sngan() -> TrainConfig:
    """Hinge objective, spectral norm and plain blocks, without classes."""
    adam = OptimizerConfig(learning_rate=5e-4, betas=(0.0, 0.9))
    run = r3gan()
    return replace(
        run,
        preset="resnet_gan:sngan",
        model=Config(
            objective="hinge",
            block="plain",
            spectral_norm=True,
            augmentation=("flip", "colour", "translation", "cutout"),
            generator_optimizer=adam,
            discriminator_optimizer=adam,
        ),
    )


def hinge_projection() -> TrainConfig:
    """`sngan` with a projection discriminator."""
    run = sngan()
    return replace(
        run,
        preset="resnet_gan:hinge_projection",
        model=replace(run.model, num_classes=10),
    )


PRESETS = {"r3gan": r3gan, "sngan": sngan, "hinge_projection": hinge_projection}
