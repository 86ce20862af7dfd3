"""Building blocks of networks that make images of images: local, so that they can be tiled."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aigc.artifact.axes import Axis
from aigc.artifact.manifest import TensorSpec
from aigc.rng import BatchRNG


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))), without normalisation (Lim et al. 2017, EDSR,
    arXiv:1707.02921, 3.1)."""

    def __init__(self, width: int, dilation: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) -> the same shape."""
        return x + self.second(F.relu(self.first(x)))  # type: ignore[no-any-return]


def image_spec(name: str, channels: int, factor: int = 1) -> TensorSpec:
    """An image of any height and width in [-1, 1], of `factor` pixels per place."""
    size = f"{factor}*" if factor > 1 else ""
    return TensorSpec(
        name=name,
        kind="image",
        dtype="float32",
        shape=(channels, f"{size}h", f"{size}w"),
        range=(-1.0, 1.0),
    )


def image_axes(height: int, width: int, smallest: int, largest: int) -> dict[str, Axis]:
    """Free height and width, in places."""
    return {
        name: Axis(min=smallest, max=largest, default=size)
        for name, size in (("h", height), ("w", width))
    }


def crops(images: Tensor, size: int, noise: BatchRNG) -> Tensor:
    """A random square of each image, mirrored and turned at random: (N, C, size, size).

    Images that are no larger than `size` along an axis keep all of that axis.
    """
    rows, device = len(images), images.device
    places = []
    for axis in (2, 3):
        length = min(size, images.shape[axis])
        start = noise.integers(f"crop/{axis}", images.shape[axis] - length + 1)
        along = torch.arange(length, device=device)
        mirrored = noise.integers(f"mirror/{axis}", 2)[:, None] == 1
        places.append(start[:, None] + torch.where(mirrored, length - 1 - along, along))
    row = torch.arange(rows, device=device)[:, None, None]
    chosen = images[row, :, places[0][:, :, None], places[1][:, None, :]].movedim(-1, 1)
    if chosen.shape[2] != chosen.shape[3]:
        return chosen
    turned = noise.integers("turn", 2).view(-1, 1, 1, 1) == 1
    return torch.where(turned, chosen.transpose(2, 3), chosen)


def reduced(images: Tensor, factor: int) -> Tensor:
    """(N, C, H, W) in [-1, 1] -> (N, C, H / factor, W / factor): bicubic and without aliases, as
    Pillow resizes and as `aigc evaluate` does, and clipped."""
    size = [images.shape[2] // factor, images.shape[3] // factor]
    small = F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False)
    return small.clamp(-1, 1)


class Bicubic(nn.Module):
    """Enlargement by a whole factor, as convolutions, which are local and the same at every place.

    (N, C, H, W) -> (N, C, factor * H, factor * W) by Keys' cubic with a = -0.5, as Pillow's; the
    edges are repeated beyond the image.
    """

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.channels, self.factor = channels, factor
        offsets = (torch.arange(factor, dtype=torch.float64) + 0.5) / factor - 0.5
        distance = (torch.arange(-2, 3, dtype=torch.float64)[None] - offsets[:, None]).abs()
        near = (1.5 * distance - 2.5) * distance**2 + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
        kernel = weights[:, None, :, None] * weights[None, :, None, :]
        self.register_buffer(
            "kernel",
            kernel.reshape(-1, 1, 5, 5).repeat(channels, 1, 1, 1).to(torch.get_default_dtype()),
            persistent=False,
        )
        self.kernel: Any

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        padded = F.pad(x, (2, 2, 2, 2), mode="replicate")
        parts = F.conv2d(padded, self.kernel.to(x.dtype), groups=self.channels)
        return F.pixel_shuffle(parts, self.factor)
