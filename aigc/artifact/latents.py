"""Random numbers as a function of (seed, purpose, index), equal on every machine and in every
version.

Sample `index` of `seed` owns a Philox4x64 stream (Salmon et al. 2011, "Parallel random numbers: as
easy as 1, 2, 3"): the key is (seed, purpose), the counter starts at (0, index, 0, 0). So a sample
does not depend on the batch that it is drawn in. numpy guarantees the raw integers of Philox, not
its normal transform, and log, sin and cos differ between processors; the transform here uses only
operations that IEEE 754 rounds exactly (+ - * / sqrt), so its bytes are the same everywhere.

Along free axes the numbers are a function of the place: those of a larger sample begin with those
of a smaller one, so that a wider picture or a longer sound continues the same noise, and a part of
it can be drawn alone. The places along all free axes but the last are the last two words of the
counter; a stream runs along the last free axis, the fixed axes innermost.
"""

import hashlib
import itertools
import math
import operator
import threading
from collections.abc import Sequence
from functools import cache
from itertools import repeat
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

MAX_SEED = 2**63 - 1
EXACT = 2**53
"""Bound below which every whole float is exactly one whole number."""

Whole = SupportsIndex | float
"""A whole number: Python's or numpy's, also an array of shape () or a float such as 12.0."""

_local = threading.local()


def whole(value: Whole, name: str) -> int:
    """A whole number as an int. Raises ValueError, with its name, for other values."""
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = np.asarray(value)
    if number.ndim == 0 and number.dtype.kind == "f" and abs(number) < EXACT and number % 1 == 0:
        return int(number)
    raise ValueError(f"{name} must be a whole number, got {value!r}")


def is_one(value: Any) -> bool:
    """True for a single number, False for a sequence or an array of them."""
    return isinstance(value, int) or not (isinstance(value, Sequence) or np.ndim(value))


def check_seed(seed: int) -> None:
    """Raise ValueError unless `seed` is in [0, 2^63), the range of seeds and indices."""
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed must be in [0, 2^63), got {seed}")


@cache
def _purpose_key(purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")


def _philox() -> tuple[np.random.Philox, Any]:
    """This thread's generator, and a state to set: setting one costs a tenth of building one.

    Counter and key are lists: the setter reads them one by one, three times as slowly from arrays.
    """
    if not hasattr(_local, "philox"):
        generator = np.random.Philox(key=0)
        words = {"counter": [0, 0, 0, 0], "key": [0, 0]}
        state = generator.state | {"state": words, "buffer": [0, 0, 0, 0], "buffer_pos": 4}
        _local.philox = generator, state
    return _local.philox  # type: ignore[no-any-return]


def integers(
    seed: Whole | Sequence[Whole], purpose: str, indices: Sequence[Whole], n: int
) -> NDArray[np.uint64]:
    """The first `n` raw integers of each sample's stream: (len(indices), n) uint64.

    `seed` is one for all samples, or a sequence with one for each. Raises ValueError for a seed or
    an index that is not a whole number in [0, 2^63).
    """
    seeds: Any = repeat(seed, len(indices)) if is_one(seed) else seed
    generator, state = _philox()
    key, counter = state["state"]["key"], state["state"]["counter"]
    key[1] = _purpose_key(purpose)
    raw = np.empty((len(indices), n), np.uint64)
    for row, (given, at) in enumerate(zip(seeds, indices, strict=True)):
        own = given if type(given) is int else whole(given, "seed")
        index = at if type(at) is int else whole(at, "index")
        check_seed(own)
        if not 0 <= index <= MAX_SEED:
            raise ValueError(f"index must be in [0, 2^63), got {index}")
        key[0], counter[1] = own, index
        generator.state = state
        # One alone comes as an int, for half of what an array of it costs.
        raw[row] = generator.random_raw(n if n > 1 else None)
    return raw


def placed(
    seed: Whole | Sequence[Whole],
    purpose: str,
    indices: Sequence[Whole],
    shape: tuple[int, ...],
    free: Sequence[int],
) -> NDArray[np.uint64]:
    """Raw integers of samples with free axes: (len(indices), *shape) uint64.

    `free`: positions of 1 to 3 free axes. A number depends on its place, not on the shape; with one
    free axis of size 1 it is that of integers(). Raises ValueError as integers() does.
    """
    *outer, last = (shape[i] for i in free)
    fixed = [i for i in range(len(shape)) if i not in free]
    inner = [shape[i] for i in fixed]
    each = last * math.prod(inner)
    places = [*itertools.product(*(range(size) for size in (*[1] * (2 - len(outer)), *outer)))]
    raw = np.empty((len(indices), len(places), each), np.uint64)
    counter = _philox()[1]["state"]["counter"]
    try:
        for at, place in enumerate(places):
            counter[2:] = place
            raw[:, at] = integers(seed, purpose, indices, each)
    finally:
        counter[2:] = 0, 0
    whole = raw.reshape(len(indices), *outer, last, *inner)
    order = [0, *(1 + [*free, *fixed].index(i) for i in range(len(shape)))]
    return np.ascontiguousarray(whole.transpose(order))


def logarithm(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Natural logarithm of x > 0 by exact operations only: x = m 2^e, ln m = 2 artanh((m-1)/(m+1)).

    With m in [sqrt(1/2), sqrt(2)) the argument is below 0.172 and nine terms reach 1e-15.
    """
    m, e = np.frexp(x)
    small = m < 0.7071067811865476
    m = np.where(small, 2 * m, m)
    e = e - small
    s = (m - 1) / (m + 1)
    s2 = s * s
    series = np.full_like(s, 1 / 17)
    for term in (15, 13, 11, 9, 7, 5, 3, 1):
        series = series * s2 + 1 / term
    return np.asarray(2 * s * series + e * 0.6931471805599453)


def inverse_normal(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quantile of the standard normal for p in (0, 1), relative error 1e-7.

    Wichura 1988, "Algorithm AS 241: the percentage points of the normal distribution", PPND7.
    """
    q = p - 0.5
    r = 0.180625 - q * q
    x = q * (((59.109374720 * r + 159.29113202) * r + 50.434271938) * r + 3.3871327179)
    x /= ((67.187563600 * r + 78.757757664) * r + 17.895169469) * r + 1
    tail = np.flatnonzero(np.abs(q) > 0.425)
    pt = p[tail]
    r = np.sqrt(-logarithm(np.minimum(pt, 1 - pt)))
    near = r - 1.6
    t = ((0.17023821103 * near + 1.3067284816) * near + 2.7568153900) * near + 1.4234372777
    t /= (0.12021132975 * near + 0.73700164250) * near + 1
    far = r - 5
    u = ((0.017337203997 * far + 0.42868294337) * far + 3.0812263860) * far + 6.6579051150
    u /= (0.012258202635 * far + 0.24197894225) * far + 1
    x[tail] = np.copysign(np.where(r <= 5, t, u), q[tail])
    return x


def normal(
    seed: Whole | Sequence[Whole],
    indices: Sequence[Whole],
    shape: tuple[int, ...],
    purpose: str = "latent",
    free: Sequence[int] = (),
) -> NDArray[np.float32]:
    """Standard normal latents of samples `indices`: (len(indices), *shape) float32.

    `free`: positions of the free axes of the shape, along which numbers depend on the place.
    """
    raw = _raw(seed, purpose, indices, shape, free)
    # The upper 52 bits, centred in their cell: never 0, never 1.
    p = ((raw >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    return inverse_normal(p.reshape(-1)).astype(np.float32).reshape(len(indices), *shape)


def _raw(
    seed: Whole | Sequence[Whole],
    purpose: str,
    indices: Sequence[Whole],
    shape: tuple[int, ...],
    free: Sequence[int],
) -> NDArray[np.uint64]:
    if free:
        return placed(seed, purpose, indices, shape, free)
    return integers(seed, purpose, indices, int(np.prod(shape)))


def slerp(
    start: NDArray[np.float32], stop: NDArray[np.float32], t: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Spherical interpolation (White 2016, arXiv:1609.04468, section 2.1).

    sin((1 - t) w) / sin w * start + sin(t w) / sin w * stop with w the angle between the two. A
    straight line would lead through vectors shorter than any in training.

    start, stop: (*shape,) float32; t: (K,) in [0, 1] -> (K, *shape) float32, exactly `start` at t =
    0 and `stop` at t = 1. Parallel vectors and zero vectors are joined by a line.
    """
    a, b = (x.astype(np.float64).reshape(-1) for x in (start, stop))
    lengths = np.sqrt(a @ a) * np.sqrt(b @ b)
    angle = np.arccos(np.clip(a @ b / lengths, -1, 1)) if lengths else 0.0
    sine = np.sin(angle)
    if sine < 1e-6:
        weights = 1 - t, t
    else:
        weights = np.sin((1 - t) * angle) / sine, np.sin(t * angle) / sine
    points = weights[0][:, None] * a + weights[1][:, None] * b
    return points.astype(np.float32).reshape(len(t), *start.shape)


def uniform(
    seed: Whole | Sequence[Whole],
    indices: Sequence[Whole],
    shape: tuple[int, ...],
    purpose: str,
    free: Sequence[int] = (),
) -> NDArray[np.float32]:
    """Multiples of 2^-24 in [0, 1) of samples `indices`: (len(indices), *shape) float32.

    The number at a position depends on (seed, index, position) alone, not on the shape. `free`:
    see normal().
    """
    raw = _raw(seed, purpose, indices, shape, free)
    values = (raw >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
    return values.reshape(len(indices), *shape)


def labels(
    seed: Whole | Sequence[Whole], indices: Sequence[Whole], num_classes: int
) -> NDArray[np.int64]:
    """Uniform class indices of samples `indices`: (len(indices),) int64 in [0, num_classes)."""
    raw = integers(seed, "label", indices, 1)[:, 0]
    return ((raw >> np.uint64(32)) * np.uint64(num_classes) >> np.uint64(32)).astype(np.int64)
