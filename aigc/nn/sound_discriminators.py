"""Discriminators of sounds at several periods and resolutions, for vocoders and codecs."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from aigc.nn.full_precision import widened
from aigc.nn.log_mel import Framing

SLOPE = 0.1
Maps = list[list[Tensor]]
"""Maps of each layer of each discriminator, the logits last."""


class PeriodDiscriminator(nn.Module):
    """A sound folded at a period, convolved along time (Kong et al. 2020, arXiv:2010.05646, 2.3).

    (N, 1, T) -> maps of every layer, the last of them logits (N, 1, h, period).
    """

    def __init__(self, period: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.period = period
        sizes = [1, *widths]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(a, b, (5, 1), (3, 1), (2, 0)))
            for a, b in itertools.pairwise(sizes)
        )
        self.last = weight_norm(nn.Conv2d(sizes[-1], 1, (3, 1), 1, (1, 0)))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.pad(x, (0, -x.shape[2] % self.period), "reflect")
        h = x.reshape(len(x), 1, -1, self.period)
        return _maps(self.layers, self.last, h)


class ResolutionDiscriminator(nn.Module):
    """A magnitude spectrogram, convolved over frequency and time (Jang et al. 2021,
    arXiv:2106.07889, 3.2).

    (N, 1, T) with T a multiple of a quarter of the window -> maps of every layer, the last of them
    logits (N, 1, t, bins).
    """

    window: Tensor

    def __init__(self, window: int, width: int) -> None:
        super().__init__()
        self.framing = Framing(window=window, hop=window // 4)
        hann = self.framing.hann().to(torch.get_default_dtype())
        self.register_buffer("window", hann, persistent=False)
        places = [((3, 9), (1, 1)), ((3, 9), (1, 2)), ((3, 9), (1, 2)), ((3, 3), (1, 1))]
        sizes = [1, *[width] * len(places)]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(a, b, kernel, stride, (kernel[0] // 2, kernel[1] // 2)))
            for a, b, (kernel, stride) in zip(sizes, sizes[1:], places, strict=False)
        )
        self.last = weight_norm(nn.Conv2d(width, 1, 3, 1, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        frames = self.framing.frames(x) * self.window.to(x.dtype)
        spectra = torch.fft.rfft(widened(frames), dim=2) * (4 / self.framing.window)
        h = spectra.abs().to(x.dtype)[:, None]
        return _maps(self.layers, self.last, h)


class SoundDiscriminator(nn.Module):
    """All of them: (N, 1, T) -> for each its maps, the logits last."""

    def __init__(
        self,
        periods: Sequence[int],
        period_widths: Sequence[int],
        windows: Sequence[int],
        window_width: int,
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            [
                *(PeriodDiscriminator(period, period_widths) for period in periods),
                *(ResolutionDiscriminator(window, window_width) for window in windows),
            ]
        )

    def forward(self, x: Tensor) -> Maps:
        return [part(x) for part in self.parts]


def least_squares(made: Maps, real: Maps) -> Tensor:
    """The discriminators' loss, the mean over them of E[(D(x) - 1)^2] + E[D(G)^2] (Mao et al. 2017,
    arXiv:1611.04076, eq. 9)."""
    each = [
        (r[-1] - 1).square().mean() + m[-1].square().mean() for m, r in zip(made, real, strict=True)
    ]
    return torch.stack(each).mean()


def judgement(made: Maps) -> Tensor:
    """The generator's: the mean over discriminators of E[(D(G) - 1)^2]."""
    return torch.stack([(maps[-1] - 1).square().mean() for maps in made]).mean()


def feature_distance(made: Maps, real: Maps) -> Tensor:
    """Mean absolute difference of the maps, the mean over layers and discriminators (Kumar et al.
    2019, arXiv:1910.06711, eq. 4)."""
    pairs = [
        (m, r) for a, b in zip(made, real, strict=True) for m, r in zip(a[:-1], b[:-1], strict=True)
    ]
    return torch.stack([(m - r.detach()).abs().mean() for m, r in pairs]).mean()


def _maps(layers: nn.ModuleList, last: nn.Module, h: Tensor) -> list[Tensor]:
    found = []
    for layer in layers:
        h = F.leaky_relu(layer(h), SLOPE)
        found.append(h)
    return [*found, last(h)]
