"""Inpainter: holes of a picture are filled smoothly, and a network adds what is missing.

    aigc train inpainter:holes --data.path pictures --name inpainter

The smooth fill is in the graph: means of known pixels around (normalised convolution: Knutsson &
Westin 1993, Normalized and differential convolution), from wide to narrow, the widest at a quarter
of the size, and some steps of diffusion. The network works at a quarter of the size, on squares of
pixels as channels, with dilated residual blocks (Yu & Koltun 2016, arXiv:1511.07122). Pixels that
are not to be filled are those of the input. The smooth fill is grey in the middle of holes wider
and higher than the widest window of 124 pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from aigc.config import TrainConfig, require
from aigc.model import Export
from aigc.nn.image_to_image import ResidualBlock, crops
from aigc.nn.masks import NUMBERS, masks
from aigc.restoration import Degraded, Restoration, RestorationConfig, Trunk, one_core
from aigc.rng import BatchRNG

SQUARE = 4
"""Side of the squares of pixels that are a place of the network."""
DILATIONS = (1, 2, 4)
"""Dilations of the residual blocks, in turn."""
TRUST = 1e-3
"""Share of known pixels in a window at which it counts as much as the wider one."""


@dataclass(frozen=True, kw_only=True)
class Config(RestorationConfig):
    """Sizes; masks are those of aigc/nn/masks.py."""

    width: int = 64
    """Channels between the layers."""
    blocks: int = 6
    """Residual blocks of two convolutions each."""
    crop: int = 64
    """Side of the squares that are trained on."""
    largest: int = 96
    """Largest height and width in one run, in places of 4 x 4 pixels; larger pictures are made of
    tiles of it."""
    far_windows: tuple[int, ...] = (31, 11)
    """Sides of the widest windows of the smooth fill, odd numbers of places, from wide on."""
    windows: tuple[int, ...] = (15, 7, 3)
    """Sides of the windows that follow, odd numbers of pixels."""
    diffusion_steps: int = 16
    """Steps of diffusion that end the smooth fill."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, sides in (("far_windows", self.far_windows), ("windows", self.windows)):
            require(
                len(sides) > 0 and all(side > 0 and side % 2 for side in sides),
                f"{name} must be odd numbers > 0, at least one, got {sides}",
            )
        require(
            self.diffusion_steps >= 0, f"diffusion_steps must be >= 0, got {self.diffusion_steps}"
        )

    @property
    def multiple(self) -> int:
        """See RestorationConfig.multiple."""
        return SQUARE


def smooth_fill(x: Tensor, holes: Tensor, config: Config) -> Tensor:
    """x: (N, C, H, W), holes: (N, 1, H, W), 1 in holes -> x with its holes filled smoothly."""
    known = 1 - holes
    shown = x * known
    colours, share = F.avg_pool2d(shown, SQUARE), F.avg_pool2d(known, SQUARE)
    wide = _means_of_known(colours, share, config.far_windows)
    wide = F.interpolate(wide, scale_factor=float(SQUARE), mode="nearest")
    filled = _means_of_known(shown, known, config.windows, wide)
    filled = shown + holes * filled
    for _ in range(config.diffusion_steps):
        wide = F.pad(filled, (1, 1, 1, 1), mode="replicate")
        down = wide[:, :, :-2, 1:-1] + wide[:, :, 2:, 1:-1]
        across = wide[:, :, 1:-1, :-2] + wide[:, :, 1:-1, 2:]
        filled = shown + holes * (down + across) / 4
    return filled


def _means_of_known(
    shown: Tensor, known: Tensor, windows: Sequence[int], wide: Tensor | None = None
) -> Tensor:
    """Means of what is known in windows around each place, and where little is, in wider ones."""
    for side in windows:
        means, share = _means(shown, side), _means(known, side)
        if wide is None:
            wide = means / share.clamp_min(1e-6)
        else:
            wide = (means + TRUST * wide) / (share + TRUST)
    assert wide is not None
    return wide


def _means(x: Tensor, side: int) -> Tensor:
    """Means over squares around each pixel, of zeros beyond the edges: the same shape."""
    half = side // 2
    return F.avg_pool2d(F.avg_pool2d(x, (side, 1), 1, (half, 0)), (1, side), 1, (0, half))


class Network(Trunk):
    """Picture (N, C, H, W) and mask (N, 1, H, W) -> the picture with its holes filled."""

    def __init__(self, config: Config) -> None:
        channels, width = config.shape[0], config.width
        dilations = (DILATIONS[at % len(DILATIONS)] for at in range(config.blocks))
        blocks = (ResidualBlock(width, dilation) for dilation in dilations)
        super().__init__(SQUARE**2 * (channels + 1), width, blocks, SQUARE**2 * channels)
        self.config = config

    def prepared(self, *given: Tensor) -> tuple[Tensor, Tensor]:
        """The smooth fill beside the mask, as squares of pixels, and the smooth fill."""
        x, mask = given
        holes = (mask >= 0.5).to(x.dtype)
        filled = smooth_fill(x, holes, self.config)
        return F.pixel_unshuffle(torch.cat([filled, holes], 1), SQUARE), filled

    def picture(self, detail: Tensor, base: Tensor, *given: Tensor) -> Tensor:
        """The given picture, and in its holes the smooth fill with details."""
        x, mask = given
        return torch.where(mask >= 0.5, base + F.pixel_shuffle(detail, SQUARE), x)


class Model(Restoration):
    """Trained on squares of the pictures with random holes."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config, Network(config))

    def degraded(self, images: Tensor, noise: BatchRNG) -> Degraded:
        """Squares of the pictures, (N, C, crop, crop), and the same with holes, and the masks."""
        whole = crops(images, self.config.crop, noise)
        holes = masks(noise.uniform("mask", NUMBERS), *whole.shape[2:])
        return Degraded(whole, (whole * (1 - holes), holes))

    def exports(self) -> dict[str, Export]:
        """`inpaint`, of pictures whose height and width are multiples of 4."""
        return self.export("inpaint", "inpainted", mask=True)


def holes() -> TrainConfig:
    """Boxes and strokes of an eighth of the pixels, for pictures of 64 x 64, on one core."""
    return one_core("inpainter:holes", Config(), samples=32_000)


PRESETS = {"holes": holes}
"""Presets by what is to be filled."""
