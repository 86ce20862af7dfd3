"""Random inputs of a signature, within each tensor's range: for parity, references and pictures."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import Signature, TensorSpec, latents
from aigc.artifact.sampling_inputs import Arrays, setting


def example(signature: Signature, n: int) -> Arrays:
    """Random inputs within each tensor's range: {name: (n, *shape)}."""
    return {spec.name: _draw(spec, n) for spec in signature.inputs}


def _draw(spec: TensorSpec, n: int) -> NDArray[Any]:
    if spec.kind == "setting":
        return setting(spec, spec.default, n)
    if spec.kind == "uniform":
        return latents.uniform(0, range(n), spec.shape, spec.name)
    if spec.kind == "presence":
        # Every combination, including no input at all.
        return (latents.uniform(0, range(n), spec.shape, spec.name) < 0.5).astype(np.float32)
    if spec.kind == "label":
        assert spec.range is not None
        return latents.labels(0, range(n), int(spec.range[1]) + 1)
    if spec.kind in ("text", "token"):
        assert spec.range is not None
        size = int(spec.range[1]) + 1
        drawn = latents.uniform(0, range(n), spec.shape, spec.kind) * np.float32(size)
        return drawn.astype(np.int64)
    if spec.dtype == "int64":
        low, high = spec.range or (0, 1)
        drawn = latents.uniform(0, range(n), spec.shape, spec.name) * np.float32(high - low + 1)
        return drawn.astype(np.int64) + int(low)
    values = latents.normal(0, range(n), spec.shape, spec.kind)
    return values if spec.range is None else values.clip(*spec.range).astype(np.float32)
