"""Random inputs of a signature, within each tensor's range: for parity, references and pictures."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import Signature, TensorSpec, latents
from aigc.artifact.axes import Sizes, free_positions
from aigc.artifact.sampling_inputs import Arrays, setting

MAX_VALUES = 1 << 26
"""Numbers in the inputs and outputs of all samples of a measurement; large samples are fewer."""
MIN_ROWS = 4
FEW = 16
"""Most samples of sizes other than the default ones."""


def example(signature: Signature, n: int, sizes: Sizes | None = None) -> Arrays:
    """Random inputs within each tensor's range: {name: (n, *shape)}, no two of them alike.

    `sizes`: of free axes, by default the manifest's.
    """
    sized = signature.at(signature.sizes(sizes or {}))
    seen: set[str] = set()
    inputs: Arrays = {}
    for spec, named in zip(sized.inputs, signature.inputs, strict=True):
        purpose = spec.kind if spec.kind not in seen else f"{spec.kind}/{spec.name}"
        seen.add(spec.kind)
        inputs[spec.name] = _draw(spec, n, purpose, free_positions(named.shape))
    return inputs


def proved_sizes(signature: Signature) -> list[dict[str, int]]:
    """Sizes at which a signature is proven: default, smallest, largest and odd multiples.

    The odd ones differ from axis to axis, so that axes that a graph ties together show. [{}] for a
    signature without free axes.
    """
    odd = {}
    for place, (name, axis) in enumerate(signature.axes.items()):
        low, high = axis.min // axis.multiple, axis.max // axis.multiple
        steps = ((low + high) // 2 | 1) + 2 * place
        while steps > high:
            steps -= max(1, (high - low) // 2)
        odd[name] = max(low, steps) * axis.multiple
    sizes = [signature.sizes({}), signature.smallest, signature.largest, odd]
    return [each for at, each in enumerate(sizes) if each not in sizes[:at]]


def tiled_sizes(signature: Signature) -> list[dict[str, int]]:
    """Sizes for references that are made of tiles or chunks: one axis just beyond its bound, the
    others at their smallest. Empty for a signature without them.
    """
    if signature.parts is None:
        return []
    beyond = {name: signature.axes[name] for name in signature.parts.overlap}
    return [
        signature.smallest | {name: axis.max + axis.multiple}
        for name, axis in beyond.items()
        if axis.max + axis.multiple <= signature.reach[name].max
    ]


def num_examples(signature: Signature, sizes: Sizes, most: int) -> int:
    """Samples for a proof: `most`, but few of sizes that are large or not the default ones."""
    few = most if sizes == signature.sizes({}) else min(most, FEW)
    return at_most(few, signature.at(sizes), MAX_VALUES)


def at_most(rows: int, signature: Signature, values: int) -> int:
    """Number of samples whose tensors have at most so many values; not below MIN_ROWS."""
    return max(min(MIN_ROWS, rows), min(rows, values // signature.num_values))


def _draw(spec: TensorSpec, n: int, purpose: str, free: tuple[int, ...]) -> NDArray[Any]:
    shape = spec.fixed_shape
    if spec.kind == "setting":
        return setting(spec, spec.default, n)
    if spec.kind == "uniform":
        return latents.uniform(0, range(n), shape, spec.name, free)
    if spec.kind == "presence":
        # Every combination, including no input at all.
        return (latents.uniform(0, range(n), shape, spec.name) < 0.5).astype(np.float32)
    if spec.kind == "label":
        assert spec.range is not None
        return latents.labels(0, range(n), int(spec.range[1]) + 1)
    if spec.kind in ("text", "token"):
        assert spec.range is not None
        size = int(spec.range[1]) + 1
        drawn = latents.uniform(0, range(n), shape, purpose) * np.float32(size)
        return drawn.astype(np.int64)
    if spec.dtype == "int64":
        low, high = spec.range or (0, 1)
        drawn = latents.uniform(0, range(n), shape, spec.name, free) * np.float32(high - low + 1)
        return drawn.astype(np.int64) + int(low)
    values = latents.normal(0, range(n), shape, purpose, free)
    return values if spec.range is None else values.clip(*spec.range).astype(np.float32)
