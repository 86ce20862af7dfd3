"""Comparison of two runs of a signature, and how far machines may be apart."""

import numpy as np
from numpy.typing import NDArray

from aigc.artifact.image_files import to_uint8
from aigc.artifact.manifest import Level, Manifest, Reproducibility
from aigc.artifact.precision import Precision
from aigc.artifact.sampling_inputs import Arrays
from aigc.artifact.signature import Signature

REPLAY_TOLERANCE = 1e-4
"""Largest |output - reference| / (1 + |reference|) at which a machine may serve an artifact."""
REPLAY_SOUND = 1e-3
"""REPLAY_TOLERANCE of artifacts of sound, 60 dB below full scale. The search for phases amplifies
rounding errors, for one sound in a thousand ten times more than for most."""
CODES_DIFFERENT = 1e-3
"""Largest share of codes that may differ from a reference, or one: of two codes that are equally
near, rounding decides."""


def compare(signature: Signature, expected: Arrays, outputs: Arrays) -> Reproducibility:
    """Compare two runs of a signature; max_abs is relative to 1 + |expected|.

    Up to CODES_DIFFERENT of its codes may differ: of these samples nothing else is compared.
    """
    level: Level = "bit"
    worst = 0.0
    if any(expected[one.name].shape != outputs[one.name].shape for one in signature.outputs):
        return Reproducibility(level="tolerance", max_abs=float("inf"))
    share, same = equal_codes(signature, expected, outputs)
    for tensor in signature.outputs:
        if tensor.is_codes:
            if not same.all():
                level = "tolerance"
                worst = worst if share <= CODES_DIFFERENT else float("inf")
            continue
        a, b = expected[tensor.name][same], outputs[tensor.name][same]
        if a.tobytes() == b.tobytes():
            continue
        error = float(np.max(np.abs(a - b) / (1 + np.abs(a))))
        worst = max(worst, error if np.isfinite(error) else float("inf"))
        same_pixels = (
            np.isfinite(error)
            and tensor.kind == "image"
            and tensor.range is not None
            and np.array_equal(to_uint8(a, *tensor.range), to_uint8(b, *tensor.range))
        )
        level = "uint8" if same_pixels and level != "tolerance" else "tolerance"
    return Reproducibility(level=level, max_abs=worst)


def equal_codes(
    signature: Signature, expected: Arrays, outputs: Arrays
) -> tuple[float, NDArray[np.bool_]]:
    """Share of codes that differ, 0 for a single one, and the samples in which none does (n,).

    The share counts as 1 if none of several samples is left to compare other outputs by.
    """
    same = np.ones(len(next(iter(expected.values()))), bool)
    differing = total = 0
    for tensor in signature.outputs:
        if tensor.is_codes:
            a, b = expected[tensor.name], outputs[tensor.name]
            differs = a != b if a.shape == b.shape else np.ones(a.shape, bool)
            same &= ~differs.reshape(len(differs), -1).any(1)
            differing, total = differing + int(differs.sum()), total + differs.size
    if differing <= 1:
        return 0.0, same
    unknown = len(same) > 1 and not same.any()
    unknown &= not all(tensor.is_codes for tensor in signature.outputs)
    return (1.0 if unknown else differing / total), same


def tolerance(signature: Signature) -> float:
    """Largest max_abs of compare() at which references count as reproduced."""
    sound = any(tensor.kind == "audio" for tensor in signature.outputs)
    return REPLAY_SOUND if sound else REPLAY_TOLERANCE


def replay_loss(manifest: Manifest, signature: str) -> float:
    """Addition to tolerance() of an artifact of reduced precision; 0 for float32."""
    precision = manifest.precision
    return precision.replay_loss(signature) if isinstance(precision, Precision) else 0.0
