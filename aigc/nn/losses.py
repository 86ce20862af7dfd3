"""Pure loss functions: adversarial objectives, penalties, KL divergence, likelihoods.

Logits are (N,) and unbounded, losses () and minimised, all in the dtype of their arguments.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def minimax_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """-E[log σ(D(x))] - E[log(1 - σ(D(G(z))))]  (Goodfellow et al. 2014, eq. 1)."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def minimax_generator(fake: Tensor) -> Tensor:
    """E[log(1 - σ(D(G(z))))]  (Goodfellow et al. 2014, eq. 1). Saturates while D wins."""
    return -F.softplus(fake).mean()


def non_saturating_generator(fake: Tensor) -> Tensor:
    """-E[log σ(D(G(z)))]  (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake).mean()


def least_squares_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """½E[(D(x) - 1)²] + ½E[D(G(z))²]  (Mao et al. 2017, arXiv:1611.04076, eq. 9)."""
    return 0.5 * (real - 1).square().mean() + 0.5 * fake.square().mean()


def least_squares_generator(fake: Tensor) -> Tensor:
    """½E[(D(G(z)) - 1)²]  (Mao et al. 2017, arXiv:1611.04076, eq. 9)."""
    return 0.5 * (fake - 1).square().mean()


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))]  (Lim & Ye 2017, arXiv:1705.02894)."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def wasserstein_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """E[D(G(z))] - E[D(x)]  (Arjovsky et al. 2017, arXiv:1701.07875)."""
    return fake.mean() - real.mean()


def no_loss(module: nn.Module) -> Tensor:
    """() 0, with a gradient of 0 for each parameter: of a phase before its turn."""
    return 0.0 * torch.stack([each.sum() for each in module.parameters()]).sum()


def wasserstein_generator(fake: Tensor) -> Tensor:
    """-E[D(G(z))]  (Arjovsky et al. 2017, arXiv:1701.07875); the hinge objective's as well."""
    return -fake.mean()


def relativistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """E[-log σ(D(x) - D(G(z)))], each real row paired with the fake one beside it.

    Jolicoeur-Martineau 2018, arXiv:1807.00734; paired as in Huang et al. 2024 ("R3GAN"),
    arXiv:2501.05441, eq. 2. Rows of a class-conditional batch are of the same class.
    """
    return F.softplus(fake - real).mean()


def relativistic_generator(fake: Tensor, real: Tensor) -> Tensor:
    """E[-log σ(D(G(z)) - D(x))]  (Huang et al. 2024, arXiv:2501.05441, eq. 2)."""
    return F.softplus(real - fake).mean()


@dataclass(frozen=True)
class Objective:
    """The two sides of an adversarial game."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    """Loss from the logits of real and fake."""
    generator: Callable[..., Tensor]
    """Loss from the logits of fake, and of real if `paired`."""
    paired: bool = False


OBJECTIVES = {
    "minimax": Objective(minimax_discriminator, minimax_generator),
    "non_saturating": Objective(minimax_discriminator, non_saturating_generator),
    "least_squares": Objective(least_squares_discriminator, least_squares_generator),
    "hinge": Objective(hinge_discriminator, wasserstein_generator),
    "wasserstein": Objective(wasserstein_discriminator, wasserstein_generator),
    "relativistic": Objective(relativistic_discriminator, relativistic_generator, paired=True),
}


def gradient_penalty(logits: Tensor, x: Tensor) -> Tensor:
    """E[(‖∇ₓD(x)‖₂ - 1)²] at mixtures of real and fake  (Gulrajani et al. 2017, arXiv:1704.00028).

    logits: (N,), computed from x: (N, ...), which requires a gradient.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    # The gradient of the root is infinite at 0; 1e-12 keeps it finite, below float32's resolution.
    norm = (gradient.flatten(1).square().sum(1) + 1e-12).sqrt()
    return (norm - 1).square().mean()


def r1_penalty(logits: Tensor, x: Tensor) -> Tensor:
    """½E[‖∇ₓD(x)‖²] at real x, or R2 at fake x  (Mescheder et al. 2018, arXiv:1801.04406, eq. 9 and
    10).

    logits: (N,), computed from x: (N, ...), which requires a gradient.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return 0.5 * gradient.flatten(1).square().sum(1).mean()


def gaussian_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, I)) = ½Σ(μ² + σ² - 1 - log σ²)  (Kingma & Welling 2014, appendix B).

    mu, logvar: (N, D) -> (N,) nats.
    """
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(1)


def bernoulli_log_likelihood(logits: Tensor, x: Tensor) -> Tensor:
    """Σ x log p + (1 - x) log(1 - p) with p = σ(logits)  (Kingma & Welling 2014, appendix C.1).

    logits: (N, ...), x: (N, ...) in [0, 1] -> (N,) nats.
    """
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)


def gaussian_log_likelihood(mean: Tensor, x: Tensor, std: float) -> Tensor:
    """Σ log N(x; mean, std²). mean, x: (N, ...) -> (N,) nats."""
    constant = math.log(std) + 0.5 * math.log(2 * math.pi)
    return -(0.5 * ((x - mean) / std).square() + constant).flatten(1).sum(1)
