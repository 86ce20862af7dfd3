"""Gaussian posteriors of VAEs: learned variance or fixed noise, products of experts, bounds.

A posterior turns the output of an encoder into moments, and likelihoods into the loss.
"""

from typing import Protocol

import torch
from torch import Tensor

from aigc.nn import losses
from aigc.rng import BatchRNG

HIGH_NOISE_SHARE = 0.7
"""Share of the rows of a batch to which FixedNoisePosterior adds noise of standard deviation
`blur`; the others get `clear`."""
MIN_LOG_VARIANCE = -7.0
"""Log variance of the narrowest posterior before a flow, a standard deviation of 0.03; that of the
widest is 0."""
LOG_VARIANCE_BOUND = 8.0
"""Largest absolute log variance of an expert."""


class Posterior(Protocol):
    """posterior = LearnedPosterior(16, floor=4.0, ramp=20_000)
    raw = encoder(x)                                        # (N, posterior.outputs)
    mu, logvar, s = posterior.training_moments(raw, noise)  # in training
    loss, metrics = posterior.objective(-log_p, mu, logvar, noise)
    mu, logvar = posterior.moments(raw)                     # once trained
    """

    outputs: int
    """Width of the encoder's output."""

    def moments(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of an encoded latent. raw: (N, outputs) -> (N, D) each."""

    def training_moments(
        self, raw: Tensor, noise: BatchRNG
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Mean and log variance (N, D) of a batch, and the noise level (N,) that the decoder gets;
        None if it gets no level."""

    def objective(
        self, nats: Tensor, mu: Tensor, logvar: Tensor, noise: BatchRNG
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss () and metrics, each (), from the rows' -log p(x | z) = nats: (N,)."""


class LearnedPosterior:
    """N(mu, σ²), both learned.

    Below `floor` nats a row's KL costs nothing more (free bits: Kingma et al. 2016,
    arXiv:1606.04934, over all dimensions at once), and its weight grows from 0 to 1 over `ramp`
    samples (Bowman et al. 2016, arXiv:1511.06349).
    """

    def __init__(self, latent: int, floor: float, ramp: int) -> None:
        self.outputs, self.floor, self.ramp = 2 * latent, floor, ramp

    def moments(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """See Posterior."""
        mu, logvar = raw.chunk(2, 1)
        return mu, logvar

    def training_moments(
        self, raw: Tensor, noise: BatchRNG
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """See Posterior."""
        return *self.moments(raw), None

    def objective(
        self, nats: Tensor, mu: Tensor, logvar: Tensor, noise: BatchRNG
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See Posterior."""
        kl = losses.gaussian_kl(mu, logvar)
        weight = min(1.0, noise.samples / self.ramp) if self.ramp else 1.0
        loss = (nats + weight * kl.clamp(min=self.floor)).mean()
        return loss, {"elbo": -(nats + kl).mean(), "kl": kl.mean()}


class FixedNoisePosterior:
    """Codes on a sphere in noise of a fixed strength: N(√(1 - s²) · code, s²) with |code|² = D.

    The KL from N(0, I) is -D · ln(s) nats in every row (a fixed KL as in Xu & Durrett 2018,
    arXiv:1808.10805), so it cannot vanish; training can only make use of it. At s = `blur` a latent
    carries little information and latents fill the prior: these are sampled. At s = `clear` it
    carries nearly all: rows are encoded and decoded there. One decoder, which gets s as an input,
    learns both (as all rates in Bae et al. 2022, arXiv:2212.03905).
    """

    def __init__(self, latent: int, blur: float, clear: float) -> None:
        self.outputs, self.blur, self.clear = latent, blur, clear

    def moments(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """See Posterior; at `clear`."""
        return _noisy_code(raw, torch.full_like(raw[:, 0], self.clear))

    def training_moments(
        self, raw: Tensor, noise: BatchRNG
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """See Posterior; the level is s."""
        s = torch.full_like(raw[:, 0], self.clear).masked_fill(_high_noise(noise), self.blur)
        return *_noisy_code(raw, s), s

    def objective(
        self, nats: Tensor, mu: Tensor, logvar: Tensor, noise: BatchRNG
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See Posterior. `elbo` and `kl` are means over the rows at `blur`; `information_gain` is
        the nats per row that latents at `clear` add over those at `blur`."""
        kl = losses.gaussian_kl(mu, logvar)
        high = _high_noise(noise).to(nats.dtype)
        high_mean, low_mean = (rows / rows.sum().clamp(min=1) for rows in (high, 1 - high))
        return (nats + kl).mean(), {
            "elbo": -(high_mean @ (nats + kl)),
            "kl": high_mean @ kl,
            "information_gain": (high_mean - low_mean) @ nats,
        }


def _noisy_code(raw: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    code = raw * torch.rsqrt(raw.square().mean(1, keepdim=True) + 1e-6)
    mu = (1 - s.square()).sqrt()[:, None] * code
    return mu, (2 * s.log())[:, None].expand_as(mu)


def _high_noise(noise: BatchRNG) -> Tensor:
    return noise.uniform("blurred") < HIGH_NOISE_SHARE


def product_of_experts(
    experts: list[tuple[Tensor, Tensor]], present: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and log variance (N, D) of the product of a standard normal and Gaussian experts.

    experts: mean and log variance of each, (N, D); present: (N, experts), 0 to leave one out.
    The precisions of Gaussians add up (Wu & Goodman 2018, arXiv:1802.05335).
    """
    precision = torch.ones_like(experts[0][0])
    weighted = torch.zeros_like(precision)
    for k, (mu, logvar) in enumerate(experts):
        own = present[:, k : k + 1] * (-logvar).exp()
        precision, weighted = precision + own, weighted + own * mu
    return weighted / precision, -precision.log()


def expert_moments(raw: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 2 D) -> mean and log variance, each (N, D), the latter in (-8, 8).

    Both ends are bounded, and around 0 the slope is 1: an expert may be wider than the prior, where
    bounded_log_variance() lets no posterior be.
    """
    mu, logvar = raw.chunk(2, 1)
    return mu, LOG_VARIANCE_BOUND * torch.tanh(logvar / LOG_VARIANCE_BOUND)


def bounded_log_variance(raw: Tensor, minimum: float = MIN_LOG_VARIANCE) -> Tensor:
    """Unbounded values -> log variances in [minimum, 0] of a posterior whose prior is a flow.

    The flow is learned with the posterior, so nothing else sets the scale of latents: without a
    bound they shrink until the flow cannot follow, and samples fall apart.
    """
    return minimum * (1 - torch.tanh(raw)) / 2
