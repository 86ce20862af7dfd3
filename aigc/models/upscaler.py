"""Upscaler by two or four: EDSR (Lim et al. 2017, arXiv:1707.02921) of a size for one core.

    aigc train upscaler:x2 --data.path pictures --name upscaler

Residual blocks without normalisation at the size of the input, sub-pixel convolution (Shi et al.
2016, arXiv:1609.05158), and the bicubic enlargement of the input, to which the network adds. It
sees a few pixels around each, so pictures of any size are made, large ones of tiles.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from aigc.config import TrainConfig
from aigc.model import Batch, Export
from aigc.nn.image_to_image import Bicubic, ResidualBlock, crops, reduced
from aigc.restoration import Restoration, RestorationConfig, one_core
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


class Network(nn.Module):
    """(N, C, H, W) in [-1, 1] -> (N, C, factor * H, factor * W), unbounded."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        channels, width = config.shape[0], config.width
        self.factor = config.factor
        self.bicubic = Bicubic(channels, config.factor)
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(config.blocks)))
        self.last = nn.Conv2d(width, channels * config.factor**2, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        detail = F.pixel_shuffle(self.last(first + self.blocks(first)), self.factor)
        return self.bicubic(x) + detail  # type: ignore[no-any-return]


class Model(Restoration):
    """Trained on squares of the pictures, bicubically reduced."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config, Network(config))

    def prepare(
        self, batch: Batch, noise: BatchRNG, due: Collection[str]
    ) -> tuple[Tensor, tuple[Tensor]]:
        """Squares of the pictures, (N, C, crop, crop), and their reductions."""
        large = crops(batch["image"], self.config.crop, noise)
        return large, (reduced(large, self.config.factor),)

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


PRESETS = {"x2": x2, "x4": x4}
"""Presets by the factor."""
