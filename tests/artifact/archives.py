"""Archives of references, right and wrong."""

import io
import zipfile

import numpy as np

ROWS = {"in/latent": (4, 4), "in/label": (4,), "out/image": (4, 1, 8, 8)}
TYPES = {"in/latent": "<f4", "in/label": "<i8", "out/image": "<f4"}


def header(name: str, shape: tuple[int, ...], **changes: object) -> bytes:
    buffer = io.BytesIO()
    said = {"descr": TYPES[name], "fortran_order": False, "shape": shape} | changes
    np.lib.format.write_array_header_1_0(buffer, said)
    return buffer.getvalue()


def archive(
    members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED, zeros: int = 0
) -> bytes:
    """An archive with `zeros` zeros appended to the latents."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as packed:
        for name, data in members.items():
            with packed.open(f"{name}.npy", "w", force_zip64=True) as file:
                file.write(data)
                for _ in range(zeros >> 20 if name == "in/latent" else 0):
                    file.write(bytes(1 << 20))
    return buffer.getvalue()


def whole(**changes: tuple[int, ...]) -> dict[str, bytes]:
    shapes = ROWS | {name.replace("_", "/"): shape for name, shape in changes.items()}
    sizes = {name: int(np.prod(shape)) * int(TYPES[name][-1]) for name, shape in shapes.items()}
    return {name: header(name, shapes[name]) + bytes(sizes[name]) for name in shapes}
