"""Real NVP: an invertible map with a tractable density."""

import math

import torch
from torch import Tensor, nn

from aigc.config import require
from aigc.nn.layers import Activation, activation


class Flow(nn.Module):
    """Affine couplings, optionally given a context (Dinh et al. 2017, arXiv:1605.08803).

        y, log_det = flow(x, context)              # log |det dy/dx|
        x, log_det = flow.inverse(y, context)      # log |det dx/dy|
        flow.log_prob(x, context)                  # where flow(x) is standard normal

    x and y are (N, size), context (N, context) or None if its width is 0, log_det (N,). A flow
    starts as a permutation: the last layer of each coupling is 0. Between couplings the halves are
    swapped, which takes an even size, or with `mirrored` the order of all dimensions is reversed.
    """

    def __init__(
        self,
        size: int,
        context: int,
        layers: int,
        width: int,
        *,
        act: Activation = "relu",
        mirrored: bool = False,
    ) -> None:
        super().__init__()
        require(mirrored or size % 2 == 0, f"latent must be even, to be halved, got {size}")
        self.mirrored, self.sizes = mirrored, [size // 2, size - size // 2]
        kept, moved = self.sizes
        self.couplings = nn.ModuleList(
            nn.Sequential(
                nn.Linear(kept + context, width),
                activation(act),
                nn.Linear(width, width),
                activation(act),
                nn.Linear(width, 2 * moved),
            )
            for _ in range(layers)
        )
        for coupling in self.couplings:
            for parameter in list(coupling.parameters())[-2:]:
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """y and log |det dy/dx|."""
        log_det = torch.zeros_like(x[:, 0])
        for coupling in self.couplings:
            kept, moved = torch.split(x, self.sizes, 1)
            scale, shift = _affine(coupling, kept, context)
            moved = moved * scale.exp() + shift
            log_det = log_det + scale.sum(1)
            x = (
                torch.cat([kept, moved], 1).flip(1)
                if self.mirrored
                else torch.cat([moved, kept], 1)
            )
        return x, log_det

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x and log |det dx/dy|."""
        log_det = torch.zeros_like(y[:, 0])
        for coupling in reversed(self.couplings):
            if self.mirrored:
                kept, moved = torch.split(y.flip(1), self.sizes, 1)
            else:
                moved, kept = torch.split(y, self.sizes, 1)
            scale, shift = _affine(coupling, kept, context)
            y = torch.cat([kept, (moved - shift) * (-scale).exp()], 1)
            log_det = log_det - scale.sum(1)
        return y, log_det

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(N,) nats, of x whose image under the flow is standard normal."""
        y, log_det = self.forward(x, context)
        return log_det + standard_normal_log_prob(y)


def standard_normal_log_prob(x: Tensor) -> Tensor:
    """x: (N, D) -> (N,) nats."""
    return -0.5 * (x.square() + math.log(2 * math.pi)).sum(1)


def _affine(coupling: nn.Module, kept: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
    inputs = kept if context is None else torch.cat([kept, context], 1)
    scale, shift = coupling(inputs).chunk(2, 1)
    return 2 * torch.tanh(scale / 2), shift  # bounded: one step cannot send latents far away
