"""Checks of the outputs of a graph against its signature.

check_shapes(signature, outputs, n)         # OutputError: not as promised
for row, error in bad_rows(signature, outputs).items(): ...
"""

import numpy as np

from aigc.artifact.manifest import Signature
from aigc.artifact.sampling_inputs import Arrays


class OutputError(ValueError):
    """The outputs of a graph differ from its signature; the message says how."""


class ValuesError(OutputError):
    """Invalid values: not finite in an output with a range, or unknown tokens."""


def check_shapes(signature: Signature, outputs: Arrays, n: int) -> None:
    """Raise OutputError unless all outputs exist with n rows, their shapes and dtypes."""
    for spec in signature.outputs:
        array = outputs[spec.name]
        if array.shape != (n, *spec.fixed_shape) or array.dtype != spec.dtype:
            raise OutputError(
                f"{spec.name} must be {spec.dtype} {(n, *spec.fixed_shape)},"
                f" the graph gave {array.dtype} {array.shape}"
            )


def bad_rows(signature: Signature, outputs: Arrays) -> dict[int, ValuesError]:
    """Rows with invalid values, and the error of each; outputs without a range are not checked.

    outputs: arrays that passed check_shapes().
    """
    errors: dict[int, ValuesError] = {}
    for spec in signature.outputs:
        array = outputs[spec.name]
        if spec.range is None:
            continue
        low, high = spec.range
        floats = array.dtype.kind == "f"
        good = np.isfinite(array) if floats else (array >= low) & (array <= high)
        if good.all():
            continue
        what = "that are not finite" if floats else f"outside of [{low:g}, {high:g}]"
        for row in np.flatnonzero(~good.reshape(len(array), -1).all(1)).tolist():
            errors.setdefault(row, ValuesError(f"{spec.name} has values {what}"))
    return errors
