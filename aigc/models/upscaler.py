"""Upscaler by two or four: EDSR (Lim et al. 2017, arXiv:1707.02921) of a size for one core.

    aigc train upscaler:x2 --data.path pictures --name upscaler

Residual blocks without normalisation at the size of the input, sub-pixel convolution (Shi et al.
2016, arXiv:1609.05158), and the bicubic enlargement of the input, to which the network adds. It
sees a few pixels around each, so pictures of any size are made, large ones of tiles.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from aigc.config import TrainConfig
from aigc.model import Export
from aigc.nn.image_to_image import Bicubic, ResidualBlock, crops, reduced
from aigc.restoration import Degraded, Restoration, RestorationConfig, Trunk, one_core
from aigc.rng import BatchRNG


@dataclass(frozen=True, kw_only=True)
class Config(RestorationConfig):
    """`shape` and `crop` are those of the enlarged pictures."""

    factor: Literal[2, 4] = 2
    """Pixels made of each pixel, in height and in width."""

    @property
    def multiple(self) -> int:
        """See RestorationConfig.multiple."""
        return self.factor


class Network(Trunk):
    """(N, C, H, W) in [-1, 1] -> (N, C, factor * H, factor * W), unbounded."""

    def __init__(self, config: Config) -> None:
        channels, width, factor = config.shape[0], config.width, config.factor
        blocks = (ResidualBlock(width) for _ in range(config.blocks))
        super().__init__(channels, width, blocks, channels * factor**2)
        self.factor = factor
        self.bicubic = Bicubic(channels, factor)

    def prepared(self, *given: Tensor) -> tuple[Tensor, Tensor]:
        """The picture, and its bicubic enlargement."""
        (x,) = given
        return x, self.bicubic(x)

    def picture(self, detail: Tensor, base: Tensor, *given: Tensor) -> Tensor:
        """The enlargement with sub-pixels added to it."""
        return base + F.pixel_shuffle(detail, self.factor)


class Model(Restoration):
    """Trained on squares of the pictures, bicubically reduced."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config, Network(config))

    def degraded(self, images: Tensor, noise: BatchRNG) -> Degraded:
        """Squares of the pictures, (N, C, crop, crop), and their reductions."""
        large = crops(images, self.config.crop, noise)
        return Degraded(large, (reduced(large, self.config.factor),))

    def exports(self) -> dict[str, Export]:
        """`upscale`, of pictures of any height and width."""
        return self.export("upscale", "upscaled", factor=self.config.factor)


def x2() -> TrainConfig:
    """Twice as high and wide, for pictures of 64 x 64, on one core in minutes."""
    return one_core("upscaler:x2", Config(), samples=25_600)


def x4() -> TrainConfig:
    """Four times as high and wide."""
    run = x2()
    return replace(run, preset="upscaler:x4", model=Config(factor=4, crop=64))


def x2_gan() -> TrainConfig:
    """x2 with a discriminator of patches in the last third of the run: sharper, less exact."""
    model = Config(adversarial_weight="0:0 67%:0.5:step")
    return replace(x2(), preset="upscaler:x2_gan", model=model)


PRESETS = {"x2": x2, "x4": x4, "x2_gan": x2_gan}
"""Presets by the factor."""
