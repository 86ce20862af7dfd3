"""The GPU of this process, as the CUDA driver describes it; needs no torch and no NVML."""

import ctypes
from dataclasses import dataclass
from typing import Any

from aigc.artifact.providers import ProviderError

LIBRARY = "libcuda.so.1"
"""The driver's library; in containers the NVIDIA runtime brings it."""
_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU."""

    name: str
    """Such as NVIDIA H200."""
    capability: str
    """Compute capability, such as 9.0."""
    total_bytes: int
    """Bytes of its memory."""


def first_gpu(driver: Any = None) -> Gpu:
    """The first GPU that CUDA_VISIBLE_DEVICES leaves. Raises ProviderError if there is none.

    `driver`: the loaded library, by default the system's. No memory of the GPU is taken.
    """
    if driver is None:
        try:
            driver = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise ProviderError(
                f"no GPU can be used here: {error}; install NVIDIA's driver, in a container its"
                " runtime"
            ) from None
    device, total = ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(256)
    parts = [ctypes.c_int(), ctypes.c_int()]
    for call, *arguments in (
        (driver.cuInit, 0),
        (driver.cuDeviceGet, ctypes.byref(device), 0),
        (driver.cuDeviceGetName, name, len(name), device),
        (driver.cuDeviceTotalMem_v2, ctypes.byref(total), device),
        (driver.cuDeviceGetAttribute, ctypes.byref(parts[0]), _MAJOR, device),
        (driver.cuDeviceGetAttribute, ctypes.byref(parts[1]), _MINOR, device),
    ):
        status = call(*arguments)
        if status:
            raise ProviderError(
                f"no GPU can be used here: {call.__name__} of NVIDIA's driver gives error {status};"
                " `nvidia-smi` and CUDA_VISIBLE_DEVICES say more"
            )
    return Gpu(
        name=name.value.decode(errors="replace"),
        capability=f"{parts[0].value}.{parts[1].value}",
        total_bytes=total.value,
    )
