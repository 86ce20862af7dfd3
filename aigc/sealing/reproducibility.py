"""Reproducibility: equality of a graph's outputs over batch sizes and numbers of threads."""

from collections.abc import Callable

from aigc.artifact import Signature, autoregressive
from aigc.artifact.manifest import Level, Reproducibility
from aigc.artifact.sampling_inputs import Arrays
from aigc.artifact.session import compare
from aigc.sealing.graph_runner import run_in_batches
from aigc.sealing.parity import PARITY_BATCHES


def measure(
    signature: Signature, run: Callable[[int], autoregressive.Run], inputs: Arrays
) -> Reproducibility:
    """Equality of outputs over batch sizes and thread counts on this machine."""
    few = {key: value[:64] for key, value in inputs.items()}
    expected = run_in_batches(run(1), few)
    results = [
        compare(signature, expected, run_in_batches(run(threads), few, batch))
        for threads in (1, 2)
        for batch in PARITY_BATCHES
    ]
    order: tuple[Level, ...] = ("bit", "uint8", "tolerance")
    level = max((r.level for r in results), key=order.index)
    return Reproducibility(level=level, max_abs=max(r.max_abs for r in results))
