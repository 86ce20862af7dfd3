"""Reduced precision of an artifact's graphs, measured against those of float32.

precision = reduce_graphs(signatures, folder, modules, Reduction("int8"), {"sample": 1024})
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from aigc.artifact import Artifact, Manifest, Signature, TensorSpec, autoregressive
from aigc.artifact.image_files import to_uint8
from aigc.artifact.precision import (
    MAX_MEAN_LOSS,
    MAX_TEXTS,
    Calibration,
    Precision,
    PrecisionLoss,
    ReducedPrecision,
)
from aigc.artifact.sampling_inputs import Arrays
from aigc.sealing.calibration import RealInputs, calibration_inputs
from aigc.sealing.example_inputs import example, num_examples, proved_sizes
from aigc.sealing.graph_runner import run_in_batches, runner
from aigc.sealing.parity import errors, mismatch_share
from aigc.sealing.reduced_graph import has_conv, reduce_graph

CALIBRATION = 64
"""Samples from which int8-conv takes ranges."""

Judge = Callable[[Artifact, Artifact], Manifest]
"""Function from the artifacts of float32 and reduced graphs to the manifest with the metrics of
both. Raises ValueError for a loss of quality that is not allowed."""


@dataclass(frozen=True)
class Reduction:
    """A precision to reduce graphs to, and what judges the quality, if anything does."""

    name: ReducedPrecision
    judge: Judge | None = None
    real: RealInputs | None = None
    """Real inputs for int8-conv; None if there are none."""


def reduce_graphs(
    signatures: Mapping[str, Signature],
    folder: Path,
    modules: Mapping[str, Callable[[Arrays], Arrays]],
    reduction: Reduction,
    rows: Mapping[str, int],
) -> Precision:
    """Replace every graph by a reduced one, and measure what that costs.

    The loss is measured on up to `rows` samples of each signature, against its module if it has
    one, else against its float32 graph: on random inputs, or on real ones where int8-conv was
    calibrated on them. Raises ValueError for graphs that cannot be reduced, give numbers that are
    not finite or far from those of float32, or lack real inputs to be calibrated on.
    """
    files = {
        signature.graph: (folder / signature.graph).read_bytes()
        for signature in signatures.values()
    }
    calibration: dict[str, Calibration] = {}
    inputs: dict[str, list[Arrays]] = {}
    if reduction.name == "int8-conv":
        calibration, inputs = _calibrate(signatures, files, reduction.real, rows)
    reduced = {
        file: _reduced(file, data, _first(inputs, calibration.get(file)), reduction.name)
        for file, data in files.items()
    }
    if reduced == files:
        raise ValueError("there are no weights worth reducing; leave out --precision")
    loss = {}
    for name, signature in signatures.items():
        step = signatures[signature.step] if signature.step else None
        before, after = (
            runner(graphs[signature.graph], signature, step)(1) for graphs in (files, reduced)
        )
        runs = inputs.get(name) or [
            example(signature, num_examples(signature, sizes, rows[name]), sizes)
            for sizes in proved_sizes(signature)
        ]
        loss[name] = _loss(name, signature, modules.get(name, before), after, runs, reduction.name)
    for file, data in reduced.items():
        (folder / file).write_bytes(data)
    return Precision(
        name=reduction.name,
        loss=loss,
        float32_graphs={file: hashlib.sha256(data).hexdigest() for file, data in files.items()},
        calibration=calibration or msgspec.UNSET,
    )


def _has_conv(data: bytes) -> bool:
    return has_conv(onnx.load_model_from_string(data).graph)


def _calibrate(
    signatures: Mapping[str, Signature],
    files: Mapping[str, bytes],
    real: RealInputs | None,
    rows: Mapping[str, int],
) -> tuple[dict[str, Calibration], dict[str, list[Arrays]]]:
    """Calibration of each graph with a Conv, and the inputs of its signature, several runs by name.

    Raises ValueError if there is no such graph, and as calibration_inputs() does.
    """
    calibration, inputs = {}, {}
    for file in (file for file, data in files.items() if _has_conv(data)):
        sharing = {name: one for name, one in signatures.items() if one.graph == file}
        steps = [one.step for one in sharing.values() if one.step]
        drawn = [name for name, one in sharing.items() if one.drawable]
        name = next(iter([*steps, *drawn, *sharing]))
        most = max(rows[name], CALIBRATION)
        inputs[name], origins = calibration_inputs(name, signatures[name], real, most)
        taken = min(CALIBRATION, *(_num_rows(run) for run in inputs[name]))
        calibration[file] = Calibration(signature=name, rows=taken, inputs=origins)
    if not calibration:
        raise ValueError("no graph has a Conv to quantise; take --precision int8, weights alone")
    return calibration, inputs


def _first(inputs: Mapping[str, list[Arrays]], calibration: Calibration | None) -> list[Arrays]:
    """The rows of a calibration."""
    runs = inputs[calibration.signature] if calibration else []
    return [{key: value[:CALIBRATION] for key, value in run.items()} for run in runs]


def _num_rows(run: Arrays) -> int:
    return len(next(iter(run.values())))


def _reduced(file: str, data: bytes, calibration: list[Arrays], name: ReducedPrecision) -> bytes:
    """The reduced graph. Raises ValueError, naming the file, whatever a converter raises."""
    try:
        return reduce_graph(data, name, calibration)
    except ValueError as error:
        raise ValueError(f"{file} cannot be reduced to {name}: {error}") from error
    except Exception as error:  # of protobuf, onnx and onnxruntime, without a common base
        reason = " ".join(f"{error}".split())[:300]
        raise ValueError(
            f"{file} cannot be reduced to {name}: {type(error).__name__}: {reason}"
        ) from error


def _loss(
    name: str,
    signature: Signature,
    reference: Callable[[Arrays], Arrays],
    run: autoregressive.Run,
    runs: Sequence[Arrays],
    precision: ReducedPrecision,
) -> PrecisionLoss:
    """Loss of one signature, the worst of several runs."""
    found = []
    for inputs in runs:
        try:
            expected, actual = reference(inputs), run_in_batches(run, inputs)
        except Exception as error:  # of onnxruntime, without a common base
            reason = " ".join(f"{error}".split())[:300]
            raise ValueError(f"signature {name!r} does not run in {precision}: {reason}") from error
        found += [
            _distance(name, spec, expected[spec.name], actual[spec.name], precision)
            for spec in signature.outputs
        ]
    return PrecisionLoss(
        max_abs=max(one.max_abs for one in found),
        mean_loss=max(one.mean_loss for one in found),
        uint8_mismatch=max(one.uint8_mismatch for one in found),
        uint8_max=max(one.uint8_max for one in found),
        samples=max(one.samples for one in found),
    )


def _distance(
    name: str, spec: TensorSpec, a: NDArray[np.float32], b: NDArray[np.float32], precision: str
) -> PrecisionLoss:
    """Distance of an output from that of float32. Raises ValueError beyond the bounds."""
    if spec.dtype == "int64":
        other = a != b
        differ = float((other if spec.is_codes else other.reshape(len(a), -1).any(1)).mean())
        if differ > MAX_TEXTS:
            of = "codes" if spec.is_codes else "rows"
            raise ValueError(
                f"signature {name!r} differs in {precision} for {differ:.0%} of {of} of"
                f" {spec.name!r} (allowed {MAX_TEXTS:.0%}); take another precision"
            )
        return PrecisionLoss(
            max_abs=0, mean_loss=0, uint8_mismatch=differ, uint8_max=0, samples=len(a)
        )
    error = errors(a, b, spec)
    span = 1 if spec.range is None else (spec.range[1] - spec.range[0]) / 2 or 1
    mean = float(error.mean(dtype=np.float64)) / span
    if not (np.isfinite(b).all() and mean <= MAX_MEAN_LOSS):
        what = f"is {mean:.2g} from float32 on average" if np.isfinite(mean) else "is not finite"
        raise ValueError(
            f"{spec.name!r} of signature {name!r} {what} in {precision}, allowed is"
            f" {MAX_MEAN_LOSS:g} of half its span; take another precision"
        )
    mismatch, most = 0.0, 0
    if spec.kind == "image" and spec.range is not None:
        x, y = (to_uint8(values, *spec.range).astype(np.int16) for values in (a, b))
        mismatch = mismatch_share(x, y)
        most = int(np.abs(x - y).max())
    return PrecisionLoss(
        max_abs=float(error.max()),
        mean_loss=mean,
        uint8_mismatch=mismatch,
        uint8_max=most,
        samples=len(a),
    )
