"""Reproducibility: equality of a graph's outputs over batch sizes and numbers of threads."""

from collections.abc import Callable, Sequence

from aigc.artifact import Signature, autoregressive
from aigc.artifact.comparison import compare
from aigc.artifact.manifest import Level, Reproducibility
from aigc.artifact.sampling_inputs import Arrays
from aigc.sealing.example_inputs import example, num_examples, proved_sizes
from aigc.sealing.graph_runner import run_in_batches
from aigc.sealing.parity import batches

SAMPLES = 64
ORDER: tuple[Level, ...] = ("bit", "uint8", "tolerance")


def measure_at_sizes(
    signature: Signature, run: Callable[[int], autoregressive.Run], most: int
) -> Reproducibility:
    """measure() of `most` samples, with free axes at several sizes: the worst of all."""
    most = min(most, SAMPLES)
    found = [
        measure(signature, run, example(signature, num_examples(signature, sizes, most), sizes))
        for sizes in proved_sizes(signature)
    ]
    return _worst(found)


def measure(
    signature: Signature, run: Callable[[int], autoregressive.Run], inputs: Arrays
) -> Reproducibility:
    """Equality of outputs over batch sizes and thread counts on this machine."""
    few = {key: value[:SAMPLES] for key, value in inputs.items()}
    expected = run_in_batches(run(1), few)
    results = [
        compare(signature, expected, run_in_batches(run(threads), few, batch))
        for threads in (1, 2)
        for batch in batches(len(next(iter(few.values()))))
    ]
    return _worst(results)


def _worst(results: Sequence[Reproducibility]) -> Reproducibility:
    level = max((r.level for r in results), key=ORDER.index)
    return Reproducibility(level=level, max_abs=max(r.max_abs for r in results))
