"""A learned posterior pays for its KL by the rules; one of a given blur has the KL of its noise."""

import pytest
import torch

from aigc.losses import gaussian_kl
from aigc.noise import Noise
from aigc.posterior import BLURRED, NARROWEST, Blurred, Learned, bounded

MU = torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, -1.0]])
NATS = torch.tensor([5.0, 7.0, 6.0])
KL = torch.tensor([2.5, 0.0, 5.0])
"""Of MU and variance 1."""


def noise(rows: int, samples: int = 0) -> Noise:
    return Noise(1, samples, rows, 0, rows, MU)


@pytest.mark.parametrize(("samples", "share"), [(0, 0.0), (250, 0.25), (1000, 1.0), (5000, 1.0)])
def test_the_kl_term_grows_with_the_samples_seen(samples: int, share: float) -> None:
    loss, found = Learned(2, 0.0, 1000).objective(NATS, MU, torch.zeros(3, 2), noise(3, samples))
    assert loss == pytest.approx(6 + share * KL.mean())
    assert found["elbo"] == pytest.approx(-6 - KL.mean())  # what is reported stays a bound
    assert found["kl"] == pytest.approx(KL.mean())


def test_below_the_floor_the_kl_term_of_a_row_costs_nothing_more() -> None:
    loss, found = Learned(2, 3.0, 0).objective(NATS, MU, torch.zeros(3, 2), noise(3))
    assert loss == pytest.approx(6 + (3 + 3 + 5) / 3)
    assert found["elbo"] == pytest.approx(-6 - KL.mean())


def test_a_learned_posterior_is_what_the_encoder_gives() -> None:
    raw = torch.arange(8.0).reshape(2, 4)
    posterior = Learned(2, 0.0, 0)
    assert posterior.outputs == 4
    mu, logvar, told = posterior.drawn_from(raw, noise(2))
    assert torch.equal(torch.cat([mu, logvar], 1), raw)
    assert told is None


def test_a_given_blur_fixes_the_kl_of_every_row() -> None:
    torch.manual_seed(0)
    posterior, raw, drawn = Blurred(3, 0.8, 0.2), 9 * torch.randn(400, 3), noise(400)
    mu, logvar, s = posterior.drawn_from(raw, drawn)
    assert s is not None
    assert sorted(set(s.tolist())) == pytest.approx([0.2, 0.8])
    assert float((s > 0.5).float().mean()) == pytest.approx(BLURRED, abs=0.07)
    assert torch.allclose(mu.square().sum(1), 3 * (1 - s.square()), rtol=1e-4)
    assert torch.allclose(gaussian_kl(mu, logvar), -3 * s.log(), atol=1e-3)
    clear = posterior.moments(raw)
    assert torch.equal(clear[0][s < 0.5], mu[s < 0.5])
    assert torch.allclose(clear[1].exp(), torch.tensor(0.04))


def test_figures_of_blurred_rows_are_kept_apart_from_those_of_clear_ones() -> None:
    drawn = noise(6)
    blurred = drawn.uniform("blurred") < BLURRED
    assert 0 < blurred.sum() < 6
    nats, mu = torch.arange(1.0, 7), torch.ones(6, 3)
    loss, found = Blurred(3, 0.8, 0.2).objective(nats, mu, torch.zeros_like(mu), drawn)
    assert loss == pytest.approx(nats.mean() + 1.5)  # a KL of 3 · 1² / 2
    assert found["elbo"] == pytest.approx(-nats[blurred].mean() - 1.5)
    assert found["kl"] == pytest.approx(1.5)
    assert found["told"] == pytest.approx(nats[blurred].mean() - nats[~blurred].mean())


def test_a_posterior_is_never_narrower_than_what_a_prior_can_follow() -> None:
    found = bounded(torch.tensor([-1e4, -1.0, 0.0, 1.0, 1e4]))
    assert found.tolist() == sorted(found.tolist())
    assert found[0] == NARROWEST
    assert found[-1] == 0
