"""One graph as an onnxruntime session, on the execution provider that was asked for."""

import logging
import os
from collections.abc import Mapping
from typing import Any

from aigc.artifact import gpu, tensorrt
from aigc.artifact.manifest import ArtifactError, Manifest
from aigc.artifact.providers import (
    NAMES,
    ProviderOptions,
    Taken,
    chain,
    check_taken,
    cuda_options,
    load_libraries,
    resolve,
    taken,
)
from aigc.artifact.runtime import ort

log = logging.getLogger(__name__)


def open_session(
    manifest: Manifest,
    name: str,
    graph: bytes,
    weights: Mapping[str, bytes],
    *,
    threads: int,
    arena: bool,
    options: ProviderOptions,
) -> ort.InferenceSession:
    """Open a graph of an artifact, with its external weights by location.

    Without an `arena` on the CPU. Raises ArtifactError for a graph that does not load,
    ProviderError for a provider that was asked for and is not there or does not load.
    """
    if not arena:
        options = ProviderOptions(provider="cpu")
    wanted = resolve(options.provider)
    load_libraries(wanted)
    providers = [(NAMES[one], options_of(one, manifest, name, options)) for one in chain(wanted)]
    # onnxruntime would otherwise open the session once more on the CPU, and say so on stdout.
    may_fall_back = options.provider == "auto" and wanted != "cpu"
    try:
        session = ort.InferenceSession(
            graph,
            _session_options(weights, threads, arena, wanted),
            providers=providers,
            enable_fallback=int(may_fall_back),
        )
    except Exception as error:  # onnxruntime raises pybind types without a common base
        where = "" if wanted == "cpu" else f" with provider {wanted}"
        raise ArtifactError(
            f"graph {name!r} is not one that onnxruntime loads{where}: {error}"
        ) from error
    session.disable_fallback()  # a failing run would open it anew on the CPU
    found = check_taken(options.provider, session.get_providers())
    if found != wanted:
        log.warning(
            "onnxruntime has the provider %s, which does not load here, so %s runs on %s;"
            " provider %s makes that an error",
            wanted,
            manifest.id,
            found,
            wanted,
        )
    return session


def _session_options(
    weights: Mapping[str, bytes], threads: int, arena: bool, wanted: Taken
) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if wanted != "cpu":
        options.use_deterministic_compute = True
    # A spinning thread takes the core from the replica's event loop and from its neighbours.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # onnxruntime would recognise other formats, which no check has read.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    if weights:
        # The bytes that were hashed, not a second read or a file below the working directory.
        sizes = [len(data) for data in weights.values()]
        options.add_external_initializers_from_files_in_memory(
            list(weights), list(weights.values()), sizes
        )
    if not arena:
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    return options


def options_of(
    provider: Taken, manifest: Manifest, graph: str, options: ProviderOptions
) -> dict[str, Any]:
    """Options of one provider for a graph of an artifact. Raises ProviderError."""
    if provider == "cpu":
        return {}
    if provider == "cuda":
        return cuda_options(options)
    # Read by CUDA's libraries when they begin; onnxruntime has no option of TensorRT's for it.
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    run = [one for one in manifest.signatures.values() if one.graph == graph and not one.step]
    profile = tensorrt.profile_of(run, options.max_batch)
    folder = tensorrt.engine_folder(
        tensorrt.cache_root(options.engine_cache),
        manifest.digest,
        gpu.first_gpu(),
        profile,
        onnxruntime=ort.__version__,
        tensorrt=tensorrt.version(),
    )
    tensorrt.make_private(folder)
    return tensorrt.tensorrt_options(options, profile, folder)


def provider_of(sessions: Mapping[str, ort.InferenceSession]) -> Taken:
    """The provider of an artifact's sessions, which all have the same."""
    return taken(next(iter(sessions.values())).get_providers())
