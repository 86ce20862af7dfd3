"""Posteriors: objectives, the KL of fixed noise, products of experts, bounds of log variances."""

import pytest
import torch

from aigc.nn.losses import gaussian_kl
from aigc.nn.posteriors import (
    HIGH_NOISE_SHARE,
    MIN_LOG_VARIANCE,
    FixedNoisePosterior,
    LearnedPosterior,
    bounded_log_variance,
    expert_moments,
    product_of_experts,
)
from aigc.rng import BatchRNG

MU = torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, -1.0]])
NATS = torch.tensor([5.0, 7.0, 6.0])
KL = torch.tensor([2.5, 0.0, 5.0])
"""KL of MU at variance 1."""


def noise(rows: int, samples: int = 0) -> BatchRNG:
    return BatchRNG(1, samples, rows, 0, rows, MU)


@pytest.mark.parametrize(("samples", "share"), [(0, 0.0), (250, 0.25), (1000, 1.0), (5000, 1.0)])
def test_kl_weight_is_ramped(samples: int, share: float) -> None:
    loss, metrics = LearnedPosterior(2, 0.0, 1000).objective(
        NATS, MU, torch.zeros(3, 2), noise(3, samples)
    )
    assert loss == pytest.approx(6 + share * KL.mean())
    assert metrics["elbo"] == pytest.approx(-6 - KL.mean())  # what is reported stays a bound
    assert metrics["kl"] == pytest.approx(KL.mean())


def test_free_bits_floor_the_kl_of_each_row() -> None:
    loss, metrics = LearnedPosterior(2, 3.0, 0).objective(NATS, MU, torch.zeros(3, 2), noise(3))
    assert loss == pytest.approx(6 + (3 + 3 + 5) / 3)
    assert metrics["elbo"] == pytest.approx(-6 - KL.mean())


def test_learned_posterior_takes_moments_from_the_encoder() -> None:
    raw = torch.arange(8.0).reshape(2, 4)
    posterior = LearnedPosterior(2, 0.0, 0)
    assert posterior.outputs == 4
    mu, logvar, level = posterior.training_moments(raw, noise(2))
    assert torch.equal(torch.cat([mu, logvar], 1), raw)
    assert level is None


def test_fixed_noise_fixes_the_kl_of_every_row() -> None:
    torch.manual_seed(0)
    posterior, raw, drawn = FixedNoisePosterior(3, 0.8, 0.2), 9 * torch.randn(400, 3), noise(400)
    mu, logvar, s = posterior.training_moments(raw, drawn)
    assert sorted(set(s.tolist())) == pytest.approx([0.2, 0.8])
    assert float((s > 0.5).float().mean()) == pytest.approx(HIGH_NOISE_SHARE, abs=0.07)
    assert torch.allclose(mu.square().sum(1), 3 * (1 - s.square()), rtol=1e-4)
    assert torch.allclose(gaussian_kl(mu, logvar), -3 * s.log(), atol=1e-3)
    clear = posterior.moments(raw)
    assert torch.equal(clear[0][s < 0.5], mu[s < 0.5])
    assert torch.allclose(clear[1].exp(), torch.tensor(0.04))


def test_metrics_separate_rows_by_noise_level() -> None:
    drawn = noise(6)
    high = drawn.uniform("blurred") < HIGH_NOISE_SHARE
    assert 0 < high.sum() < 6
    nats, mu = torch.arange(1.0, 7), torch.ones(6, 3)
    posterior = FixedNoisePosterior(3, 0.8, 0.2)
    loss, metrics = posterior.objective(nats, mu, torch.zeros_like(mu), drawn)
    assert loss == pytest.approx(nats.mean() + 1.5)  # a KL of 3 · 1² / 2
    assert metrics["elbo"] == pytest.approx(-nats[high].mean() - 1.5)
    assert metrics["kl"] == pytest.approx(1.5)
    expected = nats[high].mean() - nats[~high].mean()
    assert metrics["information_gain"] == pytest.approx(expected)


def test_product_log_density_is_the_sum_of_experts_up_to_a_constant() -> None:
    torch.manual_seed(0)
    experts = [(torch.randn(2, 3).double(), torch.randn(2, 3).double()) for _ in range(3)]
    present = torch.tensor([[1.0, 0, 1], [0, 0, 0]]).double()
    mu, logvar = product_of_experts(experts, present)
    assert torch.equal(mu[1], torch.zeros(3).double())
    assert torch.equal(logvar[1], torch.zeros(3).double())
    points = torch.randn(7, 3).double()
    log_prob = torch.distributions.Normal(mu[0], (0.5 * logvar[0]).exp()).log_prob(points)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(points)
    for k in (0, 2):
        m, v = experts[k]
        expected = expected + torch.distributions.Normal(m[0], (0.5 * v[0]).exp()).log_prob(points)
    difference = log_prob - expected
    assert torch.allclose(difference, difference[:1].expand_as(difference))


def test_log_variances_are_bounded() -> None:
    raw = torch.tensor([-1e4, -1.0, 0.0, 1.0, 1e4])
    logvar = bounded_log_variance(raw)
    assert logvar.tolist() == sorted(logvar.tolist())
    assert logvar[0] == MIN_LOG_VARIANCE
    assert logvar[-1] == 0
    mu, logvar = expert_moments(torch.cat([raw, raw])[None])
    assert torch.equal(mu[0], raw)
    assert logvar[0, [0, 2, 4]].tolist() == [-8, 0, 8]
