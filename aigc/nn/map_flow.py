"""Real NVP over maps of vectors, of any height and width: the prior of latents that are maps."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aigc.config import ModelConfig, OptimizerConfig, check_turn, require, require_values
from aigc.config.schedule import Scheduled, values
from aigc.nn.flows import standard_normal_log_prob
from aigc.nn.full_precision import full_precision
from aigc.nn.losses import no_loss

STRIDE = 8
"""Stride of the coarsest grid."""
HALVINGS = 6
"""Halvings of the set of places from all of them to the coarsest grid."""
DILATIONS = (1, 2)
"""Dilations of a coupling's residual blocks, in strides of the grid that it makes."""


@dataclass(frozen=True, kw_only=True)
class MapPriorConfig(ModelConfig):
    """Fields of a model that fits a MapFlow to its latents and draws samples by it."""

    prior_weight: Scheduled = 0.0
    """Weight of the negative log density of the latents by a flow, of which `sample` draws, such as
    '0:0 50%:1:step' for the second half of the run; bottlenecks kl and none only. No gradient of it
    reaches encoder or decoder. 0 all the time builds none, and `sample` draws places apart."""
    prior_width: int = 64
    """Channels of the couplings' networks."""
    prior_optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            name="adamw",
            learning_rate="0:1e-3 100%:0:cosine",
            betas=(0.9, 0.99),
            clip_norm=1.0,
        )
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_values("prior_weight", self.prior_weight, 0)
        require(self.prior_width > 0, f"prior_width must be > 0, got {self.prior_width}")
        if self.has_prior:
            check_turn("prior_weight", self.prior_weight, self.prior_optimizer)

    def without_effect(self) -> dict[str, str]:
        """See ModelConfig.without_effect."""
        found = super().without_effect()
        if not self.has_prior:
            found |= dict.fromkeys(("prior_width", "prior_optimizer"), "prior_weight is 0")
        return found

    @property
    def has_prior(self) -> bool:
        """True if a prior is trained, at least for a part of the run."""
        return max(values(self.prior_weight)) > 0


class MapFlow(nn.Module):
    """Affine couplings of convolutional networks (Dinh et al. 2017, arXiv:1605.08803, 3.4).

        y, log_det = flow(x)        # log |det dy/dx|
        x = flow.inverse(y)
        flow.log_prob(x)            # where flow(x) is standard normal

    x and y are (N, channels, h, w), log_det (N,). inverse() makes a map from coarse to fine, as
    Reed et al. 2017, arXiv:1703.03664, section 3.1: first the places of a grid of stride 8, which
    has the place (4, 4), then in turn those at the middles of squares of four, and those between.
    Each of these sets follows from all that were made before it, in two couplings: half of the
    channels, and the others by these. A flow starts as the identity: the last layer of each
    coupling is 0. forward() computes in the precision of x, also under autocast.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(
            _Coupling(channels, width, 1 << (i // 4)) for i in range(2 * (HALVINGS + 1))
        )
        first = torch.arange(channels) < (channels + 1) // 2
        self.register_buffer("first", first.float()[:, None, None], persistent=False)
        self.first: Tensor

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y and log |det dy/dx|."""
        log_det = torch.zeros_like(x[:, 0, 0, 0])
        with full_precision(x):
            for i, coupling in enumerate(self.couplings):
                scale, shift = coupling(x, *self._masks(i, x))
                x = x * scale.exp() + shift
                log_det = log_det + scale.sum((1, 2, 3))
        return x, log_det

    def inverse(self, y: Tensor) -> Tensor:
        """The x of which forward() makes y."""
        for i, coupling in reversed(list(enumerate(self.couplings))):
            scale, shift = coupling(y, *self._masks(i, y))
            y = (y - shift) * (-scale).exp()
        return y

    def log_prob(self, x: Tensor) -> Tensor:
        """(N,) nats, of x whose image under the flow is standard normal."""
        y, log_det = self(x)
        return log_det + standard_normal_log_prob(y.flatten(1))  # type: ignore[no-any-return]

    def loss(self, x: Tensor, weight: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Negative log density of x in nats per number, times `weight`, and `nats`, without it.

        Independent standard normal numbers have 1.42 nats. At weight 0, before the flow's time,
        loss and gradients are 0.
        """
        if weight == 0:
            return no_loss(self), {}
        nats = -self.log_prob(x).mean() / x[0].numel()
        return weight * nats, {"nats": nats.detach()}

    def _masks(self, i: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """1 where coupling i is given x, and where it moves x: each (channels, h, w)."""
        coarse, fine = (_grid(halvings, x) for halvings in (i // 2 + 1, i // 2))
        new = fine - coarse
        if i % 2:
            return coarse.expand_as(x[0]), self.first * new
        return coarse + self.first * new, (1 - self.first) * new


class _Coupling(nn.Module):
    """Log scale and shift of what is moved by what is given; 0 where nothing is moved."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = _conv(channels, width, stride)
        self.blocks = nn.ModuleList(_conv(width, width, stride * far) for far in DILATIONS)
        self.last = nn.Conv2d(width, 2 * channels, 1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, given: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
        features = self.first(x * given)
        for block in self.blocks:
            features = features + block(F.silu(features))
        scale, shift = self.last(F.silu(features)).chunk(2, 1)
        # Bounded: one coupling cannot send latents far away.
        return 2 * torch.tanh(scale / 2) * moved, shift * moved


def _conv(c_in: int, c_out: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, padding=dilation, dilation=dilation)


def _grid(halvings: int, x: Tensor) -> Tensor:
    """(h, w): 1 at places that are left after every second of them is left out so many times."""
    if halvings > HALVINGS:
        return torch.zeros_like(x[0, 0])
    stride = 1 << (halvings // 2)
    rows, columns = (torch.arange(size, device=x.device) + STRIDE // 2 for size in x.shape[2:])
    left = (rows % stride == 0)[:, None] & (columns % stride == 0)
    if halvings % 2:
        left = left & ((rows // stride)[:, None] % 2 == columns // stride % 2)
    return left.to(x.dtype)
