"""Description of a run without training it: `aigc train ... --dry-run`."""

import json
from typing import Any

import torch
from torch import nn

from aigc import data
from aigc.config import TrainConfig
from aigc.data import Source
from aigc.data_report import facts
from aigc.rng import BatchRNG
from aigc.training.dataloader import batch_of
from aigc.training.loop import TrainState
from aigc.training.memory import estimate_memory, resident_bytes, rows_at_once


def describe(config: TrainConfig) -> str:
    """The resolved config, the data, memory, and each network's layers with shapes and parameters.

    Runs one batch of two samples through every phase, so shapes that do not fit show here.
    """
    dataset = data.load(config.data, config.model)
    state = TrainState(config)
    like = next(state.model.parameters())
    rows = (0, 1 % len(dataset))
    batch = batch_of(dataset, rows, config.model.modality, like, config.data.on_error)
    shapes: dict[str, tuple[int, ...]] = {}
    hooks = [
        module.register_forward_hook(_note(shapes, name))
        for name, module in state.model.named_modules()
        if {child for child, _ in module.named_children()} <= {"parametrizations"}
        and "parametrizations" not in name
    ]
    noise = BatchRNG(config.seed, 0, 2, 0, 2, like, config.samples)
    shared = state.model.prepare(batch, noise, {phase.name for phase in state.phases})
    for phase in state.phases:
        state.model.whole_loss(phase.name, batch, noise, shared)
    for hook in hooks:
        hook.remove()
    lines = [json.dumps(config.to_json(), indent=1), ""]
    lines += [*facts.lines(facts.facts(config.data, dataset)), ""]
    for name, network in state.model.named_children():
        lines.append(f"{name}: {_count(network):,} parameters")
        below = {k: v for k, v in shapes.items() if k.startswith(f"{name}.")}
        lines += [_layer(state.model, k, v) for k, v in below.items()]
    lines += ["", _memory(config, dataset)]
    return "\n".join(lines)


def _note(shapes: dict[str, tuple[int, ...]], name: str) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        first = (
            output[0] if isinstance(output, tuple) else output
        )  # a GRU returns its state as well
        if isinstance(first, torch.Tensor):
            shapes[name] = tuple(first.shape)

    return hook


def _layer(model: nn.Module, name: str, shape: tuple[int, ...]) -> str:
    module = model.get_submodule(name)
    rest = ", ".join(map(str, shape[1:]))
    # The name from torch.nn, also for subclasses that compute the same in another way.
    torchs = (kind for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn"))
    kind = next(torchs).__name__.removeprefix("Parametrized")
    return f"  {name:<34}{kind:<18}(N, {rest}){_count(module):>12,}"


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _memory(config: TrainConfig, source: Source) -> str:
    """Memory of one worker that takes the whole batch, and of the data."""
    rows, resident = rows_at_once(config), resident_bytes()
    estimate = estimate_memory(config, source, rows)
    held = isinstance(source, data.Dataset)
    size = (
        source.samples.nbytes
        if isinstance(source, data.Dataset)
        else len(source) * data.read(source, 0, config.data.on_error)[0].nbytes
    )
    batch = estimate.peak_bytes - estimate.state_bytes
    total = resident + estimate.peak_bytes  # data that are held are resident
    return (
        f"estimated memory of one worker that takes the whole batch: {_mib(estimate.state_bytes)}"
        f" weights, optimizers and average + {_mib(batch)} for {rows:,} rows at once"
        f"{' + ' if held else '; '}{_mib(size)} data ({len(source):,} samples)"
        f"{'' if held else ' are read when due'}; on a CPU {_mib(total)} with the process itself"
    )


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
