"""Trial run of an artifact in a process of its own, with limits of memory and time.

    try_out(folder.manifest_bytes, contents, Bounds(memory_bytes=1 << 30, seconds=300))

Parsing a graph does not tell the memory that it needs: constants are folded as it is opened, loops
run, and sizes follow from other sizes. So it is opened and run, with batches of every size up to
the full one and with the references, and the system ends it at its limits; a crash is a refusal
too. It runs on the CPU whatever provider the artifact is for: limits of a process bound no GPU.
"""

import contextlib
import json
import math
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import IO, Any, NoReturn

import numpy as np

from aigc.artifact.folder import Contents
from aigc.artifact.manifest import ArtifactError, Manifest, Signature, parse
from aigc.artifact.outputs import ValuesError
from aigc.artifact.sampling_inputs import Arrays

OVERHEAD_BYTES = 64 << 20
"""Reserved addresses that are never used: stacks of threads."""
SWEEP_S = 0.5
"""Time for batches of sizes between one and the full one."""
ANSWER_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Limits of a trial."""

    memory_bytes: int
    """Memory beyond that of the process before it loads the artifact."""
    seconds: float
    threads: int = 1
    max_batch: int = 16


def try_out(manifest_bytes: bytes, contents: Contents, bounds: Bounds) -> None:
    """Open and run a model in another process. Blocks for at most `bounds.seconds`.

    Raises ArtifactError if it exceeds its limits, crashes or does not reproduce its references.
    """
    manifest = parse(manifest_bytes)
    took = f"{manifest.id}, tried in a process of its own,"
    deadline_s = time.monotonic() + bounds.seconds
    process = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=child_environment(),
        cwd="/",
        start_new_session=True,  # a Ctrl-C is for who waits for it
    )
    assert process.stdin is not None
    assert process.stdout is not None
    writing = threading.Thread(
        target=_write, args=(process.stdin, manifest_bytes, contents, bounds), daemon=True
    )
    writing.start()
    try:
        process.wait(max(0.0, deadline_s - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise ArtifactError(
            f"{took} was not loaded within {bounds.seconds:.0f} s; raise limits.max_load_seconds if"
            " it needs longer"
        ) from None
    finally:
        process.kill()
        process.wait()
        writing.join()
        with process.stdout:
            answer = process.stdout.read(ANSWER_BYTES)
    if process.returncode == -signal.SIGXCPU:
        raise ArtifactError(f"{took} took more processor time than {bounds.seconds:.0f} s have")
    if process.returncode:
        raise ArtifactError(
            f"{took} ended it ({ending(process.returncode)}); it may take"
            f" {mib(bounds.memory_bytes)} of memory there: give the pool more, or export it anew"
        )
    said = json.loads(answer)
    if said["memory"]:
        raise ArtifactError(
            f"{took} takes more than the {mib(bounds.memory_bytes)} of memory that it may:"
            f" {said['error']}; give the pool more memory or a smaller limits.max_batch"
        )
    if said["error"]:
        raise ArtifactError(said["error"])


def child_environment() -> dict[str, str]:
    """Environment of the child: the same code, and no reserved addresses."""
    path = os.pathsep.join(str(os.path.abspath(part)) for part in sys.path)  # noqa: PTH100
    own = {"PYTHONPATH": path, "MALLOC_ARENA_MAX": "1", "ORT_DISABLE_TELEMETRY": "1"}
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, **own, **threads}


def _parts(manifest_bytes: bytes, contents: Contents) -> list[tuple[tuple[str, ...], bytes]]:
    """All parts that are sent, each with its description."""
    return [
        (("manifest",), manifest_bytes),
        *((("graph", name), data) for name, data in contents.graphs.items()),
        *((("references", name), data) for name, data in contents.references.items()),
        *(
            (("weights", graph, location), data)
            for graph, files in contents.weights.items()
            for location, data in files.items()
        ),
    ]


def _write(pipe: IO[bytes], manifest_bytes: bytes, contents: Contents, bounds: Bounds) -> None:
    """Write a line of JSON that describes the parts, then the files themselves, without copies."""
    parts = _parts(manifest_bytes, contents)
    head = {"bounds": asdict(bounds), "parts": [[*what, len(data)] for what, data in parts]}
    with contextlib.suppress(OSError), pipe:  # it ended
        pipe.write(json.dumps(head).encode() + b"\n")
        for _, data in parts:
            pipe.write(data)


def ending(code: int) -> str:
    """Signal or exit status that a child ended with: `SIGSEGV`, `exit status 1`."""
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"exit status {code}"


def mib(count: int) -> str:
    """A number of bytes in words: `64 MiB`."""
    return f"{count / (1 << 20):.0f} MiB"


def main() -> None:
    """Entry point of the child: read the parts, set the limits, run the trial and report."""
    report(_tried, ANSWER_BYTES)


def report(tried: Callable[[IO[bytes]], dict[str, Any]], most_bytes: int) -> NoReturn:
    """Write what `tried` makes of the standard input as JSON, and end this child process."""
    answer = os.dup(1)
    os.dup2(2, 1)  # what libraries print is not the answer
    said = tried(sys.stdin.buffer)
    os.write(answer, json.dumps(said).encode()[:most_bytes])
    os._exit(0)  # what was loaded needs no tidying


def _tried(pipe: IO[bytes]) -> dict[str, Any]:
    from aigc.artifact import session

    head = json.loads(pipe.readline())
    bounds = Bounds(**head["bounds"])
    limit(bounds)
    try:
        manifest, contents = _received(pipe, head["parts"])
        artifact = session.Artifact(manifest, "", contents, bounds.threads, arena=False)
        _run_batches(artifact, bounds.max_batch)
        artifact.verify()
    except MemoryError:
        return {"memory": True, "error": "not enough for its files and arrays"}
    except ArtifactError as error:
        return {"memory": _is_memory(f"{error}"), "error": f"{error}"[:4000]}
    except Exception as error:  # nobody reads a traceback of this process
        said = f"the model cannot be tried: {type(error).__name__}: {error}"
        return {"memory": _is_memory(said), "error": said[:4000]}
    return {"memory": False, "error": ""}


def _is_memory(message: str) -> bool:
    phrases = ("bad_alloc", "Failed to allocate memory", "bad allocation", "Unable to allocate")
    return any(one in message for one in phrases)


def limit(bounds: Bounds) -> None:
    """Limit memory and files written by this process, and make it the first to be killed."""
    addresses = _address_bytes() + bounds.memory_bytes + OVERHEAD_BYTES
    seconds = math.ceil(bounds.seconds * (bounds.threads + 1))
    for kind, most in (
        (resource.RLIMIT_AS, addresses),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (least, least))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("1000")


def _address_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().vms)


def _received(pipe: IO[bytes], parts: Iterable[list[Any]]) -> tuple[Manifest, Contents]:
    sections = {tuple(what): pipe.read(size) for *what, size in parts}
    weights: dict[str, dict[str, bytes]] = {}
    for what, data in sections.items():
        if what[0] == "weights":
            weights.setdefault(what[1], {})[what[2]] = data
    contents = Contents(
        graphs={what[1]: data for what, data in sections.items() if what[0] == "graph"},
        references={what[1]: data for what, data in sections.items() if what[0] == "references"},
        weights=weights,
    )
    return parse(sections["manifest",]), contents


def _run_batches(artifact: Any, largest: int) -> None:
    """Run the full batch, and as many smaller sizes as there is time for.

    With free axes the full batch is run at the largest, the default and the smallest sizes.
    """
    for name in artifact.manifest.offered:
        signature = artifact.signature(name)
        sized = [signature.at(sizes) for sizes in (signature.largest, signature.sizes({}))]
        full = signature.max_batch(signature.largest, largest)
        runs = [(full, sized[0])]
        if signature.axes:
            runs += [(largest, sized[1]), (largest, signature.at(signature.smallest))]
        until_s = time.monotonic() + SWEEP_S
        for number, (size, spec) in enumerate([*runs, *((n, sized[1]) for n in range(1, largest))]):
            if number >= len(runs) and time.monotonic() > until_s:
                break
            try:
                artifact.run(name, least(spec, size))
            except MemoryError:
                raise
            except ValuesError:  # of nothing, it may make nothing
                pass
            except Exception as error:  # onnxruntime raises types without a common base
                message = f"{artifact.id}: a batch of {size} of {name!r} fails: {error}"
                raise ArtifactError(message) from error


def least(signature: Signature, size: int) -> Arrays:
    """Inputs for a dummy batch of a signature without free axes: zeros, and the minimum of
    settings, so that autoregressive signatures take one step."""
    return {
        spec.name: np.full(
            (size, *spec.fixed_shape),
            spec.range[0] if spec.kind == "setting" and spec.range else 0,
            spec.dtype,
        )
        for spec in signature.inputs
    }


if __name__ == "__main__":
    main()
