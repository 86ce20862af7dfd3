"""TensorRT: the shapes it builds engines for, and where they are kept.

    profile = profile_of([signature], max_batch=16)
    profile.options()          # {"trt_profile_min_shapes": "latent:1x100", ...}

An engine is built for one GPU, one version of TensorRT and one range of shapes, in minutes. Engines
are programs that TensorRT runs unchecked, so they lie in a folder that nobody else can write, not
in the store.
"""

import ctypes
import hashlib
import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aigc import cache
from aigc.artifact.axes import bounds, shape_at
from aigc.artifact.gpu import Gpu
from aigc.artifact.providers import ProviderError, ProviderOptions
from aigc.artifact.signature import Signature

LIBRARY = "libnvinfer.so.10"
"""TensorRT's library of the version that onnxruntime is built for."""

_NAME = re.compile(r"[^:,]+")

Shapes = dict[str, tuple[int, ...]]
"""Shapes of inputs by name, the batch axis first."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Optimisation profile: the shapes that an engine takes, and those it is fastest at."""

    smallest: Shapes
    typical: Shapes
    largest: Shapes

    def options(self) -> dict[str, str]:
        """Provider options, in onnxruntime's notation: `image:1x3x64x64,label:1`."""
        named = {"min": self.smallest, "opt": self.typical, "max": self.largest}
        return {f"trt_profile_{which}_shapes": _written(shapes) for which, shapes in named.items()}


def profile_of(signatures: Sequence[Signature], max_batch: int) -> Profile:
    """The profile of a graph: batches of 1 to max_batch, at every size that the axes allow.

    `signatures`: those that share the graph, and so its inputs. Typical are full batches of the
    default sizes. Raises ProviderError for a name that onnxruntime's notation cannot hold.
    """
    smallest, typical, largest = Shapes(), Shapes(), Shapes()
    for signature in signatures:
        for spec in signature.inputs:
            if not _NAME.fullmatch(spec.name):
                raise ProviderError(
                    f"provider tensorrt cannot take the input {spec.name!r}: its name holds a colon"
                    " or a comma; take provider cuda"
                )
            low, high = bounds(signature.axes, spec.shape)
            default = shape_at(spec.shape, signature.sizes({}))
            small, large = (1, *low), (max_batch, *high)
            typical.setdefault(spec.name, (max_batch, *default))
            smallest[spec.name] = _each(min, smallest.get(spec.name, small), small)
            largest[spec.name] = _each(max, largest.get(spec.name, large), large)
    return Profile(smallest=smallest, typical=typical, largest=largest)


def _each(
    choose: Callable[..., int], one: tuple[int, ...], other: tuple[int, ...]
) -> tuple[int, ...]:
    return tuple(choose(pair) for pair in zip(one, other, strict=True))


def _written(shapes: Shapes) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())


def engine_folder(
    root: Path, digest: str, gpu: Gpu, profile: Profile, *, onnxruntime: str, tensorrt: str
) -> Path:
    """Folder of the engines of an artifact: by its digest, the GPU, the versions and the shapes.

    Whatever of them differs has a folder of its own, so no engine is ever taken for another.
    """
    shapes = hashlib.sha256(repr(sorted(profile.options().items())).encode()).hexdigest()[:12]
    machine = re.sub(r"[^a-z0-9]+", "-", gpu.name.lower()).strip("-") or "gpu"
    versions = f"ort{onnxruntime}-trt{tensorrt}"
    return root / digest / f"{machine}-sm{gpu.capability}-{versions}-{shapes}"


def tensorrt_options(options: ProviderOptions, profile: Profile, folder: Path) -> dict[str, str]:
    """Options of the TensorRT provider: the precision is the graph's own."""
    chosen = {
        "device_id": "0",  # of those that CUDA_VISIBLE_DEVICES leaves, which Ray sets
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
        "trt_fp16_enable": "0",
        "trt_int8_enable": "0",
        **profile.options(),
    }
    if options.gpu_memory is not None:
        chosen["trt_max_workspace_size"] = str(options.gpu_memory)
    return chosen


def version() -> str:
    """Version of TensorRT's library, such as 10.13.3. Raises ProviderError if there is none."""
    try:
        number = int(ctypes.CDLL(LIBRARY).getInferLibVersion())
    except OSError as error:
        raise ProviderError(
            f"provider tensorrt was asked for, and TensorRT is not here: {error}; install TensorRT"
            " 10 (pip install tensorrt), or take provider cuda"
        ) from None
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def make_private(folder: Path) -> None:
    """Create a folder of engines. Raises ProviderError if other users may write to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.stat()
    except OSError as error:
        raise ProviderError(
            f"TensorRT's engines cannot be kept in {folder}: {error.strerror}; name another folder"
            " (engine_cache)"
        ) from None
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ProviderError(
            f"TensorRT's engines cannot be kept in {folder}, which other users may write to: an"
            " engine is code; name another folder (engine_cache), or chmod 700 it"
        )


def cache_root(engine_cache: str) -> Path:
    """The folder of all engines: the one named, or tensorrt below the user's cache folder."""
    if engine_cache:
        return Path(engine_cache)
    try:
        return cache.folder() / "tensorrt"
    except OSError as error:
        raise ProviderError(f"{error}; or name a folder for engines (engine_cache)") from None
