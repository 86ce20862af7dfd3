"""Tensor values as bytes, for both transports of the Open Inference Protocol."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.errors import HTTPError

DATATYPES = {"float32": "FP32", "int64": "INT64", "uint8": "UINT8", "object": "BYTES"}
"""dtype -> the protocol's datatype; an array of objects holds texts."""

LENGTH_BYTES = 4
"""Size of the length before each text in binary data, little-endian."""


def from_bytes(
    name: str, data: memoryview | bytes, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> NDArray[Any]:
    """Decode little-endian bytes, C order. Raises HTTPError 400 unless the size fits."""
    if dtype.kind == "O":
        return as_texts(name, _split(name, data, prod(shape)), shape)
    size = prod(shape) * dtype.itemsize
    if len(data) != size:
        raise HTTPError(
            400, "wrong_size", f"input {name!r} of this shape has {size} bytes, got {len(data)}"
        )
    array = np.frombuffer(data, dtype.newbyteorder("<")).reshape(shape)
    # The JSON before it may have any length, and onnxruntime needs aligned numbers.
    return np.require(array, dtype, "A")


def to_bytes(array: NDArray[Any]) -> bytes:
    """Little-endian, C order."""
    if array.dtype.kind == "O":
        encoded = [text.encode() for text in array.reshape(-1).tolist()]
        return b"".join(len(one).to_bytes(LENGTH_BYTES, "little") + one for one in encoded)
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _split(name: str, data: memoryview | bytes, n: int) -> list[bytes]:
    """Split n length-prefixed texts. Raises HTTPError 400 unless the sizes fit."""
    texts, at = [], 0
    for _ in range(n):
        start = at + LENGTH_BYTES
        at = start + int.from_bytes(data[at:start], "little")
        if at > len(data) or start > len(data):
            break
        texts.append(bytes(data[start:at]))
    if len(texts) != n or at != len(data):
        raise HTTPError(
            400,
            "wrong_size",
            f"input {name!r} must be {n} texts, each after its length in {LENGTH_BYTES} bytes, and"
            f" no more; got {len(data)} bytes",
        )
    return texts


def as_texts(name: str, values: Sequence[bytes], shape: tuple[int, ...]) -> NDArray[Any]:
    """UTF-8 -> an array of texts. Raises HTTPError 400 for malformed UTF-8."""
    try:
        texts = [value.decode() for value in values]
    except UnicodeDecodeError as error:
        raise HTTPError(400, "malformed_data", f"input {name!r} is not UTF-8: {error}") from None
    array = np.empty(len(texts), object)
    array[:] = texts
    return array.reshape(shape)
