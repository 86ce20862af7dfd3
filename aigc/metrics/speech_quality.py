"""PESQ and STOI: models of how well listeners like and understand speech, of the extra `sound`.

PESQ is ITU-T P.862 (Rix et al. 2001, ICASSP), narrow band mapped to MOS-LQO by P.862.1, wide band
by P.862.2, of PyPI's `pesq`, which has to be built by a C compiler. STOI is Taal et al. 2011, IEEE
TASLP 19, of PyPI's `pystoi`.
"""

import warnings
from importlib import import_module
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from aigc.artifact.resampling import polyphase
from aigc.config import require
from aigc.metrics import NotInstalled
from aigc.metrics.recordings import Recordings, Wave, check_pairs, check_rate

Band = Literal["narrow", "wide"]
RATES_HZ: dict[Band, int] = {"narrow": 8000, "wide": 16_000}
"""Rates that PESQ takes, to which recordings of higher ones are resampled."""
LOWEST: dict[Band, float] = {"narrow": 1.017, "wide": 1.043}
"""MOS-LQO of the lowest raw score, -0.5, which a made recording without any sound gets."""
STOI_SHORTEST_S = 0.39
"""Seconds below which a recording has less than the 30 frames that STOI needs."""
FAINT = 1e-4
"""Peak below which a recording has no sound: three levels of 16 bits."""


def pesq(
    real: Recordings, made: Recordings, rate_hz: int, band: Band = "narrow"
) -> NDArray[np.float64]:
    """(N,) MOS-LQO of each pair, about 1 to 4.55 (narrow) or 4.64 (wide), higher is better.

    NaN for real recordings that it cannot judge: without speech, or below a quarter of a second.
    Raises NotInstalled without the package, ValueError for rates below 8 (narrow) or 16 kHz (wide)
    and pairs of different lengths.
    """
    package = _package("pesq", "it needs a C compiler to be built: apt-get install gcc libc6-dev")
    check_rate(rate_hz)
    check_pairs(real, made)
    to_hz = RATES_HZ[band]
    require(rate_hz >= to_hz, f"PESQ of the {band} band needs {to_hz} Hz or more, got {rate_hz}")
    pairs = zip(real, made, strict=True)
    return np.array(
        [_pesq(package, _at(a, rate_hz, to_hz), _at(b, rate_hz, to_hz), band) for a, b in pairs],
        np.float64,
    )


def _pesq(package: Any, real: Wave, made: Wave, band: Band) -> float:
    if np.abs(real).max() < FAINT:
        return np.nan
    if np.abs(made).max() < FAINT:
        return LOWEST[band]
    try:
        return float(package.pesq(RATES_HZ[band], real, made, band[0] + "b"))
    except (package.NoUtterancesError, package.BufferTooShortError):
        return np.nan


def stoi(real: Recordings, made: Recordings, rate_hz: int) -> NDArray[np.float64]:
    """(N,) intelligibility of each pair, at most 1, higher is better.

    NaN for real recordings that it cannot judge, with less than about 0.4 s of sound. Raises
    NotInstalled without the package, ValueError for pairs of different lengths.
    """
    package = _package("pystoi")
    check_rate(rate_hz)
    check_pairs(real, made)
    return np.array(
        [_stoi(package, a, b, rate_hz) for a, b in zip(real, made, strict=True)], np.float64
    )


def _stoi(package: Any, real: Wave, made: Wave, rate_hz: int) -> float:
    if np.abs(real).max() < FAINT or len(real) < STOI_SHORTEST_S * rate_hz:
        return np.nan
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # said of too few frames
            return float(package.stoi(real, made, rate_hz, extended=False))
    except RuntimeWarning:
        return np.nan


def _at(wave: Wave, rate_hz: int, to_hz: int) -> NDArray[np.float32]:
    return polyphase(np.asarray(wave, np.float32), rate_hz, to_hz)


def _package(name: str, more: str = "") -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        said = f"; {more}" if more else ""
        raise NotInstalled(
            f"the package {name} is not here ({error}): pip install 'aigc[sound]'{said}"
        ) from None
