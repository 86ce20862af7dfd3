"""The flow is a density: it is its own inverse's, it adds up to one, and it learns."""

import numpy as np
import pytest
import torch

from aigc.flow import Flow


def bent(latent: int = 4, num_classes: int = 3) -> Flow:
    torch.manual_seed(0)
    flow = Flow(latent, num_classes, 4, 16).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))
    return flow


def test_an_untrained_flow_is_the_standard_normal() -> None:
    z = torch.randn(5, 4)
    flow = Flow(4, 0, 3, 8)
    expected = torch.distributions.Normal(0, 1).log_prob(z).sum(1)
    assert torch.allclose(flow.log_prob(z, None), expected)


def test_log_prob_is_that_of_the_change_of_variables() -> None:
    """log p(z) = log N(noise) - log |det dz/dnoise|, by the Jacobian itself."""
    flow, label = bent(), torch.tensor([2])
    noise = torch.randn(1, 4, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda e: flow(e, label), noise)[0, :, 0]
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum()
    expected = normal - torch.linalg.slogdet(jacobian).logabsdet
    assert flow.log_prob(flow(noise, label), label).item() == pytest.approx(expected.item())


def test_it_adds_up_to_one_over_the_plane() -> None:
    flow, line = bent(latent=2, num_classes=0), torch.linspace(-12, 12, 601, dtype=torch.float64)
    points = torch.cartesian_prod(line, line)
    with torch.no_grad():
        total = flow.log_prob(points, None).exp().sum() * (line[1] - line[0]) ** 2
    assert total.item() == pytest.approx(1, abs=0.02)


def test_it_learns_two_clusters_by_class() -> None:
    torch.manual_seed(1)
    flow = Flow(2, 2, 4, 32)
    optimizer = torch.optim.Adam(flow.parameters(), 5e-3)
    label = torch.arange(256) % 2
    for _ in range(150):
        z = torch.randn(256, 2) * 0.1 + torch.where(label == 0, -3.0, 3.0)[:, None]
        loss = -flow.log_prob(z, label).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        drawn = flow(torch.randn(256, 2), label).numpy()
    assert np.abs(drawn - np.where(label.numpy() == 0, -3, 3)[:, None]).mean() < 0.3


def test_an_odd_number_of_dimensions_is_refused() -> None:
    with pytest.raises(ValueError, match="latent must be even"):
        Flow(3, 0, 1, 8)
