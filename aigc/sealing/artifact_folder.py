"""The folder of an artifact around its graphs: references, measurements, picture and model card.

seal_graphs(signatures, manifest, folder)                   # graphs that came as ONNX
seal_graphs(signatures, manifest, folder, modules)          # proven equal to torch modules
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np

from aigc.artifact import Manifest, Signature
from aigc.artifact.image_files import grid, png, to_uint8
from aigc.artifact.manifest import Parity, Reproducibility, seal
from aigc.artifact.model_card import card, has_picture
from aigc.artifact.sampling_inputs import Arrays
from aigc.sealing.example_inputs import example
from aigc.sealing.graph_runner import run_in_batches, runner
from aigc.sealing.parity import PARITY_SAMPLES, PARITY_TEXTS, prove_parity
from aigc.sealing.reproducibility import measure

REFERENCES = 16
"""Samples that are stored for a replica to replay."""
PICTURES = 80
MAX_VALUES = 1 << 26
"""Numbers in the inputs and outputs of all samples of a measurement; large samples are fewer."""
MAX_REFERENCE_VALUES = 1 << 24
MIN_ROWS = 4

Module = Callable[[Arrays], Arrays]
"""Torch module of a signature: inputs by name -> outputs by name."""


def seal_graphs(
    signatures: Mapping[str, Signature],
    manifest: Manifest,
    folder: Path,
    modules: Mapping[str, Module] | None = None,
    *,
    rows: int = PARITY_SAMPLES,
) -> Manifest:
    """Seal a folder that holds the signatures' graphs; `manifest` has name and provenance.

    Parity is proven on up to `rows` samples for the signatures that have a module. Raises
    ValueError if a graph exceeds the parity budget.
    """
    modules = modules or {}
    parity: dict[str, Parity] = {}
    reproducibility: dict[str, Reproducibility] = {}
    (folder / "references").mkdir()
    for name, signature in signatures.items():
        step = signatures[signature.step] if signature.step else None
        run = runner((folder / signature.graph).read_bytes(), signature, step)
        inputs = example(signature, _at_most(PARITY_TEXTS if step else rows, signature, MAX_VALUES))
        if name in modules:
            parity[name] = prove_parity(name, signature, run(1), inputs, modules[name](inputs))
        reproducibility[name] = measure(signature, run, inputs)
        few = _at_most(REFERENCES, signature, MAX_REFERENCE_VALUES)
        first = {key: value[:few] for key, value in inputs.items()}
        _write_references(folder, name, first, run_in_batches(run(1), first))
    manifest = replace(
        manifest, signatures=dict(signatures), parity=parity, reproducibility=reproducibility
    )
    _write_picture(folder, manifest)
    (folder / "README.md").write_text(card(manifest))
    return seal(folder, manifest)


def _at_most(rows: int, signature: Signature, values: int) -> int:
    """Number of samples whose tensors have at most so many values; not below MIN_ROWS."""
    each = sum(prod(spec.shape) for spec in (*signature.inputs, *signature.outputs))
    return max(min(MIN_ROWS, rows), min(rows, values // each))


def _write_references(folder: Path, name: str, inputs: Arrays, outputs: Arrays) -> None:
    arrays = {f"in/{key}": value for key, value in inputs.items()}
    arrays |= {f"out/{key}": value for key, value in outputs.items()}
    np.savez(folder / "references" / f"{name}.npz", **arrays)  # type: ignore[arg-type]


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
