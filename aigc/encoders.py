"""Networks between one modality and a vector, for models that know several."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aigc.layers import Dense, Downsampler
from aigc.spectrogram import STFT

POOLED = 4
"""Frames of a sound that are seen as one."""
SEEN = 2
"""Convolutions of stride 2 over what is left of them."""


class TextEncoder(nn.Module):
    """(N, tokens) int64 -> (N, out)."""

    def __init__(self, tokens: int, vocabulary: int, hidden: int, out: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.empty(tokens, vocabulary, hidden))
        nn.init.normal_(self.first, std=tokens**-0.5)
        self.last = Dense(hidden, hidden, out)

    def forward(self, text: Tensor) -> Tensor:
        position = torch.arange(text.shape[1], device=text.device)
        h = F.leaky_relu(self.first[position, text].sum(1), 0.2)
        return self.last(h)  # type: ignore[no-any-return]


class ImageEncoder(nn.Module):
    """(N, C, H, W) -> (N, out)."""

    def __init__(
        self, shape: tuple[int, ...], widths: tuple[int, ...], hidden: int, out: int
    ) -> None:
        super().__init__()
        self.layers = Downsampler(shape, widths, 4, hidden, 0.0, False)
        self.last = nn.Linear(self.layers.features, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layers(x))  # type: ignore[no-any-return]


class AudioEncoder(nn.Module):
    """Log-magnitudes (N, bins, frames) -> (N, out); frequencies are channels."""

    def __init__(self, stft: STFT, widths: tuple[int, ...], hidden: int, out: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.AvgPool1d(POOLED)]
        channels, frames = stft.bins, stft.frames // POOLED
        for width in widths[-SEEN:]:
            layers += [nn.Conv1d(channels, width, 4, 2, padding=1), nn.LeakyReLU(0.2)]
            channels, frames = width, frames // 2
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.last = Dense(channels * frames, hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layers(x))  # type: ignore[no-any-return]


class AudioDecoder(nn.Module):
    """(N, given) -> log-magnitudes (N, bins, frames) in [-1, 1]; `widths` go from all frames on to
    the fewest."""

    def __init__(self, given: int, stft: STFT, widths: tuple[int, ...], hidden: int) -> None:
        super().__init__()
        widths = widths[::-1]
        frames = stft.frames // 2 ** (len(widths) - 1)
        self.first = nn.Sequential(
            nn.Linear(given, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, widths[0] * frames),
            nn.Unflatten(1, (widths[0], frames)),
        )
        self.blocks = nn.ModuleList(
            nn.Conv1d(c_in, c_out, 3, padding=1) for c_in, c_out in itertools.pairwise(widths)
        )
        self.last = nn.Conv1d(widths[-1], stft.bins, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = F.leaky_relu(self.first(z), 0.2)
        for block in self.blocks:
            h = F.leaky_relu(block(F.interpolate(h, scale_factor=2)), 0.2)
        return torch.tanh(self.last(h))


def shifted(images: Tensor, draws: Tensor, most: int) -> Tensor:
    """images: (N, C, H, W), each moved by up to `most` pixels as draws (N, 2) in [0, 1) say."""
    if not most:
        return images
    n, _, height, width = images.shape
    offset = (draws * (2 * most + 1)).long()
    padded = F.pad(images, (most,) * 4, value=-1.0)
    rows = offset[:, :1] + torch.arange(height, device=images.device)
    columns = offset[:, 1:] + torch.arange(width, device=images.device)
    index = torch.arange(n, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)
