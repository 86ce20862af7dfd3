"""Denoiser of unknown levels of noise, local and without normalisation.

    aigc train denoiser:gaussian --data.path pictures --name denoiser

The network works at half the size, on squares of four pixels as channels (FFDNet: Zhang et al.
2018, arXiv:1710.04026, 3.1), and its output is what is taken away (DnCNN: Zhang et al. 2017,
arXiv:1608.03981, 3). It is told no level of noise.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from aigc.config import TrainConfig, require
from aigc.model import Export
from aigc.nn.image_to_image import ResidualBlock, crops
from aigc.restoration import Degraded, Restoration, RestorationConfig, Trunk, one_core
from aigc.rng import BatchRNG

SQUARE = 2
"""Side of the squares of pixels that are a place of the network."""


@dataclass(frozen=True, kw_only=True)
class Config(RestorationConfig):
    """The range of levels of noise that are trained on."""

    crop: int = 48
    """Side of the squares that are trained on."""
    largest: int = 128
    """Largest height and width in one run, in places of 2 x 2 pixels; larger pictures are made of
    tiles of it."""
    noise: tuple[float, float] = (0.0, 55.0)
    """Smallest and largest standard deviation of the noise, of 255 levels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.noise
        require(0 <= low <= high <= 255, f"noise must be 0 <= low <= high <= 255, got {self.noise}")

    @property
    def multiple(self) -> int:
        """See RestorationConfig.multiple."""
        return SQUARE


class Network(Trunk):
    """(N, C, H, W) -> the same shape, without noise, unbounded."""

    def __init__(self, config: Config) -> None:
        channels, width = SQUARE**2 * config.shape[0], config.width
        blocks = (ResidualBlock(width) for _ in range(config.blocks))
        super().__init__(channels, width, blocks, channels)

    def prepared(self, *given: Tensor) -> tuple[Tensor, Tensor]:
        """The picture as squares of pixels, and as it is."""
        (x,) = given
        return F.pixel_unshuffle(x, SQUARE), x

    def picture(self, detail: Tensor, base: Tensor, *given: Tensor) -> Tensor:
        """The picture without its noise."""
        return base - F.pixel_shuffle(detail, SQUARE)


class Model(Restoration):
    """Trained on squares of the pictures with Gaussian noise of random levels."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config, Network(config))

    def degraded(self, images: Tensor, noise: BatchRNG) -> Degraded:
        """Squares of the pictures, (N, C, crop, crop), and the same with noise, clipped."""
        clear = crops(images, self.config.crop, noise)
        low, high = self.config.noise
        sigma = (low + (high - low) * noise.uniform("sigma", 1, 1, 1)) / 127.5
        noisy = (clear + sigma * noise.normal("noise", *clear.shape[1:])).clamp(-1, 1)
        return Degraded(clear, (noisy,))

    def exports(self) -> dict[str, Export]:
        """`denoise`, of pictures of any even height and width."""
        return self.export("denoise", "denoised")


def gaussian() -> TrainConfig:
    """Gaussian noise of up to 55 of 255 levels, for pictures of 64 x 64, on one core in minutes."""
    return one_core("denoiser:gaussian", Config(), samples=19_200)


PRESETS = {"gaussian": gaussian}
"""Presets by the kind of noise."""
