"""Precision of an artifact's graphs below float32: what it is and what it costs, as measured."""

import math
from dataclasses import dataclass
from typing import Literal

import msgspec

ReducedPrecision = Literal["float16", "int8", "int8-conv"]
"""float16: weights and arithmetic. int8: weights alone, by channel, computed with in float32.
int8-conv: the inputs of convolutions as well, by ranges that they had in a calibration."""

InputOrigin = Literal["data", "recorded", "drawn"]
"""data: rows of the run's training data, in the order of seed 0. recorded: arrays that were given.
drawn: noise, classes and settings, of seed 0."""

MAX_MEAN_LOSS = 0.1
"""Largest mean_loss of a signature; a graph beyond it is another model."""
MAX_TEXTS = 0.5
"""Largest share of texts that may differ."""
REPLAY_LOSS = 0.1
"""Most that reduced arithmetic may add to the tolerance of references on another machine."""


@dataclass(frozen=True, kw_only=True)
class PrecisionLoss:
    """Distance of a signature's outputs from those of float32."""

    max_abs: float
    """Largest difference; for unbounded values relative to 1 + their size."""
    mean_loss: float
    """Mean difference, in half spans of bounded values, else relative to 1 + their size."""
    uint8_mismatch: float
    """Share of unsaturated uint8 pixels, or of texts, that differ; 0 for other outputs."""
    uint8_max: int
    """Largest difference of pixels, of 255."""
    samples: int

    def __post_init__(self) -> None:
        if not (0 <= self.max_abs < math.inf and 0 <= self.mean_loss <= MAX_MEAN_LOSS):
            raise ValueError(
                f"reduced precision must lose at most {MAX_MEAN_LOSS:g} of a half span, got"
                f" {self.mean_loss:.2g} and at most {self.max_abs:.2g}"
            )


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Inputs from which int8-conv took the ranges of what the convolutions of a graph read."""

    signature: str
    """The signature that was run."""
    rows: int
    """Rows of each size."""
    inputs: dict[str, InputOrigin]
    """Origin of each input."""


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Precision of an artifact whose graphs are not those of float32; absent for float32."""

    name: ReducedPrecision
    loss: dict[str, PrecisionLoss]
    """By signature: against the torch module, or the float32 graph of a model without one. Inputs
    are random, or those of the calibration and more where it was not on random ones."""
    float32_graphs: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    """sha256 of the float32 graphs, by the names of their files."""
    calibration: dict[str, Calibration] | msgspec.UnsetType = msgspec.UNSET
    """By graph, of those that int8-conv reduced; unset for other precisions."""
    float32_metrics: dict[str, float] | msgspec.UnsetType = msgspec.UNSET
    """The manifest's `metrics` as the float32 graphs have them, of the same samples, judges and
    data; unset if they were not compared."""

    def replay_loss(self, signature: str) -> float:
        """Addition to the tolerance of references: machines that sum in another order round
        differently between layers. int8 weights leave the arithmetic as it was."""
        if self.name == "int8" or signature not in self.loss:
            return 0.0
        return min(self.loss[signature].max_abs, REPLAY_LOSS)
