"""The folder of an artifact around its graphs: references, measurements, picture and model card.

seal_graphs(signatures, manifest, folder)                   # graphs that came as ONNX
seal_graphs(signatures, manifest, folder, modules)          # proven equal to torch modules
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from msgspec import UNSET, UnsetType

from aigc.artifact import Artifact, Manifest, Signature, autoregressive
from aigc.artifact.folder import Contents
from aigc.artifact.image_files import grid, png, to_uint8
from aigc.artifact.manifest import Parity, Reproducibility, seal
from aigc.artifact.model_card import card, has_picture
from aigc.artifact.precision import Precision
from aigc.artifact.references import reference_file
from aigc.artifact.sampling_inputs import Arrays
from aigc.sealing.chunk_proof import proven_chunk
from aigc.sealing.example_inputs import at_most, example, proved_sizes, tiled_sizes
from aigc.sealing.graph_runner import run_in_batches, runner
from aigc.sealing.parity import PARITY_SAMPLES, PARITY_TEXTS, prove_at_sizes
from aigc.sealing.precision import Reduction, reduce_graphs
from aigc.sealing.reproducibility import measure_at_sizes
from aigc.sealing.tile_proof import proven_tile

REFERENCES = 16
"""Samples that are stored for a replica to replay."""
FEW_REFERENCES = 3
"""Samples of each size of free axes other than the default."""
PICTURES = 80
MAX_REFERENCE_VALUES = 1 << 24
"""Numbers in the references of a signature; larger samples of other sizes than the default have
none."""

Module = Callable[[Arrays], Arrays]
"""Torch module of a signature: inputs by name -> outputs by name."""


def seal_graphs(
    signatures: Mapping[str, Signature],
    manifest: Manifest,
    folder: Path,
    modules: Mapping[str, Module] | None = None,
    *,
    rows: int = PARITY_SAMPLES,
    reduction: Reduction | None = None,
    tiled: Collection[str] = (),
    chunked: Collection[str] = (),
) -> Manifest:
    """Seal a folder that holds the signatures' graphs; `manifest` has name and provenance.

    Parity is proven on up to `rows` samples for the signatures that have a module; then graphs are
    reduced by `reduction`, and all else is of the reduced ones, which its judge compares with those
    of float32. The signatures named by `tiled` get tiles, those by `chunked` chunks. Raises
    ValueError if a graph exceeds the parity budget or cannot be reduced, if tiles or chunks do not
    equal the whole, and what the judge raises.
    """
    modules, signatures = modules or {}, dict(signatures)
    most = {name: PARITY_TEXTS if s.step else rows for name, s in signatures.items()}
    parity: dict[str, Parity] = {}
    reproducibility: dict[str, Reproducibility] = {}
    (folder / "references").mkdir()
    for name in filter(modules.__contains__, signatures):
        run = _runner(folder, signatures, name)
        parity[name] = prove_at_sizes(name, signatures[name], run(1), modules[name], most[name])
    precision: Precision | UnsetType = UNSET
    graphs = _graphs(folder, signatures) if reduction else {}
    if reduction:
        precision = reduce_graphs(signatures, folder, modules, reduction, most)
    for name, signature in [*signatures.items()]:
        run = _runner(folder, signatures, name)
        if name in tiled:
            signatures[name] = replace(signature, tile=proven_tile(name, signature, run(1)))
        if name in chunked:
            signatures[name] = replace(signature, chunk=proven_chunk(name, signature, run(1)))
        reproducibility[name] = measure_at_sizes(signature, run, most[name])
        _write_references(folder, name, signatures[name], run(1))
    manifest = replace(
        manifest,
        signatures=signatures,
        parity=parity,
        reproducibility=reproducibility,
        precision=precision,
    )
    if reduction and reduction.judge:
        reduced = _opened(manifest, _graphs(folder, signatures))
        float32 = _opened(replace(manifest, precision=UNSET), graphs)
        manifest = reduction.judge(float32, reduced)
    _write_picture(folder, manifest)
    (folder / "README.md").write_text(card(manifest))
    return seal(folder, manifest)


def _graphs(folder: Path, signatures: Mapping[str, Signature]) -> dict[str, bytes]:
    """The files of graphs by name."""
    return {one.graph: (folder / one.graph).read_bytes() for one in signatures.values()}


def _opened(manifest: Manifest, graphs: Mapping[str, bytes]) -> Artifact:
    """An artifact that is not sealed yet."""
    contents = Contents(graphs=graphs, weights={}, references={})
    return Artifact(manifest, manifest.id, contents, threads=1)


def _runner(
    folder: Path, signatures: Mapping[str, Signature], name: str
) -> Callable[[int], autoregressive.Run]:
    """Function from a number of threads to a runner of one signature's graph in the folder."""
    signature = signatures[name]
    step = signatures[signature.step] if signature.step else None
    return runner((folder / signature.graph).read_bytes(), signature, step)


def _write_references(
    folder: Path, name: str, signature: Signature, run: autoregressive.Run
) -> None:
    """Write references of the default sizes, and a few of others, unless they are too large.

    Those beyond the bounds of the axes are made of tiles or chunks, as a replica makes them.
    """
    default = signature.sizes({})
    for sizes in (*proved_sizes(signature), *tiled_sizes(signature)):
        n = at_most(REFERENCES, signature.at(sizes), MAX_REFERENCE_VALUES)
        if sizes != default:
            values = signature.at(sizes).num_values
            if values > MAX_REFERENCE_VALUES:
                continue
            n = max(1, min(FEW_REFERENCES, MAX_REFERENCE_VALUES // values))
        inputs, tiling = example(signature, n, sizes), signature.tiling(sizes)
        outputs = (
            tiling.run(run, inputs, signature.shapes, batch=1)
            if tiling
            else run_in_batches(run, inputs)
        )
        arrays = {f"in/{key}": value for key, value in inputs.items()}
        arrays |= {f"out/{key}": value for key, value in outputs.items()}
        file = reference_file(name, None if sizes == default else sizes)
        np.savez(folder / file, **arrays)  # type: ignore[arg-type]


def _write_picture(folder: Path, manifest: Manifest) -> None:
    """Write samples.png of the model card."""
    if not has_picture(manifest):
        return
    signature = manifest.signatures["sample"]
    spec = signature.outputs[0]
    assert spec.range is not None
    run = runner((folder / signature.graph).read_bytes(), signature, None)(1)
    inputs = example(signature, PICTURES)
    if signature.label is not None:
        assert signature.label.range is not None
        classes = int(signature.label.range[1]) + 1
        inputs[signature.label.name] = np.arange(PICTURES) % 10 % classes
    images = run_in_batches(run, inputs)[spec.name]
    (folder / "samples.png").write_bytes(png(grid(to_uint8(images, *spec.range), 10)))
