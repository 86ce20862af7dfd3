"""What the posterior of a VAE may be: of a learned variance, or codes in noise of a given strength.

A posterior makes moments of what an encoder gives, and the loss of the likelihoods that come of it.
"""

from typing import Protocol

import torch
from torch import Tensor

from aigc import losses
from aigc.noise import Noise

BLURRED = 0.7
"""Share of the rows of a batch that Blurred puts at `blur`; the others are at `clear`."""
NARROWEST = -7.0
"""Log variance of the narrowest posterior before a flow, a standard deviation of 0.03; the widest,
1."""


class Posterior(Protocol):
    """posterior = Learned(16, floor=4.0, ramp=20_000)
    raw = encoder(x)                                    # (N, posterior.outputs)
    mu, logvar, s = posterior.drawn_from(raw, noise)    # in training
    loss, metrics = posterior.objective(-log_p, mu, logvar, noise)
    mu, logvar = posterior.moments(raw)                 # once trained
    """

    outputs: int
    """Width of what the encoder gives."""

    def moments(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """raw: (N, outputs) -> mu and log variance that a latent is encoded to, each (N, D)."""

    def drawn_from(self, raw: Tensor, noise: Noise) -> tuple[Tensor, Tensor, Tensor | None]:
        """mu and log variance of a batch, each (N, D), and what the decoder is told of them: (N,)
        or nothing."""

    def objective(
        self, nats: Tensor, mu: Tensor, logvar: Tensor, noise: Noise
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss () and metrics, each (), of rows of -log p(x | z) = nats: (N,)."""


class Learned:
    """N(mu, σ²), both learned; below `floor` nats a row's KL costs nothing more (free bits: Kingma
    et al. 2016, arXiv:1606.04934, over all dimensions at once), and its weight grows from 0 to 1
    over `ramp` samples (Bowman et al. 2016, arXiv:1511.06349).
    """

    def __init__(self, latent: int, floor: float, ramp: int) -> None:
        self.outputs, self.floor, self.ramp = 2 * latent, floor, ramp

    def moments(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """See Posterior."""
        mu, logvar = raw.chunk(2, 1)
        return mu, logvar

    def drawn_from(self, raw: Tensor, noise: Noise) -> tuple[Tensor, Tensor, Tensor | None]:
        """See Posterior."""
        return *self.moments(raw), None

    def objective(
        self, nats: Tensor, mu: Tensor, logvar: Tensor, noise: Noise
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See Posterior."""
        kl = losses.gaussian_kl(mu, logvar)
        weight = min(1.0, noise.samples / self.ramp) if self.ramp else 1.0
        loss = (nats + weight * kl.clamp(min=self.floor)).mean()
        return loss, {"elbo": -(nats + kl).mean(), "kl": kl.mean()}


class Blurred:
    """Codes on a sphere in noise of a given strength: N(√(1 - s²) · code, s²) with |code|² = D.

    The KL from N(0, I) is -D · ln(s) nats in every row (a fixed KL as in Xu & Durrett 2018,
    arXiv:1808.10805), so it cannot vanish; all that training can do is to use it. At s = `blur`
    little is known of a row, and blurred codes fill the prior: that is what is sampled. At s =
    `clear` nearly all is known: that is what is encoded and decoded. One decoder, which is told s,
    learns both (as all rates in Bae et al. 2022, arXiv:2212.03905).
    """

    def __init__(self, latent: int, blur: float, clear: float) -> None:
        self.outputs, self.blur, self.clear = latent, blur, clear

    def moments(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """See Posterior; at `clear`."""
        return _in_noise(raw, torch.full_like(raw[:, 0], self.clear))

    def drawn_from(self, raw: Tensor, noise: Noise) -> tuple[Tensor, Tensor, Tensor | None]:
        """See Posterior; the decoder is told s."""
        s = torch.full_like(raw[:, 0], self.clear).masked_fill(_at_blur(noise), self.blur)
        return *_in_noise(raw, s), s

    def objective(
        self, nats: Tensor, mu: Tensor, logvar: Tensor, noise: Noise
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See Posterior. `elbo` and `kl` are those of blurred rows, `told` is what clear latents
        tell of a row beyond what blurred ones do, in nats."""
        kl = losses.gaussian_kl(mu, logvar)
        at_blur = _at_blur(noise).to(nats.dtype)
        blurred, clear = (rows / rows.sum().clamp(min=1) for rows in (at_blur, 1 - at_blur))
        return (nats + kl).mean(), {
            "elbo": -(blurred @ (nats + kl)),
            "kl": blurred @ kl,
            "told": (blurred - clear) @ nats,
        }


def _in_noise(raw: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    code = raw * torch.rsqrt(raw.square().mean(1, keepdim=True) + 1e-6)
    mu = (1 - s.square()).sqrt()[:, None] * code
    return mu, (2 * s.log())[:, None].expand_as(mu)


def _at_blur(noise: Noise) -> Tensor:
    return noise.uniform("blurred") < BLURRED


def bounded(raw: Tensor, narrowest: float = NARROWEST) -> Tensor:
    """Raw log variances -> those of a posterior whose prior is a flow that is learned with it.

    Nothing else says then how large latents are: without a bound they are shrunk until the flow
    cannot follow, and samples fall apart.
    """
    return narrowest * (1 - torch.tanh(raw)) / 2
