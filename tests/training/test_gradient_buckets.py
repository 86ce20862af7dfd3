"""Buckets of gradients: their layout, their order, and when they are sent."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from aigc.training import gradient_buckets
from aigc.training.gradient_buckets import GradientBuckets


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))  # 80 bytes each: 64 and 16


def test_buckets_are_sent_in_order_during_the_backward_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gradient_buckets, "BUCKET_BYTES", 80)
    layers = network()
    events: list[str] = []

    def begin(flat: Tensor) -> Callable[[], None]:
        events.append(f"send {flat.numel()}")
        return lambda: events.append("wait")

    for number, layer in enumerate(layers):
        layer.weight.register_hook(lambda _, number=number: events.append(f"layer {number}"))
    parameters = list(layers.parameters())
    buckets = GradientBuckets(parameters, begin)
    x = torch.randn(2, 4)
    expected = torch.autograd.grad(layers(x).square().sum(), parameters)
    events.clear()
    with buckets.sending():
        torch.autograd.grad(layers(x).square().sum(), parameters)
    sent = [event for event in events if event != "layer 0"]
    assert sent == ["layer 2", "send 20", "layer 1", "send 20", "send 20"]
    assert events.index("send 20") < events.index("layer 0")
    gradients, values = buckets.sums(torch.ones(2))
    assert events[-5:] == ["send 2", *4 * ["wait"]]
    assert torch.equal(values, torch.ones(2))
    assert all(torch.equal(a, b) for a, b in zip(gradients, expected, strict=True))
    assert not any(p._backward_hooks for p in parameters[1::2])


def test_a_bucket_waits_for_those_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first parameters may have their gradients first: the order of sending is the same."""
    monkeypatch.setattr(gradient_buckets, "BUCKET_BYTES", 4)
    first, second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(2))
    sizes: list[int] = []

    def begin(flat: Tensor) -> Callable[[], None]:
        sizes.append(flat.numel())
        return lambda: None

    buckets = GradientBuckets([first, second], begin)
    with buckets.sending():
        torch.autograd.grad((second * 2).sum() * first, [first, second])
    assert sizes == [2, 1]


def test_gradients_of_earlier_parts_are_added() -> None:
    layers = network()
    parameters = list(layers.parameters())
    x = torch.randn(2, 4)
    earlier = torch.autograd.grad(layers(x).sum(), parameters)
    buckets = GradientBuckets(parameters, lambda flat: lambda: None)
    with buckets.sending(earlier):
        torch.autograd.grad(layers(x).sum(), parameters)
    gradients, _ = buckets.sums(torch.ones(1))
    assert all(torch.equal(a, 2 * b) for a, b in zip(gradients, earlier, strict=True))
