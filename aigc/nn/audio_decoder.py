"""Decoder from a vector to the sound of a voice, and its likelihood.

The decoder outputs an envelope, a pitch and harmonics (aigc/nn/harmonics.py), from which
Griffin-Lim computes a waveform. Log-magnitude spectrograms are compared with those of the data: bin
by bin as decoded, and as energies of larger and larger patches (multi-resolution, after Yamamoto et
al. 2020, arXiv:1910.11480), because the mean of logarithms alone is too quiet wherever the vector
leaves something open. Energies are taken after Griffin-Lim, so the decoder compensates for its
losses.
"""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aigc.config import ModelConfig, require
from aigc.nn.harmonics import Harmonics
from aigc.nn.layers import check_positive
from aigc.nn.spectrogram import STFT, GriffinLim, check_griffin_lim, check_waveform

ENERGY_FLOOR = 2e-5
"""Energy added to each patch, relative to full scale: differences between softer ones vanish."""


@dataclass(frozen=True, kw_only=True)
class VoiceConfig(ModelConfig):
    """Fields of a Config whose model decodes sounds; `audio` is one of its shapes."""

    window: int = 384
    """Samples of the transform's Hann window: half as many frequencies."""
    hop: int = 64
    """Samples between two frames."""
    floor: float = 1e-3
    """Magnitudes below, as a share of full scale, count as silence."""
    iterations: int = 2
    """Iterations of Griffin-Lim. More sound better, but take longer, in training too, and amplify
    rounding errors: beyond four an export is likely to be refused."""
    momentum: float = 0.99
    """Momentum of Griffin-Lim."""
    decoder_widths: tuple[int, ...] = (192, 192, 128, 128)
    """Channels of the sound's decoder at the fewest frames, and after each doubling of them."""
    style: int = 64
    """Channels that are constant over time, concatenated to the input of each layer: voice and
    pitch."""
    bands: int = 64
    """Frequencies between which the envelope is interpolated."""
    ripples: int = 3
    """Number of cosines in the comb of a voice."""
    ripple_bands: int = 16
    """Frequencies between which the strength of each cosine is interpolated."""
    pitch: tuple[float, float] = (0.0075, 0.05)
    """Lowest and highest pitch in cycles per sample: 60 and 400 Hz at 8 kHz."""
    level_std: float = 0.3
    """Standard deviation of a bin's level given the latent; levels are in [-1, 1]. Smaller ones
    weigh reconstruction more against the KL term."""
    energy_std: float = 0.6
    """Standard deviation of the logarithm of a bin's energy, in nepers; for a patch it is divided
    by
    the root of its number of bins."""
    pitch_std: float = 0.01
    """Standard deviation of the pitch, relative to the logarithmic range `pitch`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_waveform(self.shapes.get("audio", self.shape))
        check_griffin_lim(self.iterations, self.momentum)
        for name in ("level_std", "energy_std", "pitch_std"):
            require(getattr(self, name) > 0, f"{name} must be > 0, got {getattr(self, name)}")
        self.check_frames("decoder_widths", len(self.decoder_widths) - 1)

    @property
    def stft(self) -> STFT:
        """The transform between sounds and spectrograms."""
        samples = self.shapes["audio"][1]
        return STFT(samples=samples, window=self.window, hop=self.hop, floor=self.floor)

    def check_frames(self, widths: str, halvings: int, pooled: int = 1) -> None:
        """Raise ValueError unless the frames divide by `pooled` and then by 2 `halvings` times.

        `widths` is the name of the field with the channels of the network in question.
        """
        check_positive(widths, getattr(self, widths))
        require(halvings >= 0, f"{widths} must name at least one layer")
        require(
            self.stft.frames % (pooled * 2**halvings) == 0,
            f"{self.stft.frames} frames cannot be halved {halvings} times"
            f"{f' with {pooled} seen as one' if pooled > 1 else ''} ({widths})",
        )


class Decoder(nn.Module):
    """(N, inputs) -> parameters of HarmonicSynthesizer, (N, size, frames)."""

    def __init__(self, config: VoiceConfig, inputs: int, hidden: int, size: int) -> None:
        super().__init__()
        widths = config.decoder_widths
        frames = config.stft.frames // 2 ** (len(widths) - 1)

        def dense(features: int) -> list[nn.Module]:
            layers = (nn.Linear(inputs, hidden), nn.Linear(hidden, features))
            return [module for layer in layers for module in (layer, nn.ReLU())]

        self.style = nn.Sequential(*dense(config.style))
        first = dense(widths[0] * frames)
        self.first = nn.Sequential(*first, nn.Unflatten(1, (widths[0], frames)))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv1d(c_in + config.style, c_out, 3, padding=1), nn.ReLU())
            for c_in, c_out in itertools.pairwise(widths)
        )
        self.last = nn.Conv1d(widths[-1] + config.style, size, 1)

    def forward(self, z: Tensor) -> Tensor:
        style, h = self.style(z)[:, :, None], self.first(z)
        for block in self.blocks:
            h = F.interpolate(h, scale_factor=2)
            h = block(torch.cat([h, style.expand(-1, -1, h.shape[2])], 1))
        return self.last(torch.cat([h, style.expand(-1, -1, h.shape[2])], 1))  # type: ignore[no-any-return]


class HarmonicSynthesizer(nn.Module):
    """Parameters of Harmonics (N, size, frames) -> waveforms (N, 1, samples) in [-1, 1].

    It has no trained parameters.
    """

    def __init__(self, config: VoiceConfig) -> None:
        super().__init__()
        self.config, self.stft = config, config.stft
        self.harmonics = Harmonics(
            self.stft, config.bands, config.ripple_bands, config.ripples, config.pitch
        )
        self.griffin_lim = GriffinLim(self.stft, config.iterations, config.momentum)

    @property
    def size(self) -> int:
        """Number of parameters of a frame."""
        return self.harmonics.size

    def forward(self, parameters: Tensor) -> Tensor:
        return self.sound(self.harmonics(parameters))

    def sound(self, level: Tensor) -> Tensor:
        """Log-magnitudes (N, bins, frames), unbounded -> sounds (N, 1, samples)."""
        return self.griffin_lim(level.clamp(-1, 1))  # type: ignore[no-any-return]

    def nats(self, parameters: Tensor, level: Tensor) -> dict[str, Tensor]:
        """Negative log likelihood (N,) of a sound, by level, energy and pitch.

        parameters: (N, size, frames); level: its log-magnitudes (N, bins, frames) in [-1, 1].
        """
        config = self.config
        with torch.no_grad():
            pitch, confidence = self.harmonics.pitch(level)
        # At the pitch of the data: a comb beside the teeth of another gets no gradient towards it.
        # The decoder's own pitch has a term of its own.
        decoded = self.harmonics(parameters, pitch)
        wrong_pitch = (parameters[:, -1].sigmoid() - pitch).square() * confidence
        return {
            "level": _nats((decoded - level).square(), config.level_std),
            "energy": self.energies(self.stft.log_magnitude(self.sound(decoded)), level),
            "pitch": _nats(wrong_pitch, config.pitch_std),
        }

    def energies(self, decoded: Tensor, level: Tensor) -> Tensor:
        """(N,) nats of patches of 2 x 2 and 8 x 4 bins x frames."""
        total = torch.zeros_like(decoded[:, 0, 0])
        a, b = (self.stft.magnitude(x).square()[:, None] for x in (decoded, level))
        for pool, area in (((2, 2), 4), ((4, 2), 32)):
            a, b = F.avg_pool2d(a, pool), F.avg_pool2d(b, pool)
            error = ((a + ENERGY_FLOOR) / (b + ENERGY_FLOOR)).log().square()
            total = total + area * _nats(error, self.config.energy_std)
        return total


def _nats(square: Tensor, std: float) -> Tensor:
    return square.flatten(1).sum(1) / (2 * std**2)
