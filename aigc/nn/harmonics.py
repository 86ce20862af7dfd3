"""Spectra of voices from few numbers: an envelope, a pitch, and the strength of the harmonics.

The log-magnitude spectrum of a periodic sound is a smooth envelope plus a comb, a ripple over
frequency whose period is the pitch. A cepstrum separates the two (Noll 1967, "Cepstrum pitch
determination"); here they are put together, so that harmonics cannot be blurred.
"""

import math

import torch
from torch import Tensor, nn

from aigc.config import require
from aigc.nn.spectrogram import STFT

FREQUENCY_WARP_EXPONENT = 0.8
"""Exponent of frequency by which bands of the envelope are spaced: denser around formants."""
PITCH_FREQUENCY_RANGE = (0.006, 0.3)
"""Frequencies (cycles per sample) that a pitch is estimated from; above, real combs fade."""
FLAT = 15
"""Bins over which a spectrum is averaged to subtract its envelope."""
STRENGTH = 0.1
"""Strength of a ripple whose parameter is 1, as in a voice. Larger ones would also amplify rounding
errors in the pitch of high harmonics."""
MEMORY = 3.0
"""Frames over which a pitch is carried into frames that have none."""


class Harmonics(nn.Module):
    """Parameters (N, size, frames) -> log-magnitudes (N, bins, frames), unbounded.

    level(f, t) = envelope(f, t) + STRENGTH Σⱼ rippleⱼ(f, t) cos(2π j f / pitch(t)), j = 1..ripples

    Envelope and ripples are interpolated linearly between `bands` and `ripple_bands` frequencies.
    Pitch is in [0, 1] of the logarithmic range `pitch`, which is in cycles per sample.
    """

    envelope: Tensor
    ripple: Tensor
    cycles: Tensor
    templates: Tensor
    held: Tensor

    def __init__(
        self, stft: STFT, bands: int, ripple_bands: int, ripples: int, pitch: tuple[float, float]
    ) -> None:
        super().__init__()
        require(min(bands, ripple_bands) >= 2, "bands and ripple_bands must be >= 2")
        require(ripples >= 1, f"ripples must be >= 1, got {ripples}")
        require(0 < pitch[0] < pitch[1] < 0.5, f"pitch must rise within (0, 0.5), got {pitch}")
        self.bands, self.ripple_bands, self.ripples = bands, ripple_bands, ripples
        self.low, self.octaves = pitch[0], math.log2(pitch[1] / pitch[0])
        self.size = bands + ripples * ripple_bands + 1
        cycles = torch.arange(stft.bins) / stft.window
        candidates = pitch[0] * 2 ** (torch.linspace(0, 1, round(44 * self.octaves)) * self.octaves)
        heard = ((cycles > PITCH_FREQUENCY_RANGE[0]) & (cycles < PITCH_FREQUENCY_RANGE[1])).float()
        combs = torch.cos(2 * math.pi * cycles / candidates[:, None]) * heard
        combs = combs - heard * combs.sum(1, keepdim=True) / heard.sum()
        apart = (torch.arange(stft.frames)[:, None] - torch.arange(stft.frames)).abs()
        for name, value in (
            ("envelope", _between(stft.bins, bands, FREQUENCY_WARP_EXPONENT)),
            ("ripple", _between(stft.bins, ripple_bands, 1)),
            ("cycles", cycles[:, None]),
            ("templates", combs / combs.norm(dim=1, keepdim=True)),
            ("held", (-apart / MEMORY).exp() + 1e-4),
        ):
            self.register_buffer(name, value, persistent=False)

    def pitch(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """(N, bins, frames) in [-1, 1] -> pitch and confidence in [0, 1], each (N, frames).

        The pitch of the comb that fits best, refined by a parabola. Frames without one take that of
        their neighbours.
        """
        smooth = nn.functional.avg_pool1d(
            level.transpose(1, 2), FLAT, 1, FLAT // 2, count_include_pad=False
        )
        fit = torch.matmul(self.templates, level - smooth.transpose(1, 2))
        best, at = fit.max(1, keepdim=True)
        at = at.clamp(1, fit.shape[1] - 2)
        before, here, behind = (fit.gather(1, at + i)[:, 0] for i in (-1, 0, 1))
        bend = (before - 2 * here + behind).clamp(max=-1e-6)
        step = (0.5 * (before - behind) / bend).clamp(-0.5, 0.5)
        pitch = ((at[:, 0] + step) / (fit.shape[1] - 1)).clamp(0, 1)
        weight = best[:, 0].clamp(min=0).square() + 1e-6
        return (pitch * weight) @ self.held / (weight @ self.held), weight.clamp(max=1)

    def forward(self, parameters: Tensor, pitch: Tensor | None = None) -> Tensor:
        """parameters: (N, size, frames); `pitch` (N, frames) replaces their own."""
        envelope, ripples = parameters[:, : self.bands], parameters[:, self.bands : -1]
        own = parameters[:, -1:]
        relative = own.sigmoid() if pitch is None else pitch[:, None]
        turn = self.cycles * (2 * math.pi / self.low) * (-self.octaves * relative).exp2()
        level = torch.matmul(self.envelope, envelope)
        # cos((j + 1) x) by recurrence: one cosine is computed for all ripples.
        last, cosine = torch.ones_like(turn), turn.cos()
        first = cosine
        for strength in ripples.chunk(self.ripples, 1):
            level = level + torch.matmul(self.ripple, STRENGTH * strength) * cosine
            last, cosine = cosine, 2 * first * cosine - last
        return level


def _between(bins: int, bands: int, power: float) -> Tensor:
    """(bins, bands) matrix of linear interpolation from bands to bins."""
    place = torch.linspace(0, 1, bins)[:, None] ** power * (bands - 1)
    return (1 - (place - torch.arange(bands)).abs()).clamp(min=0)
