"""Checks and figures of a machine with one GPU, in at most six minutes: `make gpu`.

    python -m benchmarks.gpu                        # writes docs/gpu.md
    python -m benchmarks.gpu --device cpu           # a rehearsal, written to stdout

Tests marked gpu; training speed of four presets in float32, bfloat16 and compiled; a run whose
worker is killed; export, replay and batch sizes on the CUDA provider; samples/s of `aigc serve`.
Each step has its share of the time, a step that fails is said in the report, and then the exit
status is 1.
"""

import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil
import torch
import tyro

from aigc.artifact import Artifact
from aigc.artifact.runtime import ort
from aigc.training.run import Run
from benchmarks import servers
from benchmarks.report import header

PRESETS = ("dcgan:digits", "conv_vae:digits", "text_vae:numbers", "audio_vae:spoken_digits")
VARIANTS = {"float32": [], "bfloat16": ["--precision", "bfloat16"], "compiled": ["--compile"]}
SAMPLES_PER_S = re.compile(r"([\d,]+)\s+samples/s")
MFU = re.compile(r"([\d.]+%)\s+MFU")
MEMORY = re.compile(r"([\d,]+)\s+MiB")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Check and measure this machine's GPU."""

    device: Literal["cuda", "cpu"] = "cuda"
    """cpu rehearses the same steps without a GPU, with fewer batches."""
    seconds: float = 360.0
    """Time for all steps; what does not fit is said to be missing."""
    out: Path | None = None
    """File to write; docs/gpu.md by default, the standard output in a rehearsal."""


class StepFailed(RuntimeError):
    """A step did not do what it should; the message says what it did."""


@dataclass
class Report:
    """Sections in the order of the steps, and the steps that failed."""

    until_s: float
    sections: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def step(self, title: str, most_s: float, function: Callable[[float], str]) -> None:
        """Run a step with at most `most_s` seconds, and less where less is left."""
        left = min(most_s, self.until_s - time.monotonic())
        started_s = time.monotonic()
        print(f"{title}, at most {left:.0f} s", file=sys.stderr)
        try:
            if left <= 1:
                raise StepFailed("no time was left")
            text = function(left)
        except (StepFailed, subprocess.TimeoutExpired, OSError, ValueError, RuntimeError) as error:
            self.failed.append(title)
            text = f"**Failed:** {str(error).strip()[-1500:]}"
        took = time.monotonic() - started_s
        self.sections.append(f"## {title}\n\n{text}\n\n{took:.0f} s.")


def main() -> None:
    """Run all steps, write the report; exits with 1 if a step failed."""
    options = tyro.cli(Options, description=Options.__doc__)
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no GPU here; `make gpu DEVICE=cpu` rehearses without one")
    report = Report(time.monotonic() + options.seconds)
    with tempfile.TemporaryDirectory(prefix="aigc-gpu-") as folder:
        runs = Path(folder)
        report.step("Tests", 90, lambda s: _tests(options.device, s))
        report.step("Training", 120, lambda s: _training(options.device, s))
        report.step("A killed worker", 120, lambda s: _killed_worker(options.device, runs, s))
        report.step("Export and replay", 40, lambda s: _export(runs, s))
        report.step("Serving", 50, lambda s: _serving(runs, s))
    text = _document(options.device, report)
    out = options.out or (Path("docs/gpu.md") if options.device == "cuda" else None)
    if out is None:
        print(text)
    else:
        out.write_text(text)
        print(out)
    sys.exit(1 if report.failed else 0)


def _document(device: str, report: Report) -> str:
    where = torch.cuda.get_device_name() if device == "cuda" else "the CPU (a rehearsal)"
    versions = header("torch", "ray", "onnxruntime")
    failed = f" Failed: {', '.join(report.failed)}." if report.failed else ""
    head = f"# On a GPU\n\nWritten by `make gpu` on {where}. {versions}{failed}"
    return "\n\n".join([head, *report.sections]) + "\n"


def _run(command: Sequence[str], seconds: float) -> str:
    """Standard output of a program. Raises StepFailed with the end of its messages."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    if done.returncode:
        raise StepFailed(f"{' '.join(command[1:6])} …: {(done.stderr or done.stdout)[-1500:]}")
    return done.stdout


def _aigc(arguments: Sequence[str], seconds: float) -> str:
    return _run([sys.executable, "-m", "aigc.cli", *arguments], seconds)


def _tests(device: str, seconds: float) -> str:
    which = "gpu" if device == "cuda" else "gpu or not slow"
    files = ["tests/training/test_step.py", "tests/training/test_gradient_buckets.py"]
    # -rs: on a machine without a GPU they are skipped, and say so.
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-m", which]
    paths = ["tests"] if device == "cuda" else [*files, "-k", "gpu or bucket"]
    return f"`{_run([*command, *paths], seconds).strip().splitlines()[-1]}`"


def _training(device: str, seconds: float) -> str:
    until_s = time.monotonic() + seconds
    count = ["--batches", "100", "--warmup", "20"]
    if device == "cpu":
        count = ["--batches", "4", "--warmup", "2", "--batch", "8", "--threads", "1"]
    lines = ["| preset | variant | samples/s | MFU | MiB at most |", "|---|---|--:|--:|--:|"]
    for preset in PRESETS:
        for variant, flags in VARIANTS.items():
            left = until_s - time.monotonic()
            if left < 5:
                lines.append(f"| {preset} | {variant} | no time was left | | |")
                continue
            if device == "cpu" and variant != "float32":
                continue  # minutes of emulated arithmetic, or of a C++ compiler
            text = _aigc(["bench", "train", preset, "--device", device, *count, *flags], left)
            numbers = [p.search(text) for p in (SAMPLES_PER_S, MFU, MEMORY)]
            cells = " | ".join(n.group(1) if n else "?" for n in numbers)
            lines.append(f"| {preset} | {variant} | {cells} |")
    return "\n".join(lines)


def _killed_worker(device: str, runs: Path, seconds: float) -> str:
    until_s = time.monotonic() + seconds
    total = 64 * (4000 if device == "cuda" else 40)
    quarter = f"{total // 4}"
    command = [sys.executable, "-m", "aigc.cli", "train", "dcgan:digits", "--workers", "1"]
    command += ["--samples", f"{total}", "--checkpoint-interval", quarter, "--device", device]
    command += ["--report-interval", f"{total // 20}", "--grid-interval", "0", "--storage"]
    run = Run(runs / "killed")
    with tempfile.TemporaryFile("w+") as stderr:
        process = subprocess.Popen(
            [*command, f"{runs}", "--name", "killed"], stdout=subprocess.DEVNULL, stderr=stderr
        )
        try:
            _wait(lambda: any(run.checkpoints.glob("[0-9]*")), process, until_s, "a checkpoint")
            worker = _worker(process.pid)
            worker.kill()
            process.wait(max(1.0, until_s - time.monotonic()))
        except (StepFailed, subprocess.TimeoutExpired) as error:
            stderr.seek(0)
            raise StepFailed(f"{error}: {stderr.read()[-1000:]}") from error
        finally:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(15)
            process.kill()
    starts, samples = run.starts(), run.facts()["samples"]
    if len(starts) < 2 or samples != total or process.returncode:
        raise StepFailed(f"{len(starts)} starts, {samples:,} of {total:,} samples")
    return (
        f"`dcgan:digits` of {total:,} samples: its worker was killed (-9) after the first"
        f" checkpoint, a new one went on from {starts[1]['samples']:,} samples, and the run ended"
        " whole."
    )


def _wait(
    ready: Callable[[], bool], process: "subprocess.Popen[bytes]", until_s: float, name: str
) -> None:
    while not ready():
        if process.poll() is not None or time.monotonic() > until_s:
            raise StepFailed(f"the run never came to {name}")
        time.sleep(0.05)


def _worker(pid: int) -> psutil.Process:
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error):
            if "TrainWorker" in " ".join(child.cmdline()):
                return child
    raise StepFailed("the run has no worker")


def _export(runs: Path, seconds: float) -> str:
    _aigc(
        ["export", f"{runs / 'killed'}", "--name", "digits", "--out", f"{runs / 'store'}"], seconds
    )
    artifact = Artifact.open(f"{runs / 'store' / 'digits'}")
    used = artifact.verify()
    cuda = "CUDAExecutionProvider" in ort.get_available_providers()
    manifest = artifact.manifest
    lines = ["| signature | torch against ONNX | replayed, alone and together |", "|---|--:|---|"]
    for name, parity in manifest.parity.items():
        level = used[name]
        lines.append(f"| {name} | {parity.max_abs:.1e} | {level.level}, {level.max_abs:.1e} |")
    where = "the CUDA provider" if cuda else "the CPU provider: onnxruntime here has no other"
    return "\n".join([f"Replayed on {where}.", "", *lines])


def _serving(runs: Path, seconds: float) -> str:
    until_s = time.monotonic() + seconds
    lines = ["| samples of a request | connections | samples/s |", "|--:|--:|--:|"]
    with servers.ours(f"{runs / 'store' / 'digits' / '1'}", "--replicas", "1") as server:
        for n, connections in ((1, 1), (1, 16), (64, 4)):
            left = min(5.0, (until_s - time.monotonic()) / 2)
            lines.append(
                f"| {n} | {connections} | {_load(server.url, n, connections, left):,.0f} |"
            )
    return "\n".join(["A connection for each request.", "", *lines])


def _load(url: str, n: int, connections: int, seconds: float) -> float:
    """Samples/s of `connections` clients that ask for `n` samples at a time."""
    until_s = time.monotonic() + seconds

    def client(_: int) -> int:
        samples = 0
        while time.monotonic() < until_s:
            servers.ask(url, n)
            samples += n
        return samples

    started_s = time.monotonic()
    with ThreadPoolExecutor(connections) as pool:
        total = sum(pool.map(client, range(connections)))
    return total / (time.monotonic() - started_s)


if __name__ == "__main__":
    main()
