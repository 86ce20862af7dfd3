"""Losses: hand-computed numbers, identities, finite differences, closed forms."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.distributions import Bernoulli, Normal, kl_divergence

from aigc.models import fc_vae
from aigc.nn import losses
from aigc.nn.losses import OBJECTIVES
from aigc.rng import BatchRNG

REAL = torch.tensor([2.0, 0.5])
FAKE = torch.tensor([-1.0, 3.0])
SOFTPLUS = {x: math.log1p(math.exp(x)) for x in (-3.0, -2.5, -2.0, -1.0, -0.5, 1.0, 2.5, 3.0)}

MINIMAX = (SOFTPLUS[-2.0] + SOFTPLUS[-0.5]) / 2 + (SOFTPLUS[-1.0] + SOFTPLUS[3.0]) / 2
BY_HAND = {
    "minimax": (MINIMAX, -(SOFTPLUS[-1.0] + SOFTPLUS[3.0]) / 2),
    "non_saturating": (MINIMAX, (SOFTPLUS[1.0] + SOFTPLUS[-3.0]) / 2),
    "least_squares": (0.5 * (1 + 0.25) / 2 + 0.5 * (1 + 9) / 2, 0.5 * (4 + 4) / 2),
    "hinge": ((0 + 0.5) / 2 + (0 + 4) / 2, -(-1 + 3) / 2),
    "wasserstein": (1 - 1.25, -1.0),
    "relativistic": ((SOFTPLUS[-3.0] + SOFTPLUS[2.5]) / 2, (SOFTPLUS[3.0] + SOFTPLUS[-2.5]) / 2),
}


def generator_loss(name: str, fake: Tensor, real: Tensor) -> Tensor:
    objective = OBJECTIVES[name]
    return objective.generator(fake, real) if objective.paired else objective.generator(fake)


def random(*shape: int, seed: int = 0) -> Tensor:
    """Normal float64 numbers that finite differences can be taken at."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def test_every_objective_has_a_formula_here() -> None:
    assert BY_HAND.keys() == OBJECTIVES.keys()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective_equals_its_formula(name: str) -> None:
    discriminator, generator = BY_HAND[name]
    assert OBJECTIVES[name].discriminator(REAL, FAKE).item() == pytest.approx(discriminator)
    assert generator_loss(name, FAKE, REAL).item() == pytest.approx(generator)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective_and_gradient_are_finite_at_extreme_logits(name: str) -> None:
    logits = [torch.tensor([-100.0, 100.0, 0.0], requires_grad=True) for _ in range(2)]
    losses_ = [OBJECTIVES[name].discriminator(*logits), generator_loss(name, logits[1], logits[0])]
    for loss in losses_:
        assert loss.isfinite()
        gradients = torch.autograd.grad(loss, logits, allow_unused=True)
        assert all(g is None or g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective_gradient_equals_finite_differences(name: str) -> None:
    real, fake = random(5, seed=1), random(5, seed=2)
    assert gradcheck(OBJECTIVES[name].discriminator, (real, fake))
    assert gradcheck(lambda fake: generator_loss(name, fake, real.detach()), (fake,))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_generator_loss_falls_with_the_logits_of_fakes(name: str) -> None:
    fake = torch.tensor([-2.0, -0.5, 0.5], requires_grad=True)  # below the target of least squares
    (gradient,) = torch.autograd.grad(generator_loss(name, fake, torch.zeros(3)), fake)
    assert (gradient < 0).all()
    real = fake.detach().clone().requires_grad_()
    loss = OBJECTIVES[name].discriminator(real, torch.zeros(3))
    assert (torch.autograd.grad(loss, real)[0] < 0).all()


def test_minimax_is_binary_cross_entropy() -> None:
    labels = torch.cat([torch.ones(2), torch.zeros(2)])
    cross_entropy = F.binary_cross_entropy_with_logits(torch.cat([REAL, FAKE]), labels)
    assert torch.allclose(losses.minimax_discriminator(REAL, FAKE), 2 * cross_entropy)


def test_undecided_discriminator_loses_2_log_2() -> None:
    zero = torch.zeros(7)
    assert losses.minimax_discriminator(zero, zero).item() == pytest.approx(2 * math.log(2))


def test_goodfellows_generator_losses_sum_to_minus_the_mean_logit() -> None:
    total = losses.minimax_generator(FAKE) + losses.non_saturating_generator(FAKE)
    assert torch.allclose(total, -FAKE.mean())  # log(1 - p) - log p = -logit


def test_hinge_is_wasserstein_within_the_margin() -> None:
    real, fake = torch.rand(9) * 2 - 1, torch.rand(9) * 2 - 1
    assert torch.allclose(
        losses.hinge_discriminator(real, fake), 2 + losses.wasserstein_discriminator(real, fake)
    )
    assert losses.hinge_discriminator(real.abs() + 1, -fake.abs() - 1) == 0


@pytest.mark.parametrize("name", ["minimax", "hinge", "wasserstein"])
def test_swapping_real_and_fake_mirrors_the_logits(name: str) -> None:
    loss = OBJECTIVES[name].discriminator
    assert torch.allclose(loss(REAL, FAKE), loss(-FAKE, -REAL))


PENALTIES: list[tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor], Tensor]]] = [
    (losses.gradient_penalty, lambda norm: (norm - 1).square()),
    (losses.r1_penalty, lambda norm: 0.5 * norm.square()),
]


@pytest.mark.parametrize(("penalty", "of_norm"), PENALTIES)
def test_penalty_of_a_linear_discriminator_is_closed_form(
    penalty: Callable[[Tensor, Tensor], Tensor], of_norm: Callable[[Tensor], Tensor]
) -> None:
    w, x = random(12, seed=1), random(4, 3, 2, 2, seed=2)
    value = penalty(x.flatten(1) @ w + 3, x)
    assert torch.allclose(value, of_norm(w.norm()))
    (found,) = torch.autograd.grad(value, w)
    (expected,) = torch.autograd.grad(of_norm(w.norm()), w)
    assert torch.allclose(found, expected)


@pytest.mark.parametrize(("penalty", "of_norm"), PENALTIES)
def test_penalty_is_a_mean_over_samples(
    penalty: Callable[[Tensor, Tensor], Tensor], of_norm: Callable[[Tensor], Tensor]
) -> None:
    x = random(5, 3)
    value = penalty(0.5 * x.square().sum(1), x)  # whose gradient at x is x
    assert torch.allclose(value, of_norm(x.norm(dim=1)).mean())
    assert gradcheck(lambda x: penalty(0.5 * x.square().sum(1), x), (x,))


def test_gradient_penalty_is_finite_for_a_flat_discriminator() -> None:
    w, x = torch.zeros(3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    value = losses.gradient_penalty(x @ w, x)
    assert value.item() == pytest.approx(1, abs=1e-5)
    assert torch.autograd.grad(value, w)[0].isfinite().all()


def test_gaussian_kl_equals_torch_distributions() -> None:
    mu, logvar = random(6, 3, seed=1), random(6, 3, seed=2)
    posterior, prior = Normal(mu, (0.5 * logvar).exp()), Normal(torch.zeros(()), torch.ones(()))
    assert torch.allclose(losses.gaussian_kl(mu, logvar), kl_divergence(posterior, prior).sum(1))
    assert gradcheck(losses.gaussian_kl, (mu, logvar))


def test_gaussian_kl_is_zero_at_the_prior_only() -> None:
    zero = torch.zeros(2, 4)
    assert torch.equal(losses.gaussian_kl(zero, zero), torch.zeros(2))
    assert (losses.gaussian_kl(random(50, 1), random(50, 1, seed=1)) > 0).all()
    # ½(μ² + σ² - 1 - log σ²) at μ = 2, σ² = e
    value = losses.gaussian_kl(torch.tensor([[2.0]]), torch.tensor([[1.0]]))
    assert value.item() == pytest.approx(0.5 * (4 + math.e - 1 - 1))


def test_bernoulli_log_likelihood_equals_torch_distributions() -> None:
    logits, x = random(4, 1, 3, 3), torch.rand(4, 1, 3, 3, dtype=torch.float64).round()
    expected = Bernoulli(logits=logits).log_prob(x).flatten(1).sum(1)
    assert torch.allclose(losses.bernoulli_log_likelihood(logits, x), expected)
    assert gradcheck(lambda a: losses.bernoulli_log_likelihood(a, x), (logits,))


def test_bernoulli_log_likelihood_interpolates_grey_pixels() -> None:
    logits = random(5, 1)
    black, white, grey = (
        losses.bernoulli_log_likelihood(logits, torch.full_like(logits, v)) for v in (0, 1, 0.3)
    )
    assert torch.allclose(grey, 0.7 * black + 0.3 * white)


def test_bernoulli_log_likelihood_is_finite_at_extreme_logits() -> None:
    logits = torch.tensor([[-100.0, 100.0, -100.0, 100.0]], requires_grad=True)
    value = losses.bernoulli_log_likelihood(logits, torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    assert value.item() == pytest.approx(-200)
    assert torch.autograd.grad(value.sum(), logits)[0].isfinite().all()


def test_gaussian_log_likelihood_equals_torch_distributions() -> None:
    mean, x = random(4, 2, 3, seed=1), random(4, 2, 3, seed=2)
    expected = Normal(mean, 0.3).log_prob(x).flatten(1).sum(1)
    assert torch.allclose(losses.gaussian_log_likelihood(mean, x, 0.3), expected)
    assert gradcheck(lambda a, b: losses.gaussian_log_likelihood(a, b, 0.3), (mean, x))


def test_penalised_loss_passes_gradgradcheck() -> None:
    x, w = random(3, 2, seed=1), random(2, seed=2)

    def loss(w: Tensor) -> Tensor:
        return losses.gradient_penalty((x @ w).tanh(), x)

    assert gradcheck(loss, (w,))
    assert gradgradcheck(loss, (w,))


def elbo(**changes: Any) -> tuple[Tensor, dict[str, Tensor], fc_vae.Model, Tensor]:
    """Loss and metrics of a small VAE, the same weights, data and noise for every config."""
    torch.manual_seed(0)
    config = fc_vae.Config(shape=(1, 4, 4), latent=3, widths=(8,), **changes)
    model = fc_vae.Model(config).double()
    x = random(5, 1, 4, 4).detach().tanh()
    noise = BatchRNG(0, 0, 5, 0, 5, x)
    return *model.loss("elbo", {"image": x}, noise, None), model, x


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_vae_loss_holds_beta_times_kl(likelihood: str) -> None:
    (without, _, _, _), (with_, metrics, model, x) = (
        elbo(beta=beta, likelihood=likelihood) for beta in (0.0, 3.0)
    )
    kl = losses.gaussian_kl(*model.encode(x)).mean()
    assert kl > 0
    assert torch.allclose(with_ - without, 3 * kl)
    assert torch.allclose(metrics["kl"], kl)
    assert torch.allclose(metrics["elbo"], -(without + kl))


def test_vae_latent_is_reparameterised_noise() -> None:
    """z = μ + σ·ε: the reconstruction term equals the likelihood at exactly that z."""
    loss, _, model, x = elbo(beta=0.0)
    eps = BatchRNG(0, 0, 5, 0, 5, x).normal("posterior", 3)
    mu, logvar = model.encode(x)
    raw = model.decoder(mu + torch.sqrt(logvar.exp()) * eps, None)
    expected = Bernoulli(logits=raw, validate_args=False).log_prob((x + 1) / 2)
    assert torch.allclose(-loss, expected.flatten(1).sum(1).mean())
