"""Inputs from which int8-conv takes the ranges of what convolutions read: real ones of real data.

Noise, classes and settings are drawn, as they are when the artifact is used. What else a graph
takes must be given: ranges of random pixels are not those of pictures.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import Signature, TensorSpec
from aigc.artifact.axes import describe
from aigc.artifact.precision import InputOrigin
from aigc.artifact.sampling_inputs import Arrays
from aigc.sealing.example_inputs import (
    MAX_VALUES,
    at_most,
    example,
    num_examples,
    proved_sizes,
)

NOISE = ("latent", "uniform", "label", "setting", "presence")
"""Kinds of inputs that are drawn, not data."""


@dataclass(frozen=True, kw_only=True)
class RealInputs:
    """Real inputs of signatures."""

    origin: Literal["data", "recorded"]
    read: Callable[[Signature, int], Arrays]
    """Function from a signature and a number of rows to those of its inputs that are real, of at
    most so many rows and all of one size. Raises ValueError if they cannot be had."""
    noise: tuple[str, ...] = NOISE
    """Kinds of inputs that are drawn."""


def recorded(arrays: Mapping[str, NDArray[Any]]) -> RealInputs:
    """Real inputs by name, (n, *shape) each; read() raises ValueError for one without rows."""

    def read(signature: Signature, rows: int) -> Arrays:
        names = [spec.name for spec in signature.inputs if spec.name in arrays]
        for name in names:
            if not np.ndim(arrays[name]):
                raise ValueError(
                    f"calibration of {name!r} must be an array of rows, got the single value"
                    f" {arrays[name]}; give it a first axis of rows"
                )
        return {name: np.asarray(arrays[name])[:rows] for name in names}

    return RealInputs(origin="recorded", read=read)


def calibration_inputs(
    name: str, signature: Signature, real: RealInputs | None, rows: int
) -> tuple[list[Arrays], dict[str, InputOrigin]]:
    """Inputs of a signature, of several sizes if all are drawn, and where they are from.

    Raises ValueError if real inputs are missing or do not fit the signature.
    """
    noise = real.noise if real else NOISE
    needed = [spec.name for spec in signature.inputs if spec.kind not in noise]
    if not needed:
        drawn = [
            example(signature, num_examples(signature, sizes, rows), sizes)
            for sizes in proved_sizes(signature)
        ]
        return drawn, {spec.name: "drawn" for spec in signature.inputs}
    most = at_most(rows, signature.at(signature.sizes({})), MAX_VALUES)
    given = real.read(signature, most) if real else {}
    if missing := [one for one in needed if one not in given]:
        raise ValueError(
            f"int8-conv takes ranges from real inputs, and there are none of {', '.join(missing)}"
            f" of signature {name!r}; give some (--calibration FILE.npz, with an array of each"
            " name), or take --precision int8"
        )
    assert real is not None
    sizes = signature.sizes_of({key: value.shape[1:] for key, value in given.items()})
    lengths = {key: len(value) for key, value in given.items()}
    if len({*lengths.values()}) > 1 or not min(lengths.values()):
        raise ValueError(f"calibration needs as many rows of each input, at least 1, got {lengths}")
    for spec in signature.at(sizes).inputs:
        if spec.name in given:
            _check(spec, given[spec.name])
    inputs = example(signature, min(lengths.values()), sizes) | given
    return [inputs], {
        spec.name: real.origin if spec.name in given else "drawn" for spec in signature.inputs
    }


def _check(spec: TensorSpec, array: NDArray[Any]) -> None:
    """Raise ValueError for an array of another type, shape or range than an input has."""
    if (str(array.dtype), array.shape[1:]) != (spec.dtype, spec.fixed_shape):
        raise ValueError(
            f"calibration of {spec.name!r} must be {spec.dtype} of {describe(spec.shape)}, got"
            f" {array.dtype} of {array.shape}"
        )
    low, high = spec.range or (-np.inf, np.inf)
    if not (array.min() >= low and array.max() <= high and np.isfinite(array).all()):
        raise ValueError(
            f"calibration of {spec.name!r} must be in [{low:g}, {high:g}], got"
            f" [{array.min():g}, {array.max():g}]"
        )
