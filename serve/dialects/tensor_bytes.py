"""Values of tensors as bytes, for both wires of the Open Inference Protocol."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.http import HTTPError

DATATYPES = {"float32": "FP32", "int64": "INT64", "uint8": "UINT8", "object": "BYTES"}
"""The protocol's name of a dtype; an array of objects holds texts."""

LENGTH_BYTES = 4
"""Before each text among binary data, little-endian."""


def from_bytes(
    name: str, data: memoryview | bytes, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> NDArray[Any]:
    """Little-endian bytes, the last axis fastest. Raises HTTPError 400 unless the size fits."""
    if dtype.kind == "O":
        return as_texts(name, _split(name, data, prod(shape)), shape)
    size = prod(shape) * dtype.itemsize
    if len(data) != size:
        raise HTTPError(
            400, "wrong_size", f"input {name!r} of this shape has {size} bytes, got {len(data)}"
        )
    array = np.frombuffer(data, dtype.newbyteorder("<")).reshape(shape)
    # The JSON before it may have any length, and onnxruntime wants numbers on their boundaries.
    return np.require(array, dtype, "A")


def to_bytes(array: NDArray[Any]) -> bytes:
    """Little-endian, the last axis fastest."""
    if array.dtype.kind == "O":
        encoded = [text.encode() for text in array.reshape(-1).tolist()]
        return b"".join(len(one).to_bytes(LENGTH_BYTES, "little") + one for one in encoded)
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _split(name: str, data: memoryview | bytes, n: int) -> list[bytes]:
    """The texts among binary data, each after its length. Raises HTTPError 400 unless they fit."""
    found, at = [], 0
    for _ in range(n):
        start = at + LENGTH_BYTES
        at = start + int.from_bytes(data[at:start], "little")
        if at > len(data) or start > len(data):
            break
        found.append(bytes(data[start:at]))
    if len(found) != n or at != len(data):
        raise HTTPError(
            400,
            "wrong_size",
            f"input {name!r} must be {n} texts, each after its length in {LENGTH_BYTES} bytes, and"
            f" no more; got {len(data)} bytes",
        )
    return found


def as_texts(name: str, values: Sequence[bytes], shape: tuple[int, ...]) -> NDArray[Any]:
    """Texts of UTF-8. Raises HTTPError 400 for what is none."""
    try:
        texts = [value.decode() for value in values]
    except UnicodeDecodeError as error:
        raise HTTPError(400, "malformed_data", f"input {name!r} is no UTF-8: {error}") from None
    array = np.empty(len(texts), object)
    array[:] = texts
    return array.reshape(shape)
