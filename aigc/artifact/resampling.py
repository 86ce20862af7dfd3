"""Resampling of sound by a polyphase filter in numpy, bit for bit equal to scipy.

    polyphase(wave, 44_100, 8_000)     # (n,) float32 -> (ceil(n * 80 / 441),) float32

scipy.signal.resample_poly() with its defaults: a windowed sinc that cuts off above half the lower
rate, Kaiser window of beta 5. Products are added in the same order, from the earliest sample on, so
rows of data are equal with both, and serving needs no scipy.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

REACH = 10
"""Zero crossings of the sinc on each side."""
BETA = 5.0
MAX_KEPT = 20_000
"""Largest number of phases for which a filter is cached (3 MB)."""
BLOCK = 1 << 14
"""Values computed at once, which bounds the memory beside the result."""


def polyphase(wave: NDArray[np.float32], rate_hz: int, to_hz: int) -> NDArray[np.float32]:
    """(n,) at one rate -> (ceil(n * to_hz / rate_hz),) float32 at another, as if zero-padded."""
    if rate_hz == to_hz:
        return np.asarray(wave, np.float32)
    shared = math.gcd(rate_hz, to_hz)
    up, down = to_hz // shared, rate_hz // shared
    taps = phases(up, down)
    num_taps = len(taps)
    # In terms of the upsampled wave, value i of the result lies in the filter's middle at i * down.
    middle = REACH * max(up, down)
    out = np.empty(-(-len(wave) * up // down), np.float32)
    padded = np.zeros(len(wave) + 2 * num_taps, np.float64)
    padded[num_taps : num_taps + len(wave)] = wave
    for start in range(0, len(out), BLOCK):
        at = np.arange(start, min(start + BLOCK, len(out))) * down + middle
        newest, phase = np.divmod(at, up)
        oldest = newest + 1  # in `padded`, where the wave begins num_taps later
        total = np.zeros(len(at))
        for tap in range(num_taps):
            total += padded[oldest + tap] * taps[tap, phase]
        out[start : start + len(at)] = total
    return out


def needed(start: int, stop: int, rate_hz: int, to_hz: int, length: int) -> tuple[int, int, int]:
    """Part of a wave of `length` samples that values start..stop of its polyphase() depend on:
    first sample, the one behind the last, and the index of value `start` in the part's polyphase().

    The part begins at a sample that coincides with one of the other rate, so the values of both
    are equal bit for bit.
    """
    if rate_hz == to_hz:
        return start, min(stop, length), 0
    shared = math.gcd(rate_hz, to_hz)
    up, down = to_hz // shared, rate_hz // shared
    middle = REACH * max(up, down)
    num_taps = -(-(2 * middle + 1) // up)
    oldest = (start * down + middle) // up + 1 - num_taps
    first = max(0, oldest) // down * down
    newest = ((stop - 1) * down + middle) // up
    return first, max(first, min(newest + 1, length)), start - first // down * up


def phases(up: int, down: int) -> NDArray[np.float64]:
    """The filter by phase: (taps, up), the coefficient of the earliest sample first.

    Column p is for outputs that lie p of `up` steps after a sample.
    """
    # Of rates that share little it is long, and rarely wanted again.
    design = _kept if max(up, down) <= MAX_KEPT else _designed
    return design(up, down)


def _designed(up: int, down: int) -> NDArray[np.float64]:
    half = REACH * max(up, down)
    num_taps = -(-(2 * half + 1) // up)
    padded = np.zeros(num_taps * up)
    kernel = padded[: 2 * half + 1]
    cutoff = 1.0 / max(up, down)
    for start in range(0, len(kernel), BLOCK):
        steps = np.arange(start, min(start + BLOCK, len(kernel)), dtype=np.float64) - half
        window = _i0(BETA * np.sqrt(1 - (steps / half) ** 2.0)) / _i0(np.array([BETA]))
        kernel[start : start + len(steps)] = cutoff * np.sinc(cutoff * steps) * window
    kernel /= np.sum(kernel)
    kernel *= up
    return np.ascontiguousarray(padded.reshape(num_taps, up)[::-1])


_kept = lru_cache(maxsize=8)(_designed)


def _i0(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The modified Bessel function of order 0 for x in [0, 8], as in Cephes and scipy.

    np.i0() differs in the last bit where numpy's exp() differs from that of the C library.
    """
    y = x / 2.0 - 2.0
    last, before = np.full_like(y, _CHEBYSHEV[0]), np.zeros_like(y)
    two_before = before
    for coefficient in _CHEBYSHEV[1:]:
        two_before, before = before, last
        last = y * before - two_before + coefficient
    exp = np.fromiter(map(math.exp, x.tolist()), np.float64, x.size)
    return np.asarray(exp * (0.5 * (last - two_before)))


_CHEBYSHEV = (
    -4.4153416464793395e-18,
    3.3307945188222384e-17,
    -2.431279846547955e-16,
    1.715391285555133e-15,
    -1.1685332877993451e-14,
    7.676185498604936e-14,
    -4.856446783111929e-13,
    2.95505266312964e-12,
    -1.726826291441556e-11,
    9.675809035373237e-11,
    -5.189795601635263e-10,
    2.6598237246823866e-09,
    -1.300025009986248e-08,
    6.046995022541919e-08,
    -2.670793853940612e-07,
    1.1173875391201037e-06,
    -4.4167383584587505e-06,
    1.6448448070728896e-05,
    -5.754195010082104e-05,
    0.00018850288509584165,
    -0.0005763755745385824,
    0.0016394756169413357,
    -0.004324309995050576,
    0.010546460394594998,
    -0.02373741480589947,
    0.04930528423967071,
    -0.09490109704804764,
    0.17162090152220877,
    -0.3046826723431984,
    0.6767952744094761,
)
"""Coefficients of exp(-x) I0(x) in [0, 8]: Cephes, i0.c (Moshier 1984)."""
