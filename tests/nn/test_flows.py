"""Flow: inverse, density, learning, and the function that weights of earlier versions stand for."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from aigc.models import audio_vae, multimodal_vae
from aigc.nn.flows import Flow, standard_normal_log_prob
from tests.data.rows import TINY

KINDS = [{}, {"act": "leaky_relu", "mirrored": True}]


def random_flow(size: int = 4, context: int = 3, **kind: Any) -> Flow:
    torch.manual_seed(0)
    flow = Flow(size, context, 4, 16, **kind).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))
    return flow


def test_untrained_flow_is_the_standard_normal() -> None:
    x = torch.randn(5, 4)
    expected = torch.distributions.Normal(0, 1).log_prob(x).sum(1)
    assert torch.allclose(Flow(4, 0, 3, 8).log_prob(x), expected)


@pytest.mark.parametrize(("size", "kind"), [(4, KINDS[0]), (4, KINDS[1]), (5, KINDS[1])])
def test_inverse_undoes_forward(size: int, kind: dict[str, Any]) -> None:
    flow = random_flow(size, **kind)
    x, context = torch.randn(7, size).double(), torch.randn(7, 3).double()
    y, log_det = flow(x, context)
    back, inverse_log_det = flow.inverse(y, context)
    assert torch.allclose(back, x)
    assert torch.allclose(inverse_log_det, -log_det)


@pytest.mark.parametrize(("size", "kind"), [(4, KINDS[0]), (4, KINDS[1]), (5, KINDS[1])])
def test_log_det_equals_that_of_the_jacobian(size: int, kind: dict[str, Any]) -> None:
    flow = random_flow(size, **kind)
    x, context = torch.randn(1, size).double(), torch.randn(1, 3).double()
    jacobian = torch.autograd.functional.jacobian(lambda x: flow(x, context)[0], x)[0, :, 0]
    y, log_det = flow(x, context)
    assert log_det.item() == pytest.approx(torch.linalg.slogdet(jacobian).logabsdet.item())
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(y).sum()
    assert flow.log_prob(x, context).item() == pytest.approx((normal + log_det).item())


def test_density_integrates_to_one() -> None:
    flow, line = random_flow(2, 0), torch.linspace(-12, 12, 601, dtype=torch.float64)
    points = torch.cartesian_prod(line, line)
    with torch.no_grad():
        total = flow.log_prob(points).exp().sum() * (line[1] - line[0]) ** 2
    assert total.item() == pytest.approx(1, abs=0.02)


def test_learns_one_cluster_per_context() -> None:
    torch.manual_seed(1)
    flow = Flow(2, 2, 4, 32)
    optimizer = torch.optim.Adam(flow.parameters(), 5e-3)
    label = torch.arange(256) % 2
    context = F.one_hot(label, 2).float()
    for _ in range(150):
        x = torch.randn(256, 2) * 0.1 + torch.where(label == 0, -3.0, 3.0)[:, None]
        loss = -flow.log_prob(x, context).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        samples = flow.inverse(torch.randn(256, 2), context)[0].numpy()
    assert np.abs(samples - np.where(label.numpy() == 0, -3, 3)[:, None]).mean() < 0.3


def test_rejects_an_odd_size_unless_mirrored() -> None:
    with pytest.raises(ValueError, match="latent must be even"):
        Flow(3, 0, 1, 8)
    assert Flow(3, 0, 1, 8, mirrored=True)(torch.zeros(1, 3))[0].shape == (1, 3)


def dense(weights: dict[str, Tensor], k: int, x: Tensor, slope: float) -> tuple[Tensor, Tensor]:
    """Scale and shift of coupling k, by the names that weights have had since 0.1.0."""
    for layer in (0, 2, 4):
        name = f"couplings.{k}.{layer}"
        x = F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])
        x = F.leaky_relu(x, slope) if layer < 4 else x
    scale, shift = x.chunk(2, 1)
    return 2 * torch.tanh(scale / 2), shift


def test_prior_of_audio_vae_computes_what_its_weights_always_meant() -> None:
    """Couplings map latents to noise; classes are one-hot beside the half that is kept."""
    torch.manual_seed(0)
    model = audio_vae.Model(audio_vae.Config(latent=6, num_classes=3, couplings=3, prior_width=8))
    flow = model.prior
    weights = {name: torch.randn(value.shape) for name, value in flow.state_dict().items()}
    flow.load_state_dict(weights)
    z, context = torch.randn(5, 6), F.one_hot(torch.tensor([0, 1, 2, 0, 1]), 3).float()
    log_prob, noise = torch.zeros(5), z
    for k in range(3):
        kept, moved = noise.chunk(2, 1)
        scale, shift = dense(weights, k, torch.cat([kept, context], 1), slope=0.0)
        noise = torch.cat([moved * scale.exp() + shift, kept], 1)
        log_prob = log_prob + scale.sum(1)
    assert torch.equal(flow.log_prob(z, context), log_prob + standard_normal_log_prob(noise))
    x = noise
    for k in reversed(range(3)):
        moved, kept = x.chunk(2, 1)
        scale, shift = dense(weights, k, torch.cat([kept, context], 1), slope=0.0)
        x = torch.cat([kept, (moved - shift) * (-scale).exp()], 1)
    assert torch.equal(flow.inverse(noise, context)[0], x)


def test_flows_of_multimodal_vae_compute_what_their_weights_always_meant() -> None:
    """Couplings map noise to latents; the order of dimensions is reversed after each."""
    torch.manual_seed(0)
    flow = multimodal_vae.Model(TINY).networks.flow("audio")
    weights = {name: 0.3 * torch.randn(value.shape) for name, value in flow.state_dict().items()}
    flow.load_state_dict(weights)
    size = TINY.private_audio
    eps, context = torch.randn(5, size), torch.randn(5, TINY.context)
    x, log_det = eps, torch.zeros(5)
    for k in range(TINY.flow_layers):
        kept, moved = x[:, : size // 2], x[:, size // 2 :]
        scale, shift = dense(weights, k, torch.cat([kept, context], 1), slope=0.2)
        x = torch.cat([kept, moved * scale.exp() + shift], 1).flip(1)
        log_det = log_det + scale.sum(1)
    assert torch.equal(flow(eps, context)[0], x)
    assert torch.equal(flow(eps, context)[1], log_det)
