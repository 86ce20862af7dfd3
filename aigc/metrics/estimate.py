"""Values with 95 % intervals: of means, of shares, and of statistics of groups of rows."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z = 1.96
"""Standard errors on both sides of a 95 % interval."""
GROUPS = 8
"""Groups that a jackknife leaves out one by one."""
ROUNDS = 1000
"""Samples that a bootstrap draws."""


@dataclass(frozen=True)
class Estimate:
    """A value, its 95 % interval, and what is to be said of it."""

    value: float
    interval: tuple[float, float] | None = None
    note: str = ""


def within(value: float, error: float, low: float = -math.inf) -> Estimate:
    """A value with the interval of a standard error, which ends at `low`."""
    return Estimate(value, (max(low, value - Z * error), value + Z * error))


def of_mean(values: NDArray[np.floating]) -> Estimate:
    """Mean of independent values (N,), N > 0."""
    spread = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    return within(float(values.mean()), spread / math.sqrt(len(values)))


def of_share(hits: NDArray[np.bool_]) -> Estimate:
    """Share of True in (N,), N > 0, with the interval of Wilson (1927, JASA 22), which does not
    vanish for 0 and 1."""
    n, share = len(hits), float(hits.mean())
    middle = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    low, high = min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))
    return Estimate(share, (low, high))


def jackknife(value: float, without: Sequence[float]) -> Estimate:
    """A statistic, and its values without each of G equal groups of rows (Efron & Stein 1981,
    Annals of Statistics 9): its error is √((G - 1) / G · Σ (θᵢ - mean θ)²)."""
    left_out = np.asarray(without, np.float64)
    count = len(left_out)
    square = np.square(left_out - left_out.mean()).sum() * (count - 1) / count
    return within(value, math.sqrt(square), 0.0)


def groups_of(first: int, count: int, classes: int = 1) -> NDArray[np.int64]:
    """(count,) groups of the rows from number `first` on, whose classes come in turn: each group
    has about as many rows of every class, whatever divisors their number and GROUPS share."""
    turn, label = np.divmod(np.arange(first, first + count), classes)
    return np.asarray((turn + label) % GROUPS)


def jackknife_of(
    statistic: Callable[[NDArray[np.float32]], float], rows: NDArray[np.float32], classes: int = 1
) -> Estimate:
    """A statistic of rows (N, D), of classes in turn, by jackknife() over groups_of() them; no
    interval if N < 2 G."""
    value = statistic(rows)
    if len(rows) < 2 * GROUPS:
        return Estimate(value)
    group = groups_of(0, len(rows), classes)
    return jackknife(value, [statistic(rows[group != one]) for one in range(GROUPS)])


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float], count: int, rounds: int = ROUNDS, seed: int = 0
) -> Estimate:
    """A statistic of `count` independent things, with the percentile interval of its bootstrap
    (Efron 1979, Annals of Statistics 7).

    `statistic` is given indices of them, (count,), of which some come several times. Samples for
    which it is NaN are passed over; no interval if all are, or count < 2.
    """
    value = float(statistic(np.arange(count)))
    if count < 2:
        return Estimate(value)
    random = np.random.default_rng(seed)
    drawn = np.array([statistic(random.integers(count, size=count)) for _ in range(rounds)])
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return Estimate(value)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(value, (float(low), float(high)))
