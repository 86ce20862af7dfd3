"""Densities of latents: products of experts, mixtures and flows, to be learned like all else."""

import math

import torch
from torch import Tensor, nn

from aigc.layers import Dense

BOUND = 8.0
"""Log variances stay within it."""


def moments(raw: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 2 D) -> mean and log variance, each (N, D); the variance is bounded."""
    mu, logvar = raw.chunk(2, 1)
    return mu, BOUND * torch.tanh(logvar / BOUND)


def product(experts: list[tuple[Tensor, Tensor]], given: Tensor) -> tuple[Tensor, Tensor]:
    """Of a standard normal and the experts that are given: moments, each (N, D).

    given: (N, experts), 1 or 0 for each row. The precisions of Gaussians add up.
    """
    precision = torch.ones_like(experts[0][0])
    weighted = torch.zeros_like(precision)
    for k, (mu, logvar) in enumerate(experts):
        own = given[:, k : k + 1] * (-logvar).exp()
        precision, weighted = precision + own, weighted + own * mu
    return weighted / precision, -precision.log()


class Flow(nn.Module):
    """p(u | s) by affine couplings (Dinh et al. 2017, arXiv:1605.08803), both ways."""

    def __init__(self, size: int, given: int, layers: int, width: int) -> None:
        super().__init__()
        self.kept = size // 2
        self.couplings = nn.ModuleList(
            _coupling(self.kept + given, width, 2 * (size - self.kept)) for _ in range(layers)
        )

    def forward(self, eps: Tensor, s: Tensor) -> Tensor:
        """Noise (N, size) -> u."""
        for coupling in self.couplings:
            kept, moved = eps[:, : self.kept], eps[:, self.kept :]
            scale, shift = self._moments(coupling, kept, s)
            # Mirrored, so that the next coupling moves what this one kept.
            eps = torch.cat([kept, moved * scale.exp() + shift], 1).flip(1)
        return eps

    def log_prob(self, u: Tensor, s: Tensor) -> Tensor:
        """ln p(u | s): (N,) nats."""
        total = 0.5 * math.log(2 * math.pi) * -u.shape[1]
        logs = torch.zeros_like(u[:, 0])
        for coupling in reversed(self.couplings):
            u = u.flip(1)
            kept, moved = u[:, : self.kept], u[:, self.kept :]
            scale, shift = self._moments(coupling, kept, s)
            u = torch.cat([kept, (moved - shift) * (-scale).exp()], 1)
            logs = logs - scale.sum(1)
        return total + logs - 0.5 * u.square().sum(1)

    def _moments(self, coupling: nn.Module, kept: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift = coupling(torch.cat([kept, s], 1)).chunk(2, 1)
        return 2 * torch.tanh(scale / 2), shift


def _coupling(given: int, width: int, out: int) -> Dense:
    """Zeros at first, so that a flow begins as what it is given."""
    network = Dense(given, width, width, out)
    for parameter in list(network.parameters())[-2:]:
        nn.init.zeros_(parameter)
    return network


class Mixture(nn.Module):
    """A mixture of Gaussians of diagonal covariance."""

    def __init__(self, size: int, components: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(torch.randn(components, size))
        self.logstds = nn.Parameter(torch.full((components, size), -0.5))

    def log_prob(self, s: Tensor) -> Tensor:
        """s: (N, size) -> (N,) nats."""
        scaled = (s[:, None] - self.means) * (-self.logstds).exp()
        each = -0.5 * scaled.square().sum(2) - self.logstds.sum(1)
        each = each + self.logits.log_softmax(0)
        return each.logsumexp(1) - 0.5 * math.log(2 * math.pi) * s.shape[1]

    def forward(self, eps: Tensor, component: Tensor) -> Tensor:
        """eps: (N, size) standard normal, component: (N, 1) in [0, 1) that chooses -> (N, size)."""
        ends = self.logits.softmax(0).cumsum(0)
        chosen = (ends[:-1] <= component).sum(1)  # all but the last: sums end near 1, not at it
        return self.means[chosen] + eps * self.logstds.clamp(max=BOUND).exp()[chosen]
