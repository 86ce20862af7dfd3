"""Reference inputs and outputs of a signature: an .npz whose members are checked before
inflating."""

import io
import math
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.artifact.manifest import TensorSpec

MAX_ROWS = 1024
"""Most rows of references; export writes 16."""
_COMPRESSIONS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
MAX_HEADER_BYTES = 4096
"""Most bytes of the header of an array in the archive."""


def read_references(data: bytes, promised: Mapping[str, TensorSpec]) -> dict[str, NDArray[Any]]:
    """Exactly the promised arrays, all with the same number of rows.

    Raises ValueError, naming the difference, before anything of another size is inflated.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        if members.keys() != promised.keys() or len(archive.infolist()) != len(promised):
            raise ValueError(f"it holds {sorted(members)}, promised {sorted(promised)}")
        # What else there is cannot be inflated by so much and no more.
        if not {member.compress_type for member in members.values()} <= _COMPRESSIONS:
            raise ValueError("its members are compressed in an unknown way")
        rows: set[int] = set()
        arrays = {}
        for name, spec in promised.items():
            with archive.open(members[name]) as stream:
                shape, fortran, dtype = _header(stream)
                rows |= set(shape[:1])
                if (shape[1:], str(dtype)) != (spec.shape, spec.dtype) or len(rows) != 1:
                    raise ValueError(
                        f"{name} is {dtype} of shape {shape} beside {sorted(rows)} rows, promised"
                        f" {spec.dtype} of (N, {', '.join(map(str, spec.shape))})"
                    )
                if not 1 <= shape[0] <= MAX_ROWS:
                    raise ValueError(f"{name} has {shape[0]} rows; there are 1 to {MAX_ROWS}")
                size = math.prod(shape) * dtype.itemsize
                if members[name].file_size - stream.tell() != size:
                    raise ValueError(f"{name} has not the {size} bytes of its shape {shape}")
                array = np.frombuffer(stream.read(size), dtype)
                arrays[name] = array.reshape(shape, order="F" if fortran else "C").copy()
    return arrays


def _header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and dtype of the array that follows. Raises ValueError for other headers."""
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):  # whose headers have at most 64 KiB
        raise ValueError(f"its arrays are of version {version}, which is unknown")
    return np.lib.format.read_array_header_1_0(stream, max_header_size=MAX_HEADER_BYTES)
