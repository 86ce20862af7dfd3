"""Encoders from one modality to a vector, for models of several modalities."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aigc.nn.layers import Dense, Downsampler
from aigc.nn.spectrogram import STFT

POOLED = 4
"""Frames of a sound that are averaged into one."""


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
        for width in widths:
            layers += [nn.Conv1d(channels, width, 4, 2, padding=1), nn.LeakyReLU(0.2)]
            channels, frames = width, frames // 2
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.last = Dense(channels * frames, hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layers(x))  # type: ignore[no-any-return]


def shifted(images: Tensor, draws: Tensor, max_pixels: int) -> Tensor:
    """Images (N, C, H, W), each shifted by up to `max_pixels`; draws: (N, 2) uniform in [0, 1)."""
    if not max_pixels:
        return images
    n, _, height, width = images.shape
    offset = (draws * (2 * max_pixels + 1)).long()
    padded = F.pad(images, (max_pixels,) * 4, value=-1.0)
    rows = offset[:, :1] + torch.arange(height, device=images.device)
    columns = offset[:, 1:] + torch.arange(width, device=images.device)
    index = torch.arange(n, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)
