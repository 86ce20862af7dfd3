"""Reference inputs and outputs of a signature: an .npz whose members are checked before
inflating.

`references/sample.npz` holds those of the default sizes, `references/sample@h=64,w=48.npz` those of
other sizes of free axes, also of sizes that are made of tiles.
"""

import io
import math
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.artifact.axes import Sizes, label, parse_label
from aigc.artifact.manifest import ArtifactError, Signature, TensorSpec

MAX_ROWS = 1024
"""Most rows of references; export writes 16."""
MAX_FILES = 16
"""Most sizes beside the default ones of which a signature has references."""
MAX_PARTS = 64
"""Most tiles or chunks of the samples of references; a replay would take as many runs."""
_COMPRESSIONS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
MAX_HEADER_BYTES = 4096
"""Most bytes of the header of an array in the archive."""


def reference_file(name: str, sizes: Sizes | None = None) -> str:
    """The file with references of a signature; `sizes` unless they are the default ones."""
    return f"references/{name}{f'@{label(sizes)}' if sizes else ''}.npz"


def reference_sizes(
    name: str, signature: Signature, files: Iterable[str]
) -> dict[str, dict[str, int]]:
    """Sizes of the references among `files` of a signature, by file: first the default ones.

    Raises ArtifactError for a file of sizes that the axes do not allow or of which a sample has too
    many parts, and for too many files.
    """
    found = {}
    names = set(files)
    if reference_file(name) in names:
        found[reference_file(name)] = signature.sizes({})
    if not signature.axes:
        return found
    prefix = reference_file(f"{name}@").removesuffix(".npz")
    for file in sorted(names):
        if not (file.startswith(prefix) and file.endswith(".npz")):
            continue
        try:
            sizes = signature.sizes(parse_label(file.removeprefix(prefix).removesuffix(".npz")))
        except ValueError as error:
            raise ArtifactError(f"references {file[:200]!r} of {name!r}: {error}") from None
        if file != reference_file(name, sizes):
            raise ArtifactError(
                f"references {file[:200]!r} of {name!r} must name every axis, in the order of the"
                f" manifest: {reference_file(name, sizes)!r}"
            )
        tiling = signature.tiling(sizes)
        if tiling is not None and len(tiling) > MAX_PARTS:
            raise ArtifactError(
                f"references {file[:200]!r} of {name!r} are of {len(tiling):,} tiles or chunks; at"
                f" most {MAX_PARTS} are replayed"
            )
        found[file] = sizes
    if len(found) > MAX_FILES + 1:
        raise ArtifactError(
            f"signature {name!r} has references of {len(found)} sizes; at most {MAX_FILES + 1} are"
            " replayed"
        )
    return found


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
                if (shape[1:], str(dtype)) != (spec.fixed_shape, spec.dtype) or len(rows) != 1:
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
