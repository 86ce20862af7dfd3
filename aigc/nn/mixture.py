"""A Gaussian mixture whose parameters are trained by gradient descent."""

import math

import torch
from torch import Tensor, nn

from aigc.nn.posteriors import LOG_VARIANCE_BOUND


class Mixture(nn.Module):
    """Gaussians of diagonal covariance; log_prob() is their density, forward() draws from it."""

    def __init__(self, size: int, components: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(torch.randn(components, size))
        self.logstds = nn.Parameter(torch.full((components, size), -0.5))

    def log_prob(self, x: Tensor) -> Tensor:
        """x: (N, size) -> (N,) nats."""
        scaled = (x[:, None] - self.means) * (-self.logstds).exp()
        log_probs = -0.5 * scaled.square().sum(2) - self.logstds.sum(1)
        log_probs = log_probs + self.logits.log_softmax(0)
        return log_probs.logsumexp(1) - 0.5 * math.log(2 * math.pi) * x.shape[1]

    def forward(self, eps: Tensor, component: Tensor) -> Tensor:
        """A draw (N, size) from standard normal eps (N, size) and uniform component (N, 1)."""
        ends = self.logits.softmax(0).cumsum(0)
        index = (ends[:-1] <= component).sum(1)  # without the last end: rounding moves it off 1
        stds = self.logstds.clamp(max=LOG_VARIANCE_BOUND).exp()
        return self.means[index] + eps * stds[index]
