"""Optimizers: their formulas, numbers that change, clipping, resumes, and steps left out."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aigc import data
from aigc.config import OptimizerConfig, TrainConfig
from aigc.testing import PretendedAccelerator
from aigc.training import optimizers
from aigc.training.loop import train
from aigc.training.state import TrainState
from tests.training.small_runs import differing, finish, resumed, small, worst

NAMES = ("adam", "adamw", "sgd", "rmsprop")
RATE, FIRST, SECOND, EPSILON, DECAY = 0.1, 0.5, 0.75, 1e-3, 0.01
SCHEDULED = {
    "learning_rate": "0:0 25%:1e-2 100%:0:cosine",
    "betas": ("0:0 100%:0.5", "0:0.9 100%:0.999"),
    "weight_decay": 0.01,
    "clip_norm": 0.5,
}


def by_hand(name: str, weight: float, gradients: list[float]) -> float:
    """Weight after a step for each gradient, by the formulas of the papers and torch's docs."""
    first = second = 0.0
    for step, gradient in enumerate(gradients, 1):
        if name == "adamw":
            weight -= RATE * DECAY * weight
        else:
            gradient += DECAY * weight
        if name == "sgd":
            first = FIRST * first + gradient
            weight -= RATE * first
        elif name == "rmsprop":
            second = SECOND * second + (1 - SECOND) * gradient**2
            first = FIRST * first + gradient / (second**0.5 + EPSILON)
            weight -= RATE * first
        else:
            first = FIRST * first + (1 - FIRST) * gradient
            second = SECOND * second + (1 - SECOND) * gradient**2
            root = (second / (1 - SECOND**step)) ** 0.5
            weight -= RATE * first / (1 - FIRST**step) / (root + EPSILON)
    return weight


def one_weight(name: Any) -> tuple[nn.Linear, torch.optim.Optimizer, OptimizerConfig]:
    module = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(module.weight, 2.0)
    config = OptimizerConfig(
        name=name,
        learning_rate=RATE,
        betas=(FIRST, SECOND),
        epsilon=EPSILON,
        weight_decay=DECAY,
    )
    optimizer = optimizers.build(config, module)
    optimizers.set_numbers(optimizer, config, samples=0, total=1, scale=1.0)
    return module, optimizer, config


def step(module: nn.Linear, optimizer: torch.optim.Optimizer, gradient: float, bad: float) -> None:
    module.weight.grad = torch.full_like(module.weight, gradient)
    optimizers.step(optimizer, torch.tensor(bad))


@pytest.mark.parametrize("name", NAMES)
def test_steps_equal_the_formula(name: str) -> None:
    module, optimizer, _ = one_weight(name)
    gradients = [1.0, -0.5, 3.0]
    for gradient in gradients:
        step(module, optimizer, gradient, bad=0.0)
    assert module.weight.item() == pytest.approx(by_hand(name, 2.0, gradients), rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_bad_step_changes_nothing_be_it_the_first_or_a_later_one(name: str) -> None:
    module, optimizer, _ = one_weight(name)
    step(module, optimizer, float("nan"), bad=1.0)
    assert module.weight.item() == 2.0
    step(module, optimizer, 1.0, bad=0.0)
    step(module, optimizer, float("inf"), bad=1.0)
    step(module, optimizer, -0.5, bad=0.0)
    assert module.weight.item() == pytest.approx(by_hand(name, 2.0, [1.0, -0.5]), rel=1e-6)


def clipped(gradients: list[Tensor], norm: float, largest: float) -> list[Any]:
    return [g.tolist() for g in optimizers.clip(gradients, torch.tensor(norm), largest)]


def test_clipping_keeps_the_direction_and_bounds_the_norm() -> None:
    gradients = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
    assert clipped(gradients, 5.0, 10.0) == [[3.0, 0.0], [[4.0]]]
    (first, second) = clipped(gradients, 5.0, 1.0)
    assert first == pytest.approx([0.6, 0.0])
    assert second[0] == pytest.approx([0.8])
    assert clipped([torch.zeros(2)], 0.0, 1.0) == [[0.0, 0.0]]


def test_one_gradient_of_two_parameters_is_clipped_once() -> None:
    shared = torch.full((2,), 4.0)
    assert clipped([shared, shared], 8.0, 4.0) == [[2.0, 2.0]] * 2
    expanded = torch.tensor(4.0).expand(3)
    assert clipped([expanded], 8.0, 4.0) == [[2.0] * 3]


def recipe(name: str, **changes: Any) -> TrainConfig:
    config = small("fc_gan:mlp", ema_half_life="0:0 50%:200", **changes)
    options = OptimizerConfig(name=name, **SCHEDULED)  # type: ignore[arg-type]
    return replace(
        config,
        model=replace(config.model, generator_optimizer=options, discriminator_optimizer=options),
    )


@pytest.mark.parametrize("name", NAMES)
def test_resumed_equals_uninterrupted(name: str, tmp_path: Any) -> None:
    config = recipe(name)
    assert differing(finish(config), resumed(config, tmp_path, at=3)) == []


@pytest.mark.parametrize("name", NAMES)
def test_micro_batches_equal_the_whole(name: str) -> None:
    config = recipe(name, precision="float64")
    assert worst(finish(config), finish(replace(config, micro_batch=5))) < 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_no_optimizer_has_the_host_read_the_device(name: str) -> None:
    config = recipe(name)
    with PretendedAccelerator() as device:
        state = TrainState(config, device.device)
        train(config, state, data.load(config.data, config.model))
    assert not [read for read in device.reads if "optimizers.py" in str(read)]


def test_every_step_has_the_numbers_of_its_samples() -> None:
    config = recipe("adam")
    state, found = TrainState(config), []

    def record(optimizer: Any, args: Any, kwargs: Any) -> None:
        group = optimizer.param_groups[0]
        found.append((group["lr"], *group["betas"]))

    state.optimizers[0].register_step_pre_hook(record)
    train(config, state, data.load(config.data, config.model))
    total = config.samples
    quarter = next(i for i in range(len(found)) if i * config.batch >= total / 4)
    assert found[0] == (0.0, 0.0, 0.9)
    assert max(rate for rate, *_ in found) == pytest.approx(found[quarter][0], rel=0.2)
    assert found[-1][0] < 0.2e-2
    assert [first for _, first, _ in found] == pytest.approx(
        [0.5 * i * config.batch / total for i in range(len(found))]
    )


def test_clipped_runs_report_the_norm_before() -> None:
    norms: list[Tensor] = []
    config = recipe("sgd")
    state = TrainState(config)
    parameters = list(state.phases[0].module.parameters())

    def record(optimizer: Any, args: Any, kwargs: Any) -> None:
        norms.append(torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in parameters])))

    state.optimizers[0].register_step_pre_hook(record)
    train(config, state, data.load(config.data, config.model))
    assert max(norms).item() <= 0.5 * (1 + 1e-5)
