"""Distances of sounds by their spectra at several resolutions, as losses with gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aigc.nn.log_mel import Framing, LogMel, Magnitude, most_bands

FAINT = 1e-4
"""Magnitude below which differences of logarithms vanish; full scale is 1."""
QUIET = 1e-3
"""Root mean square of magnitudes below which spectral convergence counts less: a piece of silence
would outweigh all others."""
BINS_A_BAND = 4
"""Frequencies of a spectrum for each of its mel bands."""


class MelLoss(nn.Module):
    """Mean absolute difference of log-mel spectrograms, the mean over windows of several lengths
    (Kumar et al. 2023, arXiv:2306.06546, section 3.4).

    made, real: (N, 1, T) in [-1, 1], T a multiple of a quarter of each window -> (), in nepers.
    """

    def __init__(self, rate_hz: int, windows: Sequence[int]) -> None:
        super().__init__()
        self.mels = nn.ModuleList(
            LogMel(Framing(window=size, hop=size // 4), _bands(size, rate_hz), rate_hz, FAINT)
            for size in windows
        )

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        return torch.stack([(mel(made) - mel(real)).abs().mean() for mel in self.mels]).mean()


class STFTLoss(nn.Module):
    """Spectral convergence and the difference of log magnitudes, the mean over windows of several
    lengths (Yamamoto et al. 2020, arXiv:1910.11480, eq. 3 to 6), the former of each row.

    made, real: (N, 1, T) in [-1, 1], T a multiple of a quarter of each window -> ().
    """

    def __init__(self, windows: Sequence[int]) -> None:
        super().__init__()
        self.magnitudes = nn.ModuleList(
            Magnitude(Framing(window=size, hop=size // 4)) for size in windows
        )

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        return torch.stack([_distance(of(made), of(real)) for of in self.magnitudes]).mean()


def _bands(window: int, rate_hz: int) -> int:
    """Mel bands of a window's spectra: of BINS_A_BAND frequencies, or as few as have one each."""
    return min(window // 2 // BINS_A_BAND, most_bands(window // 2 + 1, rate_hz))


def _distance(made: Tensor, real: Tensor) -> Tensor:
    """Magnitudes (N, t, bins) -> ()."""
    off, size = ((x.square().mean((1, 2)) + FAINT**2).sqrt() for x in (made - real, real))
    levels = (made + FAINT).log() - (real + FAINT).log()
    distance: Tensor = ((off - FAINT) / (size + QUIET)).mean() + levels.abs().mean()
    return distance
