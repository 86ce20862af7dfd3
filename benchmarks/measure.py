"""One measurement of a training run: ours through the command line, or a peer's."""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SLICE_S = 0.1
"""Turn of a contestant among several: long for caches, short beside what is measured."""

BATCH = 64
"""Global batch of the presets that are measured."""


def environment() -> dict[str, str]:
    """Environment of measured processes: no statistics sent, no token left in the home folder."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    return os.environ | token | {"RAY_USAGE_STATS_ENABLED": "0"}


def train_command(preset: str, samples: int, storage: Path, *flags: str) -> list[str]:
    """`aigc train` without grids and with one checkpoint, at the end; flags may say otherwise."""
    command = [sys.executable, "-m", "aigc.cli", "train", preset, "--samples", str(samples)]
    command += ["--storage", str(storage), "--name", "bench"]
    command += ["--grid-interval", "0", "--checkpoint-interval", "0"]
    return [*command, *flags]


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A process that measures itself, and how its figure is read when it has ended."""

    command: list[str]
    env: dict[str, str]
    read: Callable[[str], float]
    """stdout -> samples/s."""


def contestant(
    preset: str, batches: int, workers: int, threads: int, *flags: str, batch: int = BATCH
) -> Contestant:
    """`aigc train`: samples/s over the last half of the batches, from its own metrics.jsonl."""
    half = batches // 2 * batch
    common = ["--workers", str(workers), "--threads", str(threads), "--batch", str(batch)]
    common += ["--report-interval", str(half)]
    folder = tempfile.TemporaryDirectory()

    def read(stdout: str) -> float:
        with folder:
            text = (Path(folder.name) / "bench" / "metrics.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        seconds = {line["samples"]: line["wall_seconds"] for line in lines}
        return half / float(seconds[2 * half] - seconds[half])

    command = train_command(preset, 2 * half, Path(folder.name), *common, *flags)
    return Contestant(command=command, env=environment(), read=read)


def rival(
    module: str,
    preset: str,
    batches: int,
    threads: int,
    processes: int = 1,
    python: str = sys.executable,
    batch: int = BATCH,
) -> Contestant:
    """A module of benchmarks/peers: samples/s over the last half of the batches."""
    command = ["-m", f"benchmarks.peers.{module}", preset, str(batches), str(threads)]
    if batch != BATCH:
        command.append(str(batch))
    if processes > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone"]
        command = [*torchrun, "--nproc-per-node", str(processes), *command]
    # Where it is unset, torchrun sets it to 1 and says so; set_num_threads does the rest.
    torchrun_threads = {"OMP_NUM_THREADS": str(threads)} if processes > 1 else {}
    return Contestant(
        command=[python, *command],
        env=environment() | torchrun_threads,
        read=lambda stdout: float(stdout.split()[-1]),
    )


def alone(one: Contestant) -> float:
    """Samples/s of one that has the machine to itself. Raises RuntimeError if it fails."""
    return together([one])[0]


def together(contestants: Sequence[Contestant]) -> list[float]:
    """Samples/s of each; of several, all run at once and each has the machine in turn for SLICE_S.

    On a machine that others use as well, its speed changes from one half minute to the next; in
    turns of a tenth all see the same of it. A contestant's clock goes on while it is stopped, so
    the figures are shares of the machine, times their number again; a turn whose contestant has
    ended is left idle, so that the others' shares stay what they were.

    Raises RuntimeError with the end of its stderr if one fails.
    """
    running = [
        subprocess.Popen(
            one.command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=one.env,
            start_new_session=True,
        )
        for one in contestants
    ]
    with ThreadPoolExecutor(len(running)) as threads:
        # Read all the while: a full pipe would stop a contestant.
        outputs = [threads.submit(process.communicate) for process in running]
        if len(running) > 1:
            _in_turn(running)
        texts = [output.result() for output in outputs]
    for one, process, (_, stderr) in zip(contestants, running, texts, strict=True):
        if process.returncode:
            raise RuntimeError(f"{' '.join(one.command)} failed:\n{stderr[-2000:]}")
    return [
        len(running) * one.read(stdout) for one, (stdout, _) in zip(contestants, texts, strict=True)
    ]


def _in_turn(running: Sequence["subprocess.Popen[str]"]) -> None:
    """Until all have ended."""
    for process in running:
        _signal(process, signal.SIGSTOP)
    while any(process.poll() is None for process in running):
        for process in running:
            _signal(process, signal.SIGCONT)
            time.sleep(SLICE_S)
            _signal(process, signal.SIGSTOP)


def _signal(process: "subprocess.Popen[str]", number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
