"""Waveforms to log-magnitude spectrograms, and back by Griffin-Lim as plain convolutions."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aigc.config import require

HANN = 0.25645
"""Time-frequency ratio, over the length squared, of the Gaussian most similar to a Hann window
(Prusa et al. 2017, table I)."""


def check_waveform(shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `shape` is (1, samples), a sound of one channel."""
    require(
        len(shape) == 2 and shape[0] == 1,
        f"shape must be (1, samples), a sound of one channel, got {shape}",
    )


def check_griffin_lim(iterations: int, momentum: float) -> None:
    """Raise ValueError for arguments that GriffinLim does not take."""
    require(iterations >= 0, f"iterations must be >= 0, got {iterations}")
    require(0 <= momentum < 1, f"momentum must be in [0, 1), got {momentum}")


@dataclass(frozen=True, kw_only=True)
class STFT:
    """A short-time Fourier transform with a Hann window; the bin of half the rate is left out.

    `samples` is the length of a waveform, which has samples / hop frames of window / 2 bins.
    """

    samples: int
    window: int
    hop: int
    floor: float
    """Magnitude below which differences vanish; full scale is 1."""

    def __post_init__(self) -> None:
        require(self.hop > 0, f"hop must be > 0, got {self.hop}")
        require(
            self.window % (2 * self.hop) == 0 and self.window >= 4 * self.hop,
            f"window must be a multiple of twice the hop and at least four hops, got {self.window}"
            f" for hop {self.hop}",
        )
        require(
            self.samples % self.hop == 0,
            f"the sound's {self.samples} samples must be a multiple of the hop, {self.hop}",
        )
        require(0 < self.floor < 1, f"floor must be in (0, 1), got {self.floor}")

    @property
    def bins(self) -> int:
        """Number of frequencies of a frame."""
        return self.window // 2

    @property
    def frames(self) -> int:
        """Number of frames of a waveform."""
        return self.samples // self.hop

    @property
    def padding(self) -> int:
        """Zeros before and behind a waveform."""
        return (self.window - self.hop) // 2

    def log_magnitude(self, wave: Tensor) -> Tensor:
        """wave: (N, 1, samples) in [-1, 1] -> (N, bins, frames) in [-1, 1], -1 for silence.

        The log of |STFT| + floor, where a full-scale sine has magnitude 1 at its peak.
        """
        padded = nn.functional.pad(wave[:, 0], (self.padding, self.padding))
        window = torch.hann_window(self.window, dtype=wave.dtype, device=wave.device)
        spectrum = torch.stft(
            padded, self.window, self.hop, window=window, center=False, return_complex=True
        )
        return self.level(spectrum[:, :-1].abs() * (4 / self.window))

    def basis(self) -> Tensor:
        """(2 bins, 1, window) float64: weights of a convolution to real parts above imaginary ones,
        at the scale of log_magnitude()."""
        time = torch.arange(self.window, dtype=torch.float64)
        turn = 2 * math.pi * torch.arange(self.bins, dtype=torch.float64)[:, None] * time
        turn = turn / self.window
        window = torch.hann_window(self.window, dtype=torch.float64)
        return (torch.cat([turn.cos(), -turn.sin()]) * window)[:, None] * (4 / self.window)

    def level(self, magnitude: Tensor) -> Tensor:
        """|STFT| >= 0 -> its log in [-1, 1], -1 for silence and 1 for full scale."""
        return (2 * ((magnitude + self.floor) / self.floor).log() / self.span - 1).clamp(-1, 1)

    def magnitude(self, level: Tensor) -> Tensor:
        """Inverse of level(): (N, bins, frames) in [-1, 1] -> |STFT| >= 0."""
        return self.floor * ((level + 1) * (self.span / 2)).exp() - self.floor

    @property
    def span(self) -> float:
        """Range between silence and full scale, in nepers."""
        return math.log((1 + self.floor) / self.floor)


class LogMagnitude(nn.Module):
    """STFT.log_magnitude() as a convolution, for export as a graph of plain operators."""

    basis: Tensor

    def __init__(self, stft: STFT) -> None:
        super().__init__()
        self.stft = stft
        self.register_buffer("basis", stft.basis().float(), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        """wave: (N, 1, samples) in [-1, 1] -> (N, bins, frames) in [-1, 1]."""
        stft = self.stft
        spectrum = nn.functional.conv1d(wave, self.basis, stride=stft.hop, padding=stft.padding)
        real, imaginary = spectrum.chunk(2, 1)
        return stft.level((real.square() + imaginary.square()).sqrt())


class GriffinLim(nn.Module):
    """Log-magnitudes (N, bins, frames) in [-1, 1] -> waveforms (N, 1, samples) in [-1, 1].

    Griffin & Lim 1984 with the momentum of Perraudin et al. 2013 ("A fast Griffin-Lim algorithm"),
    starting at phases computed from the slopes of the magnitudes (Prusa et al. 2017, "A
    noniterative method for reconstruction of phase from STFT magnitude", eq. 21). Both transforms
    are convolutions, for export as a graph of plain operators. The search for phases is chaotic:
    every iteration amplifies rounding errors, so only a few of them leave a sample reproducible.
    """

    forward_basis: Tensor
    inverse_basis: Tensor
    overlap: Tensor
    bin_phase: Tensor

    def __init__(self, stft: STFT, iterations: int, momentum: float) -> None:
        super().__init__()
        self.stft, self.iterations, self.momentum = stft, iterations, momentum
        size, bins = stft.window, stft.bins
        window = torch.hann_window(size, dtype=torch.float64)
        basis = stft.basis()
        sides = torch.full((bins,), 2.0, dtype=torch.float64)
        sides[0] = 1
        weight = torch.cat([sides, sides])[:, None, None] * (size / 16)
        # Sum of the windows of all frames at every sample, to divide by.
        overlap = nn.functional.conv_transpose1d(
            torch.ones(1, 1, stft.frames, dtype=torch.float64),
            window.square()[None, None],
            stride=stft.hop,
            padding=stft.padding,
        )
        # Phase of each bin at every frame modulo a turn: large angles would lose digits.
        steps = torch.arange(bins)[:, None] * stft.hop * torch.arange(stft.frames) % size
        half = size // 2 * (torch.arange(bins) % 2)[:, None]
        bin_phase = 2 * math.pi * ((steps + half) % size) / size
        for name, value in (
            ("forward_basis", basis),
            ("inverse_basis", basis * weight),
            ("overlap", overlap),
            ("bin_phase", bin_phase),
        ):
            self.register_buffer(name, value.float(), persistent=False)

    def forward(self, level: Tensor) -> Tensor:
        magnitude = self.stft.magnitude(level)
        target = torch.cat([magnitude, magnitude], 1)
        phase = self._first_phase(level)
        wave = self._wave(target * torch.cat([phase.cos(), phase.sin()], 1))
        before = None
        for _ in range(self.iterations):
            rebuilt = self._spectrum(wave)
            ahead = rebuilt if before is None else rebuilt + self.momentum * (rebuilt - before)
            before = rebuilt
            wave = self._wave(target * self._unit_phase(ahead))
        return wave.clamp(-1, 1)

    def _first_phase(self, level: Tensor) -> Tensor:
        """(N, bins, frames) radians: each bin's own advance per hop, bent towards nearby peaks."""
        stft = self.stft
        ends = torch.cat([level[:, :1], level, level[:, -1:]], 1)
        slope = (ends[:, 2:] - ends[:, :-2]) * (stft.span / 4)
        bend = slope * (stft.hop / (HANN * stft.window))
        between = (bend[:, :, 1:] + bend[:, :, :-1]) / 2
        bent = torch.cat([torch.zeros_like(level[:, :, :1]), between.cumsum(2)], 2)
        return self.bin_phase + bent

    def _spectrum(self, wave: Tensor) -> Tensor:
        stft = self.stft
        return nn.functional.conv1d(wave, self.forward_basis, stride=stft.hop, padding=stft.padding)

    def _wave(self, spectrum: Tensor) -> Tensor:
        stft = self.stft
        summed = nn.functional.conv_transpose1d(
            spectrum, self.inverse_basis, stride=stft.hop, padding=stft.padding
        )
        return summed / self.overlap

    def _unit_phase(self, spectrum: Tensor) -> Tensor:
        """Real and imaginary parts (N, 2 bins, frames), normalised to the unit circle.

        Values below the floor stay small: their phase is rounding error.
        """
        real, imaginary = spectrum.chunk(2, 1)
        size = (real.square() + imaginary.square() + self.stft.floor**2).sqrt()
        return torch.cat([real / size, imaginary / size], 1)
