"""A density that can be sampled: normal noise, bent until it is where a model's latents are."""

import math

import torch
from torch import Tensor, nn

from aigc.config import require
from aigc.layers import condition


class Flow(nn.Module):
    """Affine couplings given a class (Dinh et al. 2017, "Real NVP", arXiv:1605.08803).

    z = flow(noise, label); log p(z | label) = flow.log_prob(z, label)

    As the prior of a VAE it is learned with it (Chen et al. 2017, arXiv:1611.02731): samples then
    come from where the encoder puts data, not from a sphere that it cannot fill.
    """

    def __init__(self, latent: int, num_classes: int, couplings: int, hidden: int) -> None:
        super().__init__()
        require(latent % 2 == 0, f"latent must be even, to be halved, got {latent}")
        self.num_classes = num_classes
        self.couplings = nn.ModuleList(
            nn.Sequential(
                nn.Linear(latent // 2 + num_classes, hidden),
                nn.ReLU(),
                nn.Linear(hidden, hidden),
                nn.ReLU(),
                nn.Linear(hidden, latent),
            )
            for _ in range(couplings)
        )
        for coupling in self.couplings:
            nn.init.zeros_(coupling[-1].weight)  # type: ignore[index]
            nn.init.zeros_(coupling[-1].bias)  # type: ignore[index]

    def log_prob(self, z: Tensor, label: Tensor | None) -> Tensor:
        """z: (N, latent), label: (N,) -> (N,) nats."""
        log_scale = torch.zeros_like(z[:, 0])
        for coupling in self.couplings:
            kept, moved = z.chunk(2, 1)
            scale, shift = self._affine(coupling, kept, label)
            z = torch.cat([moved * scale.exp() + shift, kept], 1)
            log_scale = log_scale + scale.sum(1)
        return log_scale - 0.5 * (z.square() + math.log(2 * math.pi)).sum(1)

    def forward(self, noise: Tensor, label: Tensor | None) -> Tensor:
        """Standard normal (N, latent) -> z (N, latent)."""
        z = noise
        for coupling in reversed(self.couplings):
            moved, kept = z.chunk(2, 1)
            scale, shift = self._affine(coupling, kept, label)
            z = torch.cat([kept, (moved - shift) * (-scale).exp()], 1)
        return z

    def _affine(
        self, coupling: nn.Module, kept: Tensor, label: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        scale, shift = coupling(condition(kept, label, self.num_classes)).chunk(2, 1)
        return 2 * torch.tanh(scale / 2), shift  # bounded: a step cannot fling latents away
