"""What a run would be: `aigc train ... --dry-run`."""

import json
from typing import Any

import torch
from torch import nn

from aigc import data
from aigc.config import TrainConfig
from aigc.feed import as_input, tensors
from aigc.noise import Noise
from aigc.train import TrainState


def describe(config: TrainConfig) -> str:
    """The resolved config, each network's layers with output shapes and parameters, and memory.

    Runs one batch of two samples through every phase, so whatever does not fit shows here.
    """
    dataset = data.load(config.data, config.model)
    state = TrainState(config)
    like = next(state.model.parameters())
    samples, labels = data.gather(dataset, (0, 1 % len(dataset)), config.data.on_error)
    taken = tensors(samples, labels, config.model.modality)
    batch = {name: as_input(value, like) for name, value in taken.items()}
    shapes: dict[str, tuple[int, ...]] = {}
    hooks = [
        module.register_forward_hook(_note(shapes, name))
        for name, module in state.model.named_modules()
        if {child for child, _ in module.named_children()} <= {"parametrizations"}
        and "parametrizations" not in name
    ]
    noise = Noise(config.seed, 0, 2, 0, 2, like)
    shared = state.model.prepare(batch, noise, {phase.name for phase in state.phases})
    for phase in state.phases:
        state.model.loss(phase.name, batch, noise, shared)
    for hook in hooks:
        hook.remove()
    lines = [json.dumps(config.to_json(), indent=1), ""]
    for name, network in state.model.named_children():
        lines.append(f"{name}: {_count(network):,} parameters")
        below = {k: v for k, v in shapes.items() if k.startswith(f"{name}.")}
        lines += [_layer(state.model, k, v) for k, v in below.items()]
    activations = sum(_size(shape) // shape[0] for shape in shapes.values())
    lines += ["", _memory(config, state, activations, len(dataset))]
    return "\n".join(lines)


def _note(shapes: dict[str, tuple[int, ...]], name: str) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output  # a GRU gives its state, too
        if isinstance(first, torch.Tensor):
            shapes[name] = tuple(first.shape)

    return hook


def _layer(model: nn.Module, name: str, shape: tuple[int, ...]) -> str:
    module = model.get_submodule(name)
    rest = ", ".join(map(str, shape[1:]))
    # The name that a reader knows, of layers that compute the same in another way.
    torchs = (kind for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn"))
    kind = next(torchs).__name__.removeprefix("Parametrized")
    return f"  {name:<34}{kind:<18}(N, {rest}){_count(module):>12,}"


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _memory(config: TrainConfig, state: TrainState, activations: int, rows: int) -> str:
    """Weights, gradients, two Adam moments and the average; activations twice (real and fake)."""
    width = 8 if config.precision == "float64" else 4
    weights = _count(state.model) * 4 * width + _count(state.average) * width
    batch = 2 * activations * config.batch * width
    samples = rows * sum(_size(shape) for shape in config.model.shapes.values()) * 4
    mib = 2**20
    return (
        f"estimated memory of one worker that takes the whole batch: {weights / mib:.1f} MiB"
        f" weights and optimizers + {batch / mib:.1f} MiB activations of {config.batch} samples"
        f" + {samples / mib:.1f} MiB data ({rows:,} samples)"
    )
