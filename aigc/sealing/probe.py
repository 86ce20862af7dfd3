"""First run of a foreign graph, in a process of its own with limits of memory and time.

    found = probe(graph, feeds, Bounds(memory_bytes=1 << 30, seconds=60))
    found.outputs["image"].shape        # of one sample

The static checks bound what a graph may do; what it takes is seen by running it. Nothing of it is
loaded in the process of the caller before it passed.
"""

import io
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import IO, Any

import numpy as np

from aigc.artifact.manifest import ArtifactError
from aigc.artifact.sampling_inputs import Arrays
from aigc.artifact.trial import Bounds, child_environment, ending, limit, mib, report

ANSWER_BYTES = 1 << 20
APART = 1e-3
"""Largest |alone - in a batch| / (1 + |alone|) of rows that do not influence each other."""


@dataclass(frozen=True, kw_only=True)
class ProbedOutput:
    """An output as a run gave it."""

    dtype: str
    shape: tuple[int, ...]
    """Shape of one sample."""
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Results of a first run."""

    outputs: dict[str, ProbedOutput]
    apart: float
    """Largest difference between a row alone and in a batch, relative to 1 + its size."""
    row_seconds: float


class ProbeError(ArtifactError):
    """A graph that does not run; the message says how."""


def probe(graph: bytes, feeds: Arrays, bounds: Bounds) -> Probe:
    """Run a graph on a batch and on each of its rows alone.

    Raises ProbeError if it fails, gives other values when run again, or exceeds the limits.
    """
    packed = io.BytesIO()
    np.savez(packed, **feeds)  # type: ignore[arg-type]
    arrays = packed.getvalue()
    head = {"bounds": asdict(bounds), "graph": len(graph), "feeds": len(arrays)}
    process = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=child_environment(),
        cwd="/",
        start_new_session=True,
    )
    try:
        answer, _ = process.communicate(
            b"".join((json.dumps(head).encode(), b"\n", graph, arrays)), timeout=bounds.seconds
        )
    except subprocess.TimeoutExpired:
        raise ProbeError(f"a first run did not end within {bounds.seconds:.0f} s") from None
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise ProbeError(
            f"a first run ended its process ({ending(process.returncode)}); it may take"
            f" {mib(bounds.memory_bytes)} of memory"
        )
    said = json.loads(answer[:ANSWER_BYTES])
    if said["error"]:
        raise ProbeError(said["error"])
    outputs = {
        name: ProbedOutput(**(output | {"shape": tuple(output["shape"])}))
        for name, output in said["outputs"].items()
    }
    return Probe(outputs=outputs, apart=said["apart"], row_seconds=said["row_seconds"])


def main() -> None:
    """Entry point of the child: read graph and inputs, set the limits, run, report."""
    report(_tried, ANSWER_BYTES)


def _tried(pipe: IO[bytes]) -> dict[str, Any]:
    from aigc.sealing import graph_runner  # before the limit, which counts from here

    head = json.loads(pipe.readline())
    limit(Bounds(**head["bounds"]))
    try:
        graph = pipe.read(head["graph"])
        with np.load(io.BytesIO(pipe.read(head["feeds"])), allow_pickle=False) as arrays:
            feeds = {name: arrays[name] for name in arrays.files}
        return _run(graph_runner.session(graph, 1), feeds)
    except MemoryError:
        return {"error": "a first run needs more memory than it may take"}
    except Exception as error:  # onnxruntime raises types without a common base
        return {"error": f"a first run fails: {' '.join(f'{error}'.split())}"[:1000]}


def _run(opened: Any, feeds: Arrays) -> dict[str, Any]:
    names = [node.name for node in opened.get_outputs()]
    together = dict(zip(names, opened.run(names, feeds), strict=True))
    again = dict(zip(names, opened.run(names, feeds), strict=True))
    rows = len(next(iter(feeds.values())))
    began_s = time.perf_counter()
    alone = [
        dict(
            zip(names, opened.run(names, {k: v[i : i + 1] for k, v in feeds.items()}), strict=True)
        )
        for i in range(rows)
    ]
    row_seconds = (time.perf_counter() - began_s) / rows
    apart = 0.0
    for name, array in together.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
            return {"error": f"output {name!r} is no tensor of numbers"}
        if array.ndim < 1 or len(array) != rows or any(len(one[name]) != 1 for one in alone):
            return {"error": f"output {name!r} of {rows} samples has shape {array.shape}: its first"
                    " axis is not the batch"}  # fmt: skip
        if array.tobytes() != again[name].tobytes():
            return {"error": f"output {name!r} differs when the same inputs are run again: no seed"
                    " determines it; export the graph without random numbers"}  # fmt: skip
        single = np.concatenate([one[name] for one in alone]).astype(np.float64)
        if single.shape != array.shape:
            return {"error": f"output {name!r} has another shape alone than in a batch"}
        error = np.abs(array - single) / (1 + np.abs(single))
        finite = np.isfinite(array) & np.isfinite(single)
        if error[finite].size:
            apart = max(apart, float(error[finite].max()))
    outputs = {
        name: {
            "dtype": str(array.dtype),
            "shape": array.shape[1:],
            "low": float(np.nan_to_num(array.astype(np.float64)).min(initial=0)),
            "high": float(np.nan_to_num(array.astype(np.float64)).max(initial=0)),
        }
        for name, array in together.items()
    }
    return {"error": "", "outputs": outputs, "apart": apart, "row_seconds": row_seconds}


if __name__ == "__main__":
    main()
