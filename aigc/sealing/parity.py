"""Parity: equality of a torch module and the graph exported from it, over batch sizes."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from aigc.artifact import Signature, TensorSpec, autoregressive
from aigc.artifact.axes import label
from aigc.artifact.comparison import CODES_DIFFERENT, equal_codes, tolerance
from aigc.artifact.image_files import to_uint8
from aigc.artifact.manifest import Parity
from aigc.artifact.sampling_inputs import Arrays
from aigc.sealing.example_inputs import example, num_examples, proved_sizes
from aigc.sealing.graph_runner import run_in_batches

PARITY_MAX_ABS = 1e-5
"""Largest |torch - onnx| of outputs, but for sounds and texts."""
PARITY_SOUND = 1e-4
"""Largest difference of 99 % of sounds: three steps of 16 bits. Phase reconstruction amplifies
rounding errors, of a few sounds so much that a bound for all could not tell a wrong graph."""
PARITY_UINT8 = 1e-4
"""Largest share of unsaturated pixels that may differ."""
FEW_PIXELS = 50_000
"""Fewer unsaturated pixels count as so many. A pixel at the boundary of two levels may differ by
any rounding, and one of a few thousand, as small sizes have, is more than PARITY_UINT8 of them."""
ROUNDING = 8 * float(np.finfo(np.float32).eps)
"""Part of the largest value of a row that any value of it may be off, where none is bounded."""
PARITY_BATCHES = (1, 2, 3, 7, 64)
PARITY_SAMPLES = 1024
PARITY_TEXTS = 128
"""Samples of autoregressive signatures, whose step is checked by its own signature."""
PARITY_DIFFERENT = 0.02
"""Largest share of token rows that may differ: a draw near the boundary of two tokens may flip."""


def prove_at_sizes(
    name: str,
    signature: Signature,
    run: autoregressive.Run,
    module: Callable[[Arrays], Arrays],
    most: int,
) -> Parity:
    """prove_parity() of `most` samples, with free axes at several sizes: the worst of all."""
    found = []
    every = proved_sizes(signature)
    for sizes in every:
        inputs = example(signature, num_examples(signature, sizes, most), sizes)
        called = f"{name}@{label(sizes)}" if sizes else name
        found.append(prove_parity(called, signature, run, inputs, module(inputs)))
    return replace(
        found[0],
        max_abs=max(one.max_abs for one in found),
        uint8_mismatch=max(one.uint8_mismatch for one in found),
        samples=sum(one.samples for one in found),
        sizes=tuple(every) if signature.axes else UNSET,
    )


def prove_parity(
    name: str, signature: Signature, run: autoregressive.Run, inputs: Arrays, expected: Arrays
) -> Parity:
    """Compare torch and onnxruntime over batch sizes. Raises ValueError beyond the budget.

    The largest batches have all rows, each of the others an eighth of them, spread over all; but
    all where a share of the rows may differ, of texts, codes and sounds, which few do not tell.
    """
    usual, worst, pixels, texts, codes = 0.0, 0.0, 0.0, 0.0, 0.0  # the last three: shares
    samples = len(next(iter(inputs.values())))
    every = batches(samples)
    counted = any(spec.is_codes or spec.kind in ("text", "audio") for spec in signature.outputs)
    for number, batch in enumerate(every):
        rows = slice(None)
        if not counted and batch < every[-1]:
            least = 2 * batch + 1  # several batches, the last of them smaller
            rows = slice(number, None, 8) if samples // 8 >= least else slice(least)
        ours = {key: value[rows] for key, value in expected.items()}
        actual = run_in_batches(run, {key: value[rows] for key, value in inputs.items()}, batch)
        share, same = equal_codes(signature, ours, actual)
        codes = max(codes, share)
        for spec in signature.outputs:
            if spec.is_codes or not same.any():
                continue
            a, b = ours[spec.name][same], actual[spec.name][same]
            if spec.kind == "text" and a.shape == b.shape:
                texts = max(texts, float((a != b).any(1).mean()))
                continue
            off = row_errors(a, b, spec) if a.shape == b.shape else np.array([math.inf])
            usual = max(usual, float(np.quantile(off, 0.99, method="lower")))
            worst = max(worst, float(off.max()))
            if spec.kind == "image" and spec.range is not None and math.isfinite(worst):
                x, y = to_uint8(a, *spec.range), to_uint8(b, *spec.range)
                pixels = max(pixels, mismatch_share(x, y, FEW_PIXELS))
    if texts > PARITY_DIFFERENT:
        raise ValueError(
            f"signature {name!r} is not exported faithfully: {texts:.2g} of its texts differ"
            f" between torch and onnx (allowed {PARITY_DIFFERENT:g})"
        )
    if codes > CODES_DIFFERENT:
        raise ValueError(
            f"signature {name!r} is not exported faithfully: {codes:.2g} of its codes differ"
            f" between torch and onnx (allowed {CODES_DIFFERENT:g})"
        )
    for_most, for_all = budget(signature)
    if not (usual <= for_most and worst <= for_all and pixels <= PARITY_UINT8):
        raise ValueError(
            f"signature {name!r} is not exported faithfully: max |torch - onnx| is {worst:.2g}"
            f" (allowed {for_all:.0e}), of 99 rows in a hundred {usual:.2g}"
            f" (allowed {for_most:.0e}), share of differing pixels {pixels:.2g}"
            f" (allowed {PARITY_UINT8:.0e})"
        )
    return Parity(
        max_abs=worst,
        uint8_mismatch=max(pixels, texts, codes),
        samples=samples,
        batch_sizes=PARITY_BATCHES,
    )


def batches(samples: int) -> tuple[int, ...]:
    """Batch sizes to compare: PARITY_BATCHES, as far as there are samples for them."""
    return tuple(sorted({min(samples, size) for size in PARITY_BATCHES}))


def row_errors(
    a: NDArray[np.float32], b: NDArray[np.float32], spec: TensorSpec
) -> NDArray[np.float64]:
    """(n,) largest of errors() in each row, inf for NaN.

    Of values without bounds, such as latents, ROUNDING of the largest of the row does not count:
    sums round relative to their largest terms, so that a small value beside large ones is no more
    exact than they are.
    """
    error = errors(a, b, spec).reshape(len(a), -1)
    if spec.range is None:
        values = np.abs(a).reshape(len(a), -1)
        error = error - ROUNDING * values.max(1, keepdims=True) / (1 + values)
    worst: NDArray[np.float64] = error.max(1).clip(0)
    return np.where(np.isnan(worst), np.inf, worst)


def errors(a: NDArray[np.float32], b: NDArray[np.float32], spec: TensorSpec) -> NDArray[np.float32]:
    """|a - b|; of values without bounds, such as logits, relative to 1 + |a|."""
    error: NDArray[np.float32] = np.abs(a - b)
    return error if spec.range is not None else error / (1 + np.abs(a))


def budget(signature: Signature) -> tuple[float, float]:
    """Largest |torch - onnx| of an artifact: of 99 % of the rows, and of every row."""
    if any(spec.kind == "audio" for spec in signature.outputs):
        return PARITY_SOUND, tolerance(signature)
    return PARITY_MAX_ABS, PARITY_MAX_ABS


def mismatch_share(
    x: NDArray[np.integer[Any]], y: NDArray[np.integer[Any]], at_least: int = 1
) -> float:
    """Share of pixels from 0 to 255 that differ among those that are not saturated in both, as many
    as `at_least`."""
    inside = ~((x == y) & ((x == 0) | (x == 255)))
    return float((x != y).sum() / max(at_least, inside.sum()))
