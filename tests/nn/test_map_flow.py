"""The flow over maps: inverse, density, reach, and dependence between places that it learns."""

import pytest
import torch
from torch import Tensor

from aigc.nn.map_flow import MapFlow

SIZES = [(4, 3, 5), (3, 2, 2), (1, 4, 3)]


def random_flow(channels: int) -> MapFlow:
    torch.manual_seed(0)
    flow = MapFlow(channels, 8).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape))
    return flow


@pytest.mark.parametrize("size", SIZES)
def test_inverse_undoes_forward(size: tuple[int, ...]) -> None:
    flow, x = random_flow(size[0]), torch.randn(3, *size).double()
    y = flow(x)[0]
    assert (y - x).abs().max() > 0.5
    assert torch.allclose(flow.inverse(y), x)


@pytest.mark.parametrize("size", SIZES)
def test_log_det_equals_that_of_the_jacobian(size: tuple[int, ...]) -> None:
    flow, x = random_flow(size[0]), torch.randn(1, *size).double()
    jacobian = torch.autograd.functional.jacobian(lambda x: flow(x)[0], x)
    expected = torch.linalg.slogdet(jacobian.reshape(x.numel(), x.numel())).logabsdet
    y, log_det = flow(x)
    assert abs(expected) > 0.1
    assert torch.allclose(log_det, expected)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(y).sum()
    assert torch.allclose(flow.log_prob(x), normal + log_det)


def test_untrained_flow_is_the_standard_normal() -> None:
    x = torch.randn(5, 4, 3, 3)
    expected = torch.distributions.Normal(0, 1).log_prob(x).sum((1, 2, 3))
    assert torch.allclose(MapFlow(4, 8).log_prob(x), expected)


def test_rows_do_not_mix_and_a_corner_follows_from_the_opposite_one() -> None:
    flow, x = random_flow(4), torch.randn(2, 4, 8, 8).double()
    assert torch.allclose(flow.inverse(x)[:1], flow.inverse(x[:1]))
    jacobian = torch.autograd.functional.jacobian(lambda x: flow.inverse(x)[0, :, 7, 7], x)
    assert jacobian[:, 0, :, 0, 0].any()


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_loss_is_the_weighted_density_per_number(weight: float) -> None:
    flow, x = random_flow(4), torch.randn(3, 4, 2, 3).double()
    loss, metrics = flow.loss(x, weight)
    gradients = torch.autograd.grad(loss, list(flow.parameters()))
    expected = -flow.log_prob(x).mean() / 24
    assert torch.allclose(loss, weight * expected)
    assert any(gradient.any() for gradient in gradients) == (weight > 0)
    assert all(torch.allclose(nats, expected) for nats in metrics.values())
    assert set(metrics) == ({"nats"} if weight else set())


def test_precision_is_that_of_the_map_under_autocast() -> None:
    flow, x = random_flow(4).float(), torch.randn(3, 4, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        found = flow.log_prob(x)
    assert torch.equal(found, flow.log_prob(x))


def neighbours(z: Tensor) -> float:
    """Correlation of values beside each other in a row."""
    pairs = torch.stack([z[..., :-1].flatten(), z[..., 1:].flatten()])
    return torch.corrcoef(pairs)[0, 1].item()


def alike(n: int) -> Tensor:
    """(n, 2, 4, 4): each channel is one number everywhere, and noise."""
    return 0.9**0.5 * torch.randn(n, 2, 1, 1) + 0.1**0.5 * torch.randn(n, 2, 4, 4)


def test_learns_how_places_depend_on_each_other() -> None:
    """Draws have the data's correlation of neighbours, 0.9; places drawn apart have none."""
    torch.manual_seed(0)
    flow = MapFlow(2, 8)
    optimizer = torch.optim.Adam(flow.parameters(), 1e-2, betas=(0.9, 0.99))
    for _ in range(80):
        loss, _ = flow.loss(alike(32), 1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        apart = torch.randn(500, 2, 4, 4)
        drawn = flow.inverse(apart)
    assert neighbours(alike(500)) == pytest.approx(0.9, abs=0.03)
    assert neighbours(drawn) == pytest.approx(0.9, abs=0.1)
    assert abs(neighbours(apart)) < 0.05
