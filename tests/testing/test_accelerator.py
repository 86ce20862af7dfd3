"""The pretended accelerator: it computes as the CPU does, refuses mixtures, records reads."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aigc import data, models
from aigc.testing import MixedDevicesError, PretendedAccelerator
from aigc.testing.accelerator import PretendedTensor
from aigc.training import checkpoint
from aigc.training.loop import TrainState, train

DEVICE = PretendedAccelerator.device


@pytest.fixture
def accelerator() -> Iterator[PretendedAccelerator]:
    with PretendedAccelerator() as made:
        yield made


def drawn(*shape: int, device: Any = DEVICE) -> Tensor:
    return torch.randn(*shape, device=device, generator=torch.Generator(device).manual_seed(3))


MADE: dict[str, Callable[[], Tensor]] = {
    "zeros": lambda: torch.zeros(3, device=DEVICE),
    "arange": lambda: torch.arange(3, device=DEVICE),
    "tensor": lambda: torch.tensor([1.0, 2.0, 3.0], device=DEVICE),
    "as_tensor": lambda: torch.as_tensor(np.ones(3), device=DEVICE),
    "moved": lambda: torch.ones(3).to(DEVICE),
    "like": lambda: torch.ones(3).to(torch.zeros(1, device=DEVICE)),
    "new of numbers": lambda: torch.zeros(1, device=DEVICE).new_tensor([1, 2, 3]),
    "new": lambda: torch.zeros(1, device=DEVICE).new_ones(3),
    "in a context": lambda: _in_context(),
    "full of another": lambda: torch.full_like(torch.zeros(3, device=DEVICE), 2),
}


def _in_context() -> Tensor:
    with DEVICE:
        return torch.ones(3)


@pytest.mark.parametrize("make", MADE.values(), ids=MADE.keys())
def test_tensors_are_made_on_the_accelerator(
    make: Callable[[], Tensor], accelerator: PretendedAccelerator
) -> None:
    made = make()
    assert isinstance(made, PretendedTensor)
    assert made.device == DEVICE
    assert made.shape == (3,)
    assert not accelerator.reads


MIXED: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "sum": lambda x, y: x + y,
    "in place": lambda x, y: x.mul_(y),
    "product": lambda x, y: x @ y,
    "cat": lambda x, y: torch.cat([x, y]),
    "index": lambda x, y: x[torch.tensor([0, 1])],
    "where": lambda x, y: torch.where(x > 0, x, y),
    "loss": nn.functional.mse_loss,
    "several": lambda x, y: torch._foreach_add([x], [y]),
}


@pytest.mark.parametrize("mix", MIXED.values(), ids=MIXED.keys())
@pytest.mark.parametrize("swapped", [False, True])
def test_tensors_of_two_devices_are_refused(
    mix: Callable[[Tensor, Tensor], Any], swapped: bool, accelerator: PretendedAccelerator
) -> None:
    x, y = drawn(2, 2), torch.zeros(2, 2)
    if swapped and mix is not MIXED["index"]:
        x, y = y, x
    with pytest.raises((MixedDevicesError, RuntimeError), match=r"on the CPU|same device"):
        mix(x, y)
    with pytest.raises((MixedDevicesError, RuntimeError)):
        drawn(2, 2).data = torch.zeros(2, 2)


def test_numbers_of_the_cpu_may_be_mixed_in(accelerator: PretendedAccelerator) -> None:
    x = drawn(3)
    assert torch.equal((x * torch.tensor(2.0)).cpu(), (x * 2).cpu())


READS: dict[str, tuple[Callable[[Tensor], Any], list[str]]] = {
    "item": (lambda x: x[0].item(), ["item"]),
    "float": (lambda x: float(x[0]), ["item"]),
    "bool": (lambda x: bool(x.sum() > 0), ["item"]),
    "equal": (lambda x: torch.equal(x, x), ["item"]),
    "tolist": (lambda x: x.tolist(), ["copy"]),
    "cpu": (lambda x: x.cpu(), ["copy"]),
    "to": (lambda x: x.to("cpu", torch.float64), ["copy"]),
    "copy_": (lambda x: torch.zeros(3).copy_(x), ["copy"]),
    "mask": (lambda x: x[x > 0], ["size"]),
    "nonzero": (lambda x: x.nonzero(), ["size"]),
    "nothing": (lambda x: x[:2].square().mean() + x.argmax(), []),
}


@pytest.mark.parametrize(("read", "kinds"), READS.values(), ids=READS.keys())
def test_reads_of_the_host_are_recorded(
    read: Callable[[Tensor], Any], kinds: list[str], accelerator: PretendedAccelerator
) -> None:
    read(drawn(3))
    assert [found.kind for found in accelerator.reads] == kinds
    for found in accelerator.reads:
        assert (found.place.file, found.place.function) == (Path(__file__).name, "<lambda>")


def test_numpy_takes_no_tensor_of_the_accelerator(accelerator: PretendedAccelerator) -> None:
    with pytest.raises(TypeError, match="copy it to the CPU with cpu"):
        drawn(3).numpy()
    with pytest.raises(TypeError, match="copy it to the CPU with cpu"):
        np.asarray(drawn(3))


def test_generators_are_of_one_device(accelerator: PretendedAccelerator) -> None:
    assert torch.Generator(DEVICE).device == DEVICE
    assert torch.equal(drawn(5).cpu(), drawn(5, device="cpu"))
    with pytest.raises(MixedDevicesError, match="got a generator of the CPU"):
        torch.randn(3, device=DEVICE, generator=torch.Generator())
    with pytest.raises(MixedDevicesError, match="got a generator of the accelerator"):
        torch.zeros(3).normal_(generator=torch.Generator(DEVICE))


def test_shapes_follow_changes_in_place(accelerator: PretendedAccelerator) -> None:
    x = drawn(3)
    x.unsqueeze_(0)
    assert x.shape == (1, 3)
    row = x[0]
    row[1] = 7
    assert x.tolist()[0][1] == 7


def test_a_module_keeps_its_parameters_when_it_moves(accelerator: PretendedAccelerator) -> None:
    module = nn.Conv2d(1, 2, 3)
    weights = module.weight.detach().clone()
    module.to(DEVICE).to(memory_format=torch.channels_last).to(torch.float64)
    assert isinstance(module.weight, nn.Parameter)
    assert torch.equal(module.weight.cpu(), weights.double())
    copied = copy.deepcopy(module)
    copied.weight.data.add_(1)
    assert torch.equal(module.weight.cpu(), weights.double())
    module.load_state_dict({name: value.cpu() for name, value in copied.state_dict().items()})
    assert torch.equal(module.weight.cpu(), copied.weight.cpu())


def test_nothing_of_it_is_left_behind() -> None:
    generator = torch.Generator
    with PretendedAccelerator(), pytest.raises(MixedDevicesError):
        torch.zeros(2, device=DEVICE) + torch.zeros(2)
    assert torch.Generator is generator
    assert not hasattr(torch, DEVICE.type)


@pytest.mark.process
@pytest.mark.parametrize("preset", ["fc_gan:mlp", "fc_vae:digits"])
def test_training_on_the_accelerator_is_that_on_the_cpu(preset: str) -> None:
    config = replace(models.preset(preset), batch=8, samples=24)
    source = data.load(config.data, config.model)
    here = TrainState(config)
    train(config, here, source)
    with PretendedAccelerator() as accelerator:
        there = TrainState(config, accelerator.device)
        train(config, there, source)
        found = checkpoint.tensors(there)
    expected = checkpoint.tensors(here)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
