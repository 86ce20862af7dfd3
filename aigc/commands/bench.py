"""`aigc bench train`: speed of a run on this machine, time by stage, and model FLOPs utilisation.

It runs the real loop, aigc.training.loop.train, with a stopwatch round the model's methods, the
optimizers and the moving average, so other runs are not slowed by measuring.
"""

import math
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode

from aigc import data, models
from aigc.config import TrainConfig, require
from aigc.data import Source
from aigc.training.loop import train
from aigc.training.malloc import keep_freed_memory
from aigc.training.state import TrainState
from aigc.training.thread_count import choose_threads

UNUSED = (
    *("samples", "report_interval", "grid_interval", "checkpoint_interval", "evaluate_interval"),
    *(
        "keep_checkpoints",
        "until",
        "patience",
        "on_divergence",
        "init_from",
        "price_per_worker_hour",
    ),
)
"""Fields of a run that have no effect on a benchmark."""

MATMUL = {"cpu": (1024, 20), "cuda": (8192, 20)}
"""Size of the square matrices and number of products for measuring a device's peak."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure the training of a preset on one worker, at its steady state."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    batches: int = 100
    """Measured batches."""
    warmup: int = 20
    """Batches before the measured ones."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on; auto takes a GPU if there is one."""

    def __post_init__(self) -> None:
        require(self.batches > 0, f"batches must be > 0, got {self.batches}")
        require(self.warmup > 0, f"warmup must be > 0, got {self.warmup}")
        require(
            self.device != "cuda" or torch.cuda.is_available(),
            "device cuda needs a GPU, and torch finds none here; take cpu",
        )


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Results of a benchmark."""

    batch: int
    """Samples per batch."""
    seconds_per_batch: float
    shares: dict[str, float]
    """Share of the time by stage, in the order of a batch; together 1. A phase is its forward and
    backward pass with the norm of its gradients; `data` is the wait for the next batch; `figures`
    is reading losses and metrics and checking for divergence."""
    peak_memory_bytes: int
    """Peak of the memory allocated on a GPU; on a CPU the peak of the process."""
    flops_per_batch: float
    """Floating point operations of matrix products and convolutions, forward and backward."""
    peak_flops_per_second: float
    """Speed of large matrix products on this device in this precision."""

    @property
    def samples_per_second(self) -> float:
        """Speed of one worker at its steady state."""
        return self.batch / self.seconds_per_batch

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation (Chowdhery et al. 2022, arXiv:2204.02311, appendix B)."""
        return self.flops_per_batch / self.seconds_per_batch / self.peak_flops_per_second


def command(argv: list[str]) -> int:
    """Measure training on this machine: samples/s, time by stage, MFU, peak memory."""
    if argv[:1] != ["train"] or len(argv) < 2 or argv[1].startswith("-"):
        asked = bool({"-h", "--help"} & set(argv))
        usage = "usage: aigc bench train MODEL[:PRESET] [--batches N] [options of aigc train]"
        print(usage, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    preset = models.preset(argv[1])
    options = tyro.cli(
        Options,
        default=Options(config=preset),
        args=argv[2:],
        prog=f"aigc bench train {argv[1]}",
        description=f"{Options.__doc__} Without effect: {', '.join(UNUSED)}.",
    )
    config = options.config
    if idle := [name for name in UNUSED if getattr(config, name) != getattr(preset, name)]:
        print(f"aigc bench: without effect here: {', '.join(idle)}", file=sys.stderr)
    keep_freed_memory()
    chosen = options.device
    if chosen == "auto":
        chosen = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(chosen)
    source = data.load(config.data, config.model)
    threads = config.threads or os.cpu_count() or 1
    if device.type == "cpu" and not config.threads:
        threads, _ = choose_threads(config, source, threads)
    torch.set_num_threads(threads)
    result = measure(config, source, device, options.batches, options.warmup)
    print(describe(config, device, result, options))
    return 0


def measure(
    config: TrainConfig, source: Source, device: torch.device, batches: int, warmup: int
) -> Measurement:
    """Train `warmup` batches, then `batches` more under the stopwatch. Raises Diverged."""
    config = replace(config, samples=config.batch * (warmup + batches), init_from="")
    state, watch = TrainState(config, device), Stopwatch(device)

    def warm(batch: int) -> None:
        if batch == warmup:
            watch.clear()
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)

    watch_stages(state, watch, warm)
    train(config, state, source)
    memory = _peak_memory_bytes(device)
    stages = watch.seconds()
    total = watch.total_seconds()
    names = ["data", "prepare", *(phase.name for phase in state.phases)]
    return Measurement(
        batch=config.batch,
        seconds_per_batch=total / batches,
        shares={k: stages.get(k, 0.0) / total for k in (*names, "optimizer", "figures", "average")},
        peak_memory_bytes=memory,
        flops_per_batch=flops_per_batch(config, source, device),
        peak_flops_per_second=peak_flops_per_second(device, getattr(torch, config.precision)),
    )


class Stopwatch:
    """Time by stage: time counts for the stage that was entered last.

    On a GPU it records events of the stream, so it measures the GPU's time without waiting.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._marks: list[tuple[str, Any]] = []

    def clear(self) -> None:
        """Forget everything."""
        self._marks.clear()

    def enter(self, stage: str) -> None:
        """Begin a stage, and end the previous one."""
        if self._on_gpu:
            moment: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            moment.record()
        else:
            moment = time.perf_counter()
        self._marks.append((stage, moment))

    def laps(self) -> list[tuple[str, float]]:
        """Every stage entered and its seconds, except the last one, which has not ended."""
        if self._on_gpu:
            self._marks[-1][1].synchronize()
        pairs = zip(self._marks, self._marks[1:], strict=False)
        return [(stage, self._between(start, end)) for (stage, start), (_, end) in pairs]

    def seconds(self) -> dict[str, float]:
        """Seconds by stage."""
        sums: dict[str, float] = {}
        for stage, seconds in self.laps():
            sums[stage] = sums.get(stage, 0.0) + seconds
        return sums

    def total_seconds(self) -> float:
        """Time from the first mark to the last."""
        if self._on_gpu:
            self._marks[-1][1].synchronize()
        return self._between(self._marks[0][1], self._marks[-1][1])

    def _between(self, start: Any, end: Any) -> float:
        seconds: float = start.elapsed_time(end) / 1000 if self._on_gpu else end - start
        return seconds


def watch_stages(state: TrainState, watch: Stopwatch, after: Callable[[int], None]) -> None:
    """Mark the stages of a state on `watch`; call `after` with each finished batch's number."""
    model, average = state.model, state.update_ema
    prepare, loss = model.prepare, model.loss

    def watched_prepare(*arguments: Any) -> Any:
        watch.enter("prepare")
        return prepare(*arguments)

    def watched_loss(phase: str, *arguments: Any) -> Any:
        watch.enter(phase)
        return loss(phase, *arguments)

    def watched_average(*arguments: Any) -> None:
        watch.enter("average")
        average(*arguments)
        after(state.batches)
        watch.enter("data")

    model.prepare = watched_prepare  # type: ignore[method-assign, assignment]
    model.loss = watched_loss  # type: ignore[method-assign, assignment]
    state.update_ema = watched_average  # type: ignore[method-assign, assignment]
    for optimizer in state.optimizers:
        optimizer.register_step_pre_hook(lambda *_: watch.enter("optimizer"))
        optimizer.register_step_post_hook(lambda *_: watch.enter("figures"))


class _Everything:
    """Replaces FlopCounterMode's module tracker, which cannot handle a penalty's gradient."""

    parents = ("Global",)

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def flops_per_batch(config: TrainConfig, source: Source, device: torch.device) -> float:
    """FLOPs of a batch, counted over enough batches for every phase to be due in proportion."""
    state = TrainState(config, device)
    batches = math.lcm(*(phase.every for phase in state.phases))
    # Compiled networks cannot be counted; they compute the same.
    config = replace(config, samples=config.batch * batches, compile=False, init_from="")
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _Everything()  # type: ignore[assignment]
    with counter:
        train(config, state, source)
    return counter.get_total_flops() / batches


def peak_flops_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """Speed of the fastest of several products of large square matrices.

    On a GPU float32 may use TF32, as in cuDNN's convolutions.
    """
    n, products = MATMUL[device.type]
    a = torch.randn(n, n, device=device).to(dtype)
    watch, before = Stopwatch(device), torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        for _ in range(products):
            watch.enter("product")
            a @ a
            watch.enter("pause")
    finally:
        torch.set_float32_matmul_precision(before)
    return 2 * n**3 / min(seconds for stage, seconds in watch.laps() if stage == "product")


def _peak_memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def describe(
    config: TrainConfig, device: torch.device, result: Measurement, options: Options
) -> str:
    """Text of a measurement."""
    threads = torch.get_num_threads()
    name = f"CPU, {threads} thread{'s' * (threads > 1)}"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    n = MATMUL[device.type][0]
    reached = result.flops_per_batch / result.seconds_per_batch
    whose = "allocated on the GPU" if device.type == "cuda" else "held by the process"
    lines = [
        f"{config.preset} on {name}: {config.precision}{', compiled' * config.compile},"
        f" batch {config.batch}, {options.batches} batches after {options.warmup}",
        "",
        f"{result.samples_per_second:>12,.0f}  samples/s",
        f"{result.seconds_per_batch * 1000:>12,.2f}  ms per batch, of which",
        *(f"{share:>12.1%}  {stage}" for stage, share in result.shares.items()),
        f"{result.mfu:>12.1%}  MFU: {result.flops_per_batch / 1e9:,.3g} GFLOP per batch are"
        f" {reached / 1e9:,.3g} GFLOP/s; a {n} x {n} matmul reaches"
        f" {result.peak_flops_per_second / 1e9:,.3g} GFLOP/s",
        f"{result.peak_memory_bytes / 2**20:>12,.0f}  MiB {whose} at most",
    ]
    return "\n".join(lines)
