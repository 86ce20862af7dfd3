"""Sealing of what is there already: a torch module, or an ONNX file of any project.

seal("upscaler.onnx", name="upscaler", licence="MIT", range="0..1")
seal(generator, name="faces", licence="MIT", example_inputs=(torch.zeros(1, 64),))
seal({"encode": encoder, "decode": decoder}, name="codec", signatures={...}, licence="MIT")
"""

import datetime
import logging
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import onnx
import psutil
from numpy.typing import NDArray

from aigc.artifact import Manifest, Signature, Store, signing
from aigc.artifact.folder import SealedFolder
from aigc.artifact.manifest import IMPORTED, UNSTATED, check_name
from aigc.artifact.precision import ReducedPrecision
from aigc.artifact.trial import Bounds, try_out
from aigc.files import expanded
from aigc.sealing.artifact_folder import Module, seal_graphs
from aigc.sealing.calibration import recorded
from aigc.sealing.foreign_graph import (
    MEMORY_SHARE,
    ForeignGraph,
    Say,
    adapt,
    tensor_names,
    with_signature,
)
from aigc.sealing.hints import Hints
from aigc.sealing.onnx_file import read_onnx
from aigc.sealing.parity import PARITY_SAMPLES
from aigc.sealing.precision import Reduction

if TYPE_CHECKING:
    from torch import Tensor, nn

    Source = nn.Module | str | Path

MEASURE_S = 60.0
"""Time that the measurements of one signature may take; fewer rows are measured of a slow graph."""
MIN_ROWS, MAX_ROWS = 8, 64
RUNS_PER_ROW = 12
"""Runs of a row while reproducibility is measured: batch sizes, threads and references."""
TRIAL_S = 600.0
NO_AXES = "tiles need free axes; give --axis NAME=MIN..MAX for height and width"
NO_AXIS = "chunks need a free axis; give --axis NAME=MIN..MAX for the length"

log = logging.getLogger(__name__)


def seal(
    model: "Source | Mapping[str, Source]",
    *,
    name: str,
    licence: str = UNSTATED,
    version: str = "",
    store: str | Path = "artifacts",
    signatures: Mapping[str, Signature] | None = None,
    example_inputs: "Tensor | Sequence[Tensor] | Mapping[str, Sequence[Tensor]] | None" = None,
    each_alone: bool = False,
    precision: ReducedPrecision | Literal["float32"] = "float32",
    calibration: "Mapping[str, NDArray[Any]] | None" = None,
    tile: bool = False,
    chunk: bool = False,
    sign: str = "",
    say: Say = log.info,
    **facts: Any,
) -> str:
    """Seal a model as an artifact, and return its URI.

    `model` is a torch module on the CPU, an ONNX file, or several by the names of their signatures
    (`sample`, `encode`, ...; a single one gets a name by its inputs). A module needs
    `example_inputs`, the tensors that its forward takes, batch axis first; with several modules a
    sequence for each. What the graph does not tell is told by `facts`: `kind`, `range`, `classes`,
    `sample_rate`, `layout`, `shape`, `default` and `rename`, each a value for all tensors or a dict
    by name, as `aigc import` takes them; or by whole `signatures`. `each_alone`: the graph has no
    batch axis. `precision` of the graphs' numbers, float32 as they are: float16, int8 (weights
    alone) or int8-conv, whose cost the manifest states. `calibration`: real inputs for int8-conv,
    arrays (n, ...) by the names of the tensors, all but noise and classes. `tile`: images beyond
    the bounds of free axes are made of tiles, which are proven equal to the whole; `chunk`: so are
    sounds beyond the bound of their axis, of chunks. `sign`: a private key. `say` is called with
    lines on what was found.

    A module is exported and proven equal to its graph; for an ONNX file the manifest states no
    parity. Raises ValueError, and publishes nothing, for what no artifact may be, for facts that
    are missing, and for a version that is there already.
    """
    if sign:
        signing.check_key(sign)
    check_name(name)
    target = Store(store)
    version = version or target.next_version(name)
    target.check_free(name, version)
    hints = Hints.of_facts(facts)
    if (tile or chunk) and not (hints.axis or signatures):
        raise ValueError(NO_AXES if tile else NO_AXIS)
    sources = model if isinstance(model, Mapping) else {"": model}
    _check_signature_names(sources)
    with tempfile.TemporaryDirectory(prefix="aigc-seal-") as temporary, _evaluating(sources):
        folder = Path(temporary) / name  # model.sig holds the folder's name
        folder.mkdir()
        models = {
            key: _model(source, _known(signatures, key), _inputs_of(example_inputs, key))
            for key, source in sources.items()
        }
        hints.check_names(name for model in models.values() for name in tensor_names(model))
        graphs: dict[str, Signature] = {}
        modules: dict[str, Module] = {}
        seconds = 0.0
        for key, source in sources.items():
            known, origin = _known(signatures, key), _origin(source)
            graph = _adapted(models.pop(key), origin, known, hints, each_alone, say)
            key = key or next(iter(signatures or ()), "") or _signature_name(graph.signature)
            graphs[key] = replace(graph.signature, graph=f"{key}.onnx")
            (folder / graphs[key].graph).write_bytes(graph.model.SerializeToString())
            seconds = max(seconds, graph.row_seconds)
            if not isinstance(source, str | Path):
                modules[key] = _module(source, graph, graphs[key])
        manifest = _manifest(name, version, licence, ", ".join(map(_origin, sources.values())))
        reduction = _reduction(precision, calibration, graphs)
        rows = _num_rows(seconds, bool(modules))
        tiled, chunked = _divided(graphs, tile, chunk)
        manifest = seal_graphs(
            graphs,
            manifest,
            folder,
            modules,
            rows=rows,
            reduction=reduction,
            tiled=tiled,
            chunked=chunked,
        )
        for key in (*tiled, *chunked):
            say(_describe_parts(key, manifest.signatures[key]))
        _try(folder)
        if sign:
            signing.sign(folder, sign)
        return target.publish(folder)


def _check_signature_names(names: Iterable[str]) -> None:
    """Raise ValueError for what cannot name a signature, and its file."""
    for name in names:
        if name and not (name.isidentifier() and name.isascii()):
            raise ValueError(f"a signature is named by letters, digits and _, got {name[:60]!r}")


def _reduction(
    precision: ReducedPrecision | Literal["float32"],
    calibration: "Mapping[str, NDArray[Any]] | None",
    signatures: Mapping[str, Signature],
) -> Reduction | None:
    """The reduction to a precision, None for float32. Raises ValueError for unused calibration."""
    if calibration is not None and precision != "int8-conv":
        raise ValueError(
            f"calibration is for int8-conv and has no effect on {precision}; leave it out"
        )
    names = {spec.name: None for one in signatures.values() for spec in one.inputs}
    if unknown := [name for name in calibration or {} if name not in names]:
        raise ValueError(
            f"calibration is of {', '.join(unknown)}, inputs are {', '.join(names)}; name its"
            " arrays as they are"
        )
    if precision == "float32":
        return None
    return Reduction(precision, real=recorded(calibration) if calibration else None)


def _divided(
    signatures: Mapping[str, Signature], tile: bool, chunk: bool
) -> tuple[list[str], list[str]]:
    """The signatures whose samples are to be made of tiles, and those of chunks.

    With both, images are made of tiles. Raises ValueError if there are none.
    """
    free = [name for name, signature in signatures.items() if signature.axes]
    images = [name for name in free if signatures[name].outputs[0].kind == "image"]
    tiled = [name for name in free if tile and (not chunk or name in images)]
    chunked = [name for name in free if chunk and name not in tiled]
    if tile and not tiled:
        raise ValueError(NO_AXES)
    if chunk and not chunked:
        raise ValueError(NO_AXIS)
    return tiled, chunked


def _describe_parts(name: str, signature: Signature) -> str:
    parts = signature.parts
    assert parts is not None
    equal = f"off by {parts.max_abs:.1g}" if parts.max_abs else "and equal the whole"
    if signature.chunk:
        chunk = signature.chunk
        return (
            f"chunks of {name}: they need {chunk.context} of {chunk.axis} on either side, {equal}"
        )
    overlap = ", ".join(f"{places} of {axis}" for axis, places in parts.overlap.items())
    return f"tiles of {name}: they share {overlap}, {equal}"


def _num_rows(seconds: float, with_modules: bool) -> int:
    """Samples to measure on, from the time that one takes."""
    most = PARITY_SAMPLES if with_modules else MAX_ROWS
    return max(MIN_ROWS, min(most, int(MEASURE_S / (RUNS_PER_ROW * max(seconds, 1e-6)))))


def _evaluating(sources: "Mapping[str, Source]") -> AbstractContextManager[None]:
    """The torch modules among the sources in eval mode for a while."""
    modules = [one for one in sources.values() if not isinstance(one, str | Path)]
    if not modules:
        return nullcontext()
    from aigc.sealing.torch_module import evaluating

    return evaluating(modules)


def _manifest(name: str, version: str, licence: str, origin: str) -> Manifest:
    return Manifest(
        name=name,
        version=version,
        family=IMPORTED,
        model=origin,
        preset="",
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        licence=licence,
        signatures={},
        reproducibility={},
        parity={},
    )


def _origin(source: "Source") -> str:
    """Name of a file or class."""
    return Path(source).name if isinstance(source, str | Path) else type(source).__name__


def _known(signatures: Mapping[str, Signature] | None, key: str) -> Signature | None:
    """The signature that was given for a source. Raises ValueError if others were."""
    if signatures is None:
        return None
    if not key and len(signatures) == 1:
        return next(iter(signatures.values()))
    if key not in signatures:
        raise ValueError(
            f"signatures must be of {key!r} as the model is, got {', '.join(signatures)}"
        )
    return signatures[key]


def _inputs_of(example_inputs: Any, key: str) -> "tuple[Tensor, ...]":
    """The example inputs of one module."""
    if isinstance(example_inputs, Mapping):
        example_inputs = example_inputs.get(key)
    if example_inputs is None:
        return ()
    return tuple(example_inputs) if isinstance(example_inputs, list | tuple) else (example_inputs,)


def _model(
    source: "Source", signature: Signature | None, inputs: "tuple[Tensor, ...]"
) -> onnx.ModelProto:
    """The graph of one source. Raises ValueError for what cannot be read or exported."""
    if isinstance(source, str | Path):
        return read_onnx(Path(expanded(str(source))))
    from aigc.sealing import torch_module

    with tempfile.TemporaryDirectory(prefix="aigc-seal-") as temporary:
        path = Path(temporary) / _origin(source)
        torch_module.export(source, signature, inputs, path)
        return read_onnx(path)


def _adapted(
    model: onnx.ModelProto,
    file: str,
    signature: Signature | None,
    hints: Hints,
    each_alone: bool,
    say: Say,
) -> ForeignGraph:
    """A graph with a signature, the one that is known or one by what the graph tells."""
    if signature is not None:
        return with_signature(model, file, signature)
    return adapt(model, file, hints, each_alone=each_alone, say=say)


def _module(source: "nn.Module", graph: ForeignGraph, signature: Signature) -> Module:
    """The module as parity calls it. Raises ValueError if the graph's ends had to be converted."""
    from aigc.model import Export
    from aigc.sealing.onnx_export import run_module

    if graph.converted:
        raise ValueError(
            f"{_origin(source)}: {graph.converted[0]!r} is not a tensor of an artifact (float32 or"
            " int64, images (N, C, H, W), sounds (N, channels, samples), labels (N,)); wrap the"
            " module in one that converts it"
        )
    return partial(run_module, Export(module=source, signature=signature))


def _signature_name(signature: Signature) -> str:
    """Name of the only signature by what it takes: `sample` is drawn from a seed."""
    if signature.drawable:
        return "sample"
    media = ("image", "audio")
    takes = any(spec.kind in media for spec in signature.given)
    gives = any(spec.kind in media for spec in signature.outputs)
    if takes and gives:
        return "transform"
    return "encode" if takes else "decode" if gives else "run"


def _try(folder: Path) -> None:
    """Open the folder as a server opens a stranger's. Raises ArtifactError if that fails."""
    sealed = SealedFolder.open(str(folder))
    contents = sealed.contents(*sealed.graphs())
    memory = int(MEMORY_SHARE * psutil.virtual_memory().available)
    try_out(sealed.manifest_bytes, contents, Bounds(memory_bytes=memory, seconds=TRIAL_S))
