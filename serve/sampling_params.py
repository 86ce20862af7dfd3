"""Sampling parameters: which samples to draw from a seed, and how.

    params = SamplingParams(n=8, seed=7, label=3, settings={"temperature": 0.5})
    params.rows(0, 4)              # the parameters of the first four samples

One frozen value from the request to the runner. A further parameter is one field here, one entry in
PER_SAMPLE if it may differ between samples, and the place that uses it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

StoppingCriterion = Callable[[NDArray[Any]], bool]
"""Tokens drawn of an autoregressive sample so far -> True to end it there. Runs in the inference
thread; pools pickle it."""

Choices = Mapping[str, float | Sequence[float]]
"""Settings by name: one value for all samples, or one per sample."""


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """Samples first_index .. first_index + n - 1 of `seed`."""

    n: int = 1
    seed: int = 0
    first_index: int = 0
    label: int | Sequence[int] | None = None
    """One class for all samples, one per sample, or None to draw them from the seed."""
    settings: Choices = field(default_factory=dict)
    """Settings the caller gave; unset ones take the signature's default."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Sizes of free axes; unset ones are the signature's default."""
    prefix: NDArray[np.int64] | None = None
    """(n, L) first tokens of autoregressive samples; zeros where they are free."""
    stopping_criterion: StoppingCriterion | None = None
    """Ends autoregressive samples early."""

    @property
    def indices(self) -> range:
        """Indices of the samples within the seed."""
        return range(self.first_index, self.first_index + self.n)

    def labels(self) -> Sequence[int | None]:
        """The label asked for of each sample."""
        if isinstance(self.label, int | None):
            return [self.label] * self.n
        return self.label

    def setting(self, name: str, default: float) -> Sequence[float]:
        """The value of a setting for each sample."""
        value = self.settings.get(name, default)
        return [value] * self.n if isinstance(value, int | float) else value

    def rows(self, start: int, stop: int) -> "SamplingParams":
        """The parameters of samples start .. stop - 1, with the same indices within the seed."""
        if start == 0 and stop == self.n:
            return self
        return replace(
            self,
            n=stop - start,
            first_index=self.first_index + start,
            **{name: _rows(getattr(self, name), start, stop) for name in PER_SAMPLE},
        )

    def split(self, size: int) -> "Iterator[SamplingParams]":
        """The same samples in parts of at most `size`, in order."""
        for start in range(0, self.n, size):
            yield self.rows(start, min(start + size, self.n))


PER_SAMPLE = ("label", "settings", "prefix")
"""Fields that may hold one value per sample."""


def _rows(value: Any, start: int, stop: int) -> Any:
    if isinstance(value, Mapping):
        return {name: _rows(one, start, stop) for name, one in value.items()}
    return value if isinstance(value, int | float | None) else value[start:stop]
