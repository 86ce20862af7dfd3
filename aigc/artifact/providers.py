"""Execution providers: the processors on which onnxruntime runs an artifact's graphs.

    Artifact.open("artifacts/digits", provider="cuda")      # ProviderError where there is none
    ProviderOptions(provider="tensorrt", gpu_memory=4 << 30, max_batch=16)

onnxruntime itself falls back to the CPU, in silence, where a provider or one of its libraries is
missing. Here a provider that was asked for is taken or refused; only `auto` takes what there is.
"""

import contextlib
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from aigc.artifact.manifest import ArtifactError
from aigc.artifact.runtime import ort

Provider = Literal["auto", "cpu", "cuda", "tensorrt"]
"""auto: cuda where onnxruntime has it and it loads, else cpu."""
Taken = Literal["cpu", "cuda", "tensorrt"]
"""Provider of an open session."""

NAMES: dict[Taken, str] = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
"""onnxruntime's names. Each provider leaves the nodes that it lacks to those behind it."""
INSTALL = {
    "cuda": "onnxruntime-gpu in place of onnxruntime (the image aigc-serve-gpu has it)",
    "tensorrt": "onnxruntime-gpu in place of onnxruntime (the image aigc-serve-gpu has it), and"
    " TensorRT 10 (pip install tensorrt)",
}
LIBRARIES = {
    "cuda": "its driver, CUDA or cuDNN",
    "tensorrt": "its driver, CUDA, cuDNN or TensorRT 10 (pip install tensorrt)",
}


class ProviderError(ArtifactError):
    """The provider that was asked for cannot be had; the message says what to install."""


@dataclass(frozen=True, kw_only=True)
class ProviderOptions:
    """The provider of an artifact's graphs, and what it may take."""

    provider: Provider = "auto"
    gpu_memory: int | None = None
    """Most bytes of GPU memory of each graph's arena; None for no limit."""
    engine_cache: str = ""
    """Folder of TensorRT's engines; by default below the user's cache folder."""
    max_batch: int = 64
    """Largest batch that TensorRT prepares for, at any size of free axes."""


def available() -> tuple[Taken, ...]:
    """Providers that this onnxruntime was built with, the fastest first."""
    built = ort.get_available_providers()
    return tuple(one for one, name in NAMES.items() if name in built)


def check(provider: Provider) -> None:
    """Raise ProviderError if this onnxruntime was built without a provider that is asked for."""
    if provider == "auto" or provider in available():
        return
    raise ProviderError(
        f"provider {provider} was asked for, and onnxruntime {ort.__version__} here has"
        f" {' and '.join(available())} only; install {INSTALL[provider]}, or take provider cpu"
    )


def resolve(provider: Provider) -> Taken:
    """The provider to try. Raises ProviderError as check() does."""
    check(provider)
    if provider == "auto":
        return "cuda" if "cuda" in available() else "cpu"
    return provider


def chain(provider: Taken) -> tuple[Taken, ...]:
    """A provider and those behind it that this onnxruntime has, the CPU last."""
    order = list(NAMES)
    return tuple(one for one in order[order.index(provider) :] if one in available())


def taken(registered: Sequence[str]) -> Taken:
    """The first provider of a session, of onnxruntime's names that it has registered."""
    return next((one for one, name in NAMES.items() if name in registered), "cpu")


def check_taken(provider: Provider, registered: Sequence[str]) -> Taken:
    """The provider of a session. Raises ProviderError unless it is the one that was asked for."""
    found = taken(registered)
    if provider not in ("auto", found):
        raise ProviderError(
            f"provider {provider} was asked for, and onnxruntime {ort.__version__} could not load"
            f" it and would run on {found}: {LIBRARIES[provider]} is missing here or of another"
            " version; `nvidia-smi` and onnxruntime's own message above say more"
        )
    return found


def cuda_options(options: ProviderOptions) -> dict[str, str]:
    """Options of the CUDA provider.

    References and seeds want the same numbers on every replica: no TF32, which keeps 10 bits of a
    mantissa, and algorithms chosen by a rule, not by which was faster when a size first came.
    """
    chosen = {
        "device_id": "0",  # of those that CUDA_VISIBLE_DEVICES leaves, which Ray sets
        "use_tf32": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
    }
    if options.gpu_memory is not None:
        chosen["gpu_mem_limit"] = str(options.gpu_memory)
    return chosen


@cache
def load_libraries(provider: Taken) -> None:
    """Load CUDA, cuDNN and TensorRT where pip installed them, which no loader would find."""
    with contextlib.redirect_stdout(sys.stderr):  # the last line of stdout belongs to commands
        if provider != "cpu" and hasattr(ort, "preload_dlls"):
            ort.preload_dlls(directory="")
        if provider == "tensorrt":
            with contextlib.suppress(ImportError):
                importlib.import_module("tensorrt_libs")
