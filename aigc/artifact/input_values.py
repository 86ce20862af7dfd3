"""Values of inputs: settings as arrays, checks of ranges, and the errors that clients see."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from aigc.artifact.manifest import TensorSpec

InputCode = Literal[
    "label_not_supported",
    "label_count",
    "label_out_of_range",
    "unknown_setting",
    "setting_out_of_range",
    "unknown_input",
    "signature_needs_input",
    "no_effect",
    "unknown_axis",
    "size_out_of_range",
    "malformed_input",
]


class InputError(ValueError):
    """An input, class, seed or setting that a signature does not take."""

    def __init__(self, code: InputCode, param: str, message: str) -> None:
        super().__init__(message)
        self.code, self.param = code, param


def setting(spec: TensorSpec, value: float | Sequence[float] | None, n: int) -> NDArray[Any]:
    """A setting of n samples, (n,), from one value for all or one for each.

    Raises InputError for what is no number, not whole where it must be, or out of range.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise _out_of_range(spec, value)
    if array.ndim > 1 or array.size not in (1, n):
        message = f"{spec.name} must be one number or {n} of them, got {array.shape}"
        raise InputError("setting_out_of_range", spec.name, message)
    if spec.dtype == "int64" and (array != np.trunc(array)).any():
        raise _out_of_range(spec, value)
    check_range(spec, array)
    return np.broadcast_to(array, (n,)).astype(spec.dtype)


def check_range(spec: TensorSpec, array: NDArray[Any]) -> None:
    """Raise InputError for the first value outside the spec's range, NaN included."""
    assert spec.range is not None
    low, high = spec.range
    if array.size == 1 and low <= array.item() <= high:
        return  # as for most requests, which are for one sample: a twentieth of the time
    bad = array[~((array >= low) & (array <= high))]
    if bad.size:
        raise _out_of_range(spec, bad.flat[0])


def _out_of_range(spec: TensorSpec, value: object) -> InputError:
    assert spec.range is not None
    low, high = spec.range
    value = str(value)[:60]
    if spec.kind == "setting":
        number = "a whole number" if spec.dtype == "int64" else "a number"
        message = f"{spec.name} must be {number} in [{low:g}, {high:g}], got {value}"
        return InputError("setting_out_of_range", spec.name, message)
    span = f"[{low:g}, {high:g}]" if spec.kind == "presence" else f"[{low:g}, {high + 1:g})"
    code: InputCode = "label_out_of_range" if spec.kind == "label" else "malformed_input"
    return InputError(code, spec.name, f"{spec.name} must be in {span}, got {value}")
