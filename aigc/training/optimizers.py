"""Optimizers of torch.optim from their configs, their numbers of a step, and steps left out.

An optimizer gets no step whose gradients are not finite, and the host does not wait to learn of it:
`bad` is a tensor () on the device, 1 where the step must change nothing.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from aigc.config import OptimizerConfig
from aigc.config.schedule import value_at


def build(config: OptimizerConfig, module: nn.Module) -> Optimizer:
    """An optimizer of the module's parameters, with the numbers of the first sample."""
    parameters = list(module.parameters())
    shared: dict[str, Any] = {"lr": 1e-3, "weight_decay": config.weight_decay}
    match config.name:
        case "adam":
            return torch.optim.Adam(parameters, eps=config.epsilon, fused=True, **shared)
        case "adamw":
            return torch.optim.AdamW(parameters, eps=config.epsilon, fused=True, **shared)
        case "sgd":
            optimizer: Optimizer = torch.optim.SGD(parameters, fused=True, **shared)
            moments: tuple[str, ...] = ("momentum_buffer",)
        case "rmsprop":
            optimizer = torch.optim.RMSprop(parameters, eps=config.epsilon, **shared)
            moments = ("square_avg", "momentum_buffer")
    # torch makes these at the first step, which could then not be left out.
    for parameter in parameters:
        state = optimizer.state[parameter]
        state |= {moment: torch.zeros_like(parameter) for moment in moments}
        if config.name == "rmsprop":
            state["step"] = torch.zeros(())
    return optimizer


def set_numbers(
    optimizer: Optimizer, config: OptimizerConfig, samples: int, total: int, scale: float
) -> None:
    """Set the numbers of the step after `samples` of a run's `total`; the rate times `scale`."""
    first, second = (value_at(beta, samples, total) for beta in config.betas)
    numbers: dict[str, Any] = {"lr": value_at(config.learning_rate, samples, total) * scale}
    match config.name:
        case "adam" | "adamw":
            numbers["betas"] = (first, second)
        case "sgd":
            numbers["momentum"] = first
        case "rmsprop":
            numbers |= {"momentum": first, "alpha": second}
    for group in optimizer.param_groups:
        group.update(numbers)


@torch.no_grad()
def clip(gradients: Sequence[Tensor], norm: Tensor, largest: float) -> Sequence[Tensor]:
    """Gradients, those of a norm () above `largest` scaled down to it.

    Pascanu et al. 2013, arXiv:1211.5063, algorithm 1; the host does not read the norm. Two
    parameters may share one tensor, so nothing is changed in place.
    """
    return torch._foreach_mul(list(gradients), (largest / norm).clamp(max=1.0))


@torch.no_grad()
def step(optimizer: Optimizer, bad: Tensor) -> None:
    """Take a step, or none if `bad`. The fused optimizers leave a step out by themselves."""
    optimizer.found_inf = bad  # type: ignore[attr-defined]
    if all(group.get("fused") for group in optimizer.param_groups):
        optimizer.step()
        return
    changed = [p for group in optimizer.param_groups for p in group["params"]]
    # The number of steps stays on the host, and no formula here uses it.
    moments = (v for p in changed for v in optimizer.state[p].values())
    changed += [value for value in moments if value.device == bad.device]
    before = [value.clone() for value in changed]
    optimizer.step()
    for value, old in zip(changed, before, strict=True):
        value.copy_(torch.where(bad > 0, old, value))
