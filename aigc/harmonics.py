"""Spectra of voices from few numbers: an envelope, a pitch, and how far its harmonics stand out.

The log-magnitude spectrum of a periodic sound is a smooth envelope plus a ripple over frequency
whose period is the pitch, a comb. This is what a cepstrum takes apart (Noll 1967, "Cepstrum pitch
determination"), put together: what draws spectra so cannot blur harmonics.
"""

import math

import torch
from torch import Tensor, nn

from aigc.config import require
from aigc.spectrogram import STFT

DENSER = 0.8
"""Bands of the envelope are spread by frequency to this power: denser where formants are."""
HEARD = (0.006, 0.3)
"""Cycles per sample between which a pitch is looked for: above, combs of real voices fade."""
FLAT = 15
"""Bins over which a spectrum is averaged to take its envelope off."""
STRENGTH = 0.1
"""Of a ripple, for a parameter of 1: what a voice has. Large ones would also multiply what rounding
does to the pitch of high harmonics."""
MEMORY = 3.0
"""Frames over which a pitch is held through what has none."""


class Harmonics(nn.Module):
    """Parameters (N, size, frames) -> log-magnitudes (N, bins, frames), unbounded.

    level(f, t) = envelope(f, t) + STRENGTH Σⱼ rippleⱼ(f, t) cos(2π j f / pitch(t)), j = 1..ripples

    Envelope and ripples are given at `bands` and `ripple_bands` frequencies, and linear between
    them. Pitch is in [0, 1] of the logarithmic range `pitch`, which is in cycles per sample.
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
        heard = ((cycles > HEARD[0]) & (cycles < HEARD[1])).float()
        combs = torch.cos(2 * math.pi * cycles / candidates[:, None]) * heard
        combs = combs - heard * combs.sum(1, keepdim=True) / heard.sum()
        apart = (torch.arange(stft.frames)[:, None] - torch.arange(stft.frames)).abs()
        for name, value in (
            ("envelope", _between(stft.bins, bands, DENSER)),
            ("ripple", _between(stft.bins, ripple_bands, 1)),
            ("cycles", cycles[:, None]),
            ("templates", combs / combs.norm(dim=1, keepdim=True)),
            ("held", (-apart / MEMORY).exp() + 1e-4),
        ):
            self.register_buffer(name, value, persistent=False)

    def pitch(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """(N, bins, frames) in [-1, 1] -> pitch in [0, 1] and how sure it is, each (N, frames).

        Where a comb fits best, refined by a parabola. Frames without a pitch take their
        neighbours'.
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
        found = ((at[:, 0] + step) / (fit.shape[1] - 1)).clamp(0, 1)
        weight = best[:, 0].clamp(min=0).square() + 1e-6
        return (found * weight) @ self.held / (weight @ self.held), weight.clamp(max=1)

    def forward(self, parameters: Tensor, pitch: Tensor | None = None) -> Tensor:
        """`pitch` (N, frames) takes the place of the parameters' own."""
        envelope, ripples = parameters[:, : self.bands], parameters[:, self.bands : -1]
        own = parameters[:, -1:]
        found = own.sigmoid() if pitch is None else pitch[:, None]
        turn = self.cycles * (2 * math.pi / self.low) * (-self.octaves * found).exp2()
        level = torch.matmul(self.envelope, envelope)
        # cos((j + 1) x) from those before it: one cosine for all ripples.
        last, cosine = torch.ones_like(turn), turn.cos()
        first = cosine
        for strength in ripples.chunk(self.ripples, 1):
            level = level + torch.matmul(self.ripple, STRENGTH * strength) * cosine
            last, cosine = cosine, 2 * first * cosine - last
        return level


def _between(bins: int, bands: int, power: float) -> Tensor:
    """(bins, bands): what is linear between bands, from its values there."""
    place = torch.linspace(0, 1, bins)[:, None] ** power * (bands - 1)
    return (1 - (place - torch.arange(bands)).abs()).clamp(min=0)
