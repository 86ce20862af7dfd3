"""Mean and covariance of features that come in blocks, in memory that does not grow with them."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from aigc.metrics.estimate import GROUPS, groups_of

Array = NDArray[np.float64]
TOGETHER = 2048
"""Rows that are taken in at a time."""


@dataclass(frozen=True)
class Moments:
    """Number, mean (D,) and scatter (D, D), the sum of (x - mean)(x - mean)ᵀ, of rows."""

    count: int
    mean: Array
    scatter: Array

    @classmethod
    def of(cls, rows: NDArray[np.floating]) -> "Moments":
        """Moments of rows (N, D), all at once."""
        x = np.asarray(rows, np.float64)
        mean = x.mean(0) if len(x) else np.zeros(x.shape[1])
        x = x - mean
        return cls(len(x), mean, x.T @ x)

    def __add__(self, other: "Moments") -> "Moments":
        """Moments of the rows of both (Chan et al. 1983, The American Statistician 37)."""
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        apart = other.mean - self.mean
        scatter = self.scatter + other.scatter
        scatter += np.outer(apart, apart) * (self.count * other.count / count)
        return Moments(count, self.mean + apart * (other.count / count), scatter)

    @property
    def covariance(self) -> Array:
        """(D, D), unbiased; for a count > 1."""
        return self.scatter / (self.count - 1)

    @cached_property
    def root(self) -> Array:
        """Symmetric root of the covariance, (D, D)."""
        return symmetric_root(self.covariance)


def symmetric_root(sigma: Array) -> Array:
    """Root of a positive semidefinite matrix (D, D)."""
    values, vectors = np.linalg.eigh(np.atleast_2d(sigma))
    return np.asarray((vectors * np.sqrt(values.clip(0))) @ vectors.T)


class GroupedMoments:
    """Moments of GROUPS groups of rows, whose `classes` come in turn; see groups_of().

    Memory: GROUPS · 8 · D² bytes, 270 MB for 2,048 features.
    """

    def __init__(self, classes: int = 1) -> None:
        self.classes = classes
        self.groups: list[Moments | None] = [None] * GROUPS
        self._pending: list[NDArray[np.floating]] = []
        self._count = 0

    def add(self, block: NDArray[np.floating]) -> None:
        """Add rows (N, D)."""
        self._pending.append(block)
        if sum(map(len, self._pending)) >= TOGETHER:
            self._flush()

    def _flush(self) -> None:
        """Take in the rows since the last time: a sum of matrices for many rows, not for each
        block."""
        if not self._pending:
            return
        rows, self._pending = np.concatenate(self._pending), []
        group_of = groups_of(self._count, len(rows), self.classes)
        for group in range(GROUPS):
            before, now = self.groups[group], Moments.of(rows[group_of == group])
            self.groups[group] = now if before is None else before + now
        self._count += len(rows)

    @classmethod
    def of(cls, blocks: Iterable[NDArray[np.floating]], classes: int = 1) -> "GroupedMoments":
        """Moments of the rows of blocks (N, D)."""
        grouped = cls(classes)
        for block in blocks:
            grouped.add(block)
        return grouped

    def merged(self, groups: Iterable[int] = range(GROUPS)) -> Moments:
        """Moments of the rows of some groups."""
        self._flush()
        chosen = [one for group in groups if (one := self.groups[group]) is not None]
        merged = chosen[0]
        for other in chosen[1:]:
            merged = merged + other
        return merged
