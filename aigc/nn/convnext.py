"""ConvNeXt blocks over time (Liu et al. 2022, arXiv:2201.03545; over sounds: Siuzdak 2023,
arXiv:2306.00814, section 3.3)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TimeConv(nn.Conv1d):
    """Convolution over (N, channels, t) that keeps t: it sees as far ahead as behind, or with
    `causal` behind alone."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int, *, causal: bool = False, groups: int = 1
    ) -> None:
        super().__init__(c_in, c_out, kernel, groups=groups)
        behind = kernel - 1 if causal else (kernel - 1) // 2
        self.around = (behind, kernel - 1 - behind)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.around))


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of (N, channels, t), each place by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class ConvNeXtBlock(nn.Module):
    """x + scale * (a convolution of each channel, then two dense layers at each place).

    (N, width, t) -> the same shape.
    """

    def __init__(self, width: int, hidden: int, kernel: int, scale: float, causal: bool) -> None:
        super().__init__()
        self.across = TimeConv(width, width, kernel, causal=causal, groups=width)
        self.norm = nn.LayerNorm(width)
        self.dense = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.scale = nn.Parameter(torch.full((width,), scale))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.across(x).transpose(1, 2))
        return x + (self.scale * self.dense(h)).transpose(1, 2)  # type: ignore[no-any-return]


class ConvNeXt(nn.Module):
    """(N, c_in, t) -> (N, width, t): an embedding, blocks, and a normalisation after each end."""

    def __init__(
        self, c_in: int, width: int, hidden: int, blocks: int, *, kernel: int = 7, causal: bool
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            TimeConv(c_in, width, kernel, causal=causal),
            ChannelNorm(width, eps=1e-6),
            *(ConvNeXtBlock(width, hidden, kernel, 1 / blocks, causal) for _ in range(blocks)),
            ChannelNorm(width, eps=1e-6),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]
