"""Log-mel spectrograms of sounds of any length, as matrix products, and sounds of spectra.

All are computed in the precision of their input, in float32 under autocast: what a model is trained
on is what is exported.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aigc.config import require
from aigc.nn.full_precision import full_precision, widened
from aigc.nn.mel_scale import mel_triangles

SMALLEST = 1e-7
"""Added to the square of a magnitude, whose root then has a gradient at 0; full scale is 1."""


@dataclass(frozen=True, kw_only=True)
class Framing:
    """Frames of a sound, Hann windows; a sound of samples = hop * t has t frames.

    Frame i is centred at sample hop * (i + 1/2); zeros are before and behind the sound.
    """

    window: int
    """Samples of a frame, a multiple of twice the hop."""
    hop: int
    """Samples from one frame to the next."""

    def __post_init__(self) -> None:
        require(
            self.hop > 0 and self.window >= 2 * self.hop and self.window % (2 * self.hop) == 0,
            f"window must be a multiple of twice the hop, got {self.window} for hop {self.hop}",
        )
        require(
            self.hop % 2 == 0,
            f"hop must be even, so that frames lie in the middle of theirs, got {self.hop}; take"
            f" {self.hop + 1}, and a window of a multiple of twice of it",
        )

    @property
    def bins(self) -> int:
        """Frequencies of a frame, from 0 to half the rate."""
        return self.window // 2 + 1

    @property
    def padding(self) -> int:
        """Zeros before and behind a sound."""
        return (self.window - self.hop) // 2

    def frames(self, wave: Tensor) -> Tensor:
        """(N, 1, hop * t) -> (N, t, window), without the Hann window."""
        each = self.window // self.hop
        blocks = F.pad(wave[:, 0], (self.padding, self.padding))
        blocks = blocks.reshape(wave.shape[0], -1, self.hop)
        count = blocks.shape[1] - each + 1
        return torch.cat([blocks[:, i : i + count] for i in range(each)], 2)

    def hann(self) -> Tensor:
        """(window,) float64."""
        return torch.hann_window(self.window, dtype=torch.float64)

    def basis(self) -> Tensor:
        """(window, 2 * bins) float64: frames times it are windowed spectra, real parts beside
        imaginary ones; a sine of full scale has magnitude 1 at its peak."""
        time = torch.arange(self.window, dtype=torch.float64)
        turn = 2 * math.pi / self.window * (time[:, None] * torch.arange(self.bins) % self.window)
        return torch.cat([turn.cos(), -turn.sin()], 1) * self.hann()[:, None] * (4 / self.window)


class Magnitude(nn.Module):
    """Sounds (N, 1, hop * t) in [-1, 1] -> magnitudes (N, t, bins), 1 at the peak of a full-scale
    sine.

    The transform is a product with a matrix: a convolution of one channel rounds more, which the
    logarithm of faint parts then shows.
    """

    basis: Tensor

    def __init__(self, framing: Framing) -> None:
        super().__init__()
        self.framing = framing
        basis = framing.basis().to(torch.get_default_dtype())
        self.register_buffer("basis", basis, persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        with full_precision(wave):
            wave = widened(wave)
            spectra = self.framing.frames(wave) @ self.basis.to(wave.dtype)
            real, imaginary = spectra.chunk(2, 2)
            return (real.square() + imaginary.square() + SMALLEST**2).sqrt()


class LogMel(nn.Module):
    """Sounds (N, 1, hop * t) in [-1, 1] -> natural logarithms of mel bands (N, bands, t).

    Triangular bands, even on the mel scale of O'Shaughnessy 1987, 2595 log10(1 + f / 700 Hz), of
    weights that sum to 1; magnitudes below `floor` count as it.
    """

    bands: Tensor

    def __init__(self, framing: Framing, bands: int, rate_hz: int, floor: float = 1e-5) -> None:
        super().__init__()
        self.magnitude, self.floor = Magnitude(framing), floor
        filters = mel_filters(framing.bins, bands, rate_hz).to(torch.get_default_dtype())
        self.register_buffer("bands", filters, persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        with full_precision(wave):
            magnitude = self.magnitude(wave)
            level: Tensor = (magnitude @ self.bands.to(magnitude.dtype)).clamp_min(self.floor).log()
        return level.transpose(1, 2)


def most_bands(bins: int, rate_hz: int) -> int:
    """Number of mel bands, the largest of 128, 64, 32, ..., each of which has a frequency of its
    own."""
    bands = 128
    while bands > 1 and not (_triangles(bins, bands, rate_hz).sum(0) > 0).all():
        bands //= 2
    return bands


def mel_filters(bins: int, bands: int, rate_hz: int) -> Tensor:
    """(bins, bands) float64, each column of sum 1. Raises ValueError for bands without a bin."""
    found = _triangles(bins, bands, rate_hz)
    total = found.sum(0)
    require(
        bool((total > 0).all()),
        f"{bands} mel bands are more than {bins} frequencies tell apart: {int((total == 0).sum())}"
        " of them have none; take fewer bands, or a longer window",
    )
    return found / total


def _triangles(bins: int, bands: int, rate_hz: int) -> Tensor:
    """(bins, bands) float64."""
    return torch.from_numpy(mel_triangles(2 * (bins - 1), rate_hz, bands).T)


class InverseSTFT(nn.Module):
    """Spectra -> sounds: real and imaginary parts, each (N, bins, t), -> (N, 1, hop * t).

    The inverse of windowed spectra at the scale of Framing.basis(), overlapping frames added and
    divided by the sum of the squared windows (Griffin & Lim 1984, eq. 6), as a transposed
    convolution, which has any length.
    """

    basis: Tensor
    squares: Tensor

    def __init__(self, framing: Framing) -> None:
        super().__init__()
        self.framing = framing
        sides = torch.full((framing.bins,), 2.0, dtype=torch.float64)
        sides[0] = sides[-1] = 1
        # window / 4 undoes the scale of the spectra, once more that of the basis; then 1 / window.
        basis = framing.basis().T * torch.cat([sides, sides])[:, None] * (framing.window / 16)
        dtype = torch.get_default_dtype()
        self.register_buffer("basis", basis[:, None].to(dtype), persistent=False)
        squares = framing.hann().square()[None, None].to(dtype)
        self.register_buffer("squares", squares, persistent=False)

    def forward(self, real: Tensor, imaginary: Tensor) -> Tensor:
        with full_precision(real):
            spectra = widened(torch.cat([real, imaginary], 1))
            summed = self._added(spectra, self.basis.to(spectra.dtype))
            overlap = self._added(torch.ones_like(spectra[:1, :1]), self.squares.to(spectra.dtype))
            return summed / overlap

    def _added(self, frames: Tensor, weight: Tensor) -> Tensor:
        framing = self.framing
        return F.conv_transpose1d(frames, weight, stride=framing.hop, padding=framing.padding)
