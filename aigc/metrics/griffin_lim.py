"""Griffin-Lim from a mel spectrum, the classic method that a vocoder is compared with."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from aigc.config import require
from aigc.metrics.mel_distance import Mel
from aigc.metrics.recordings import Recordings, Wave, check
from aigc.nn.spectrogram import STFT, GriffinLim

MOMENTUM = 0.99
"""Value of Perraudin et al. 2013, "A fast Griffin-Lim algorithm"."""
STEPS = 100
"""Steps in which magnitudes are fitted to the mel bands."""


Inverse = Callable[[NDArray[np.float64], Mel], NDArray[np.float64]]
"""Magnitudes of bands (frames, bands) > 0 -> of bins (frames, window // 2 + 1) >= 0."""


def non_negative(bands: NDArray[np.float64], mel: Mel) -> NDArray[np.float64]:
    """Magnitudes whose sums in bands are about the given ones, by multiplicative updates (Lee &
    Seung 2001, "Algorithms for non-negative matrix factorization", theorem 1)."""
    filters = mel.filters
    overlap = filters.T @ filters
    found = bands @ (filters / filters.sum(1, keepdims=True))
    wanted = bands @ filters
    for _ in range(STEPS):
        found = found * wanted / np.maximum(found @ overlap, 1e-30)
    return np.asarray(found)


def pseudo(bands: NDArray[np.float64], mel: Mel) -> NDArray[np.float64]:
    """Magnitudes by the pseudo-inverse of the bands, negative ones set to 0: common and worse."""
    return np.asarray((bands @ np.linalg.pinv(mel.filters).T).clip(0))


def from_mel(
    waves: Recordings, mel: Mel, iterations: int = 32, inverse: Inverse = non_negative
) -> list[NDArray[np.float32]]:
    """Recordings made from nothing but their log-mel spectra, each of its length, in [-1, 1].

    `inverse` gives magnitudes of the bins, and GriffinLim (aigc/nn/spectrogram.py) their phases.
    Raises ValueError unless the window is a multiple of twice the hop, and four hops or more.
    """
    check(waves)
    check_mel(mel)
    return [_from_mel(wave, mel, iterations, inverse) for wave in waves]


def check_mel(mel: Mel) -> None:
    """Raise ValueError unless Griffin-Lim can be done from such spectra."""
    require(
        mel.window % (2 * mel.hop) == 0 and mel.window >= 4 * mel.hop,
        f"Griffin-Lim needs a window of a multiple of twice the hop, and of four hops or more, got"
        f" {mel.window} samples for hops of {mel.hop}",
    )


def _from_mel(wave: Wave, mel: Mel, iterations: int, inverse: Inverse) -> NDArray[np.float32]:
    magnitude = inverse(np.exp(mel.log(wave)), mel)
    # Frame i of an STFT is centred half a hop behind sample i * hop, that of a Mel on it.
    magnitude = np.concatenate([magnitude, magnitude[-1:]])[:, :-1].T
    samples = magnitude.shape[1] * mel.hop
    stft = STFT(samples=samples, window=mel.window, hop=mel.hop, floor=mel.floor)
    search = GriffinLim(stft, iterations, MOMENTUM)
    with torch.inference_mode():
        found = search(stft.level(torch.from_numpy(magnitude.astype(np.float32))[None]))
    start = mel.hop // 2
    return np.ascontiguousarray(found[0, 0, start : start + len(wave)].numpy())
