"""Runs of a graph in onnxruntime while it is sealed, by numbers of threads and batch sizes."""

from collections.abc import Callable

import numpy as np

from aigc.artifact import Signature, autoregressive
from aigc.artifact.runtime import ort
from aigc.artifact.sampling_inputs import Arrays


def runner(
    graph: bytes, signature: Signature, step: Signature | None
) -> Callable[[int], autoregressive.Run]:
    """Function from a number of threads to a runner of the signature, autoregressive or not."""

    def with_threads(threads: int) -> autoregressive.Run:
        opened = session(graph, threads)
        names = [spec.name for spec in (step or signature).outputs]

        def once(feeds: Arrays) -> Arrays:
            return dict(zip(names, opened.run(names, feeds), strict=True))

        if step is None:
            return once
        return lambda feeds: autoregressive.generate(signature, step, once, feeds)

    return with_threads


def run_in_batches(run: autoregressive.Run, inputs: Arrays, batch: int = 64) -> Arrays:
    """Outputs by name of all rows of the inputs, at most `batch` in one run."""
    size = len(next(iter(inputs.values())))
    parts = [
        run({key: value[i : i + batch] for key, value in inputs.items()})
        for i in range(0, size, batch)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def session(graph: bytes, threads: int) -> ort.InferenceSession:
    """A session on the CPU whose threads sleep while they wait."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # A thread that spins while it waits takes a core from the thread that it waits for.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # onnxruntime would recognise other formats, which no check has read.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.log_severity_level = 3
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
