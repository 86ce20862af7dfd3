"""One measurement of a training run: ours through the command line, or a peer's."""

import json
import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

BATCH = 64
"""Global batch of the presets that are measured."""


def environment() -> dict[str, str]:
    """Of every measured process: no statistics sent, no token left in the home folder."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    return os.environ | token | {"RAY_USAGE_STATS_ENABLED": "0"}


def train_command(preset: str, samples: int, storage: Path, *flags: str) -> list[str]:
    """`aigc train` without grids and with one checkpoint, at the end; flags may say otherwise."""
    command = [sys.executable, "-m", "aigc.cli", "train", preset, "--samples", str(samples)]
    command += ["--storage", str(storage), "--name", "bench"]
    command += ["--grid-interval", "0", "--checkpoint-interval", "0"]
    return [*command, *flags]


def ours(
    preset: str, batches: int, workers: int, threads: int, *flags: str, batch: int = BATCH
) -> float:
    """Samples/s of `aigc train` over the last half of the batches, from its own metrics.jsonl."""
    half = batches // 2 * batch
    common = ["--workers", str(workers), "--threads", str(threads), "--batch", str(batch)]
    common += ["--report-interval", str(half)]
    with tempfile.TemporaryDirectory() as folder:
        _run(train_command(preset, 2 * half, Path(folder), *common, *flags), environment())
        text = (Path(folder) / "bench" / "metrics.jsonl").read_text()
    seconds = {line["samples"]: line["wall_seconds"] for line in map(json.loads, text.splitlines())}
    return half / float(seconds[2 * half] - seconds[half])


def peer(
    module: str,
    preset: str,
    batches: int,
    threads: int,
    processes: int = 1,
    python: str = sys.executable,
    batch: int = BATCH,
) -> float:
    """Samples/s of a module of tests/bench/peers over the last half of the batches."""
    command = ["-m", f"tests.bench.peers.{module}", preset, str(batches), str(threads)]
    if batch != BATCH:
        command.append(str(batch))
    if processes > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone"]
        command = [*torchrun, "--nproc-per-node", str(processes), *command]
    # Where it is unset, torchrun sets it to 1 and says so; set_num_threads does the rest.
    torchrun_threads = {"OMP_NUM_THREADS": str(threads)} if processes > 1 else {}
    return float(_run([python, *command], environment() | torchrun_threads).split()[-1])


def _run(command: list[str], env: dict[str, str]) -> str:
    """stdout of a command. Raises RuntimeError with the end of its stderr if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout
