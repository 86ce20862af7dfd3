"""Losses of models that make a sound again: of spectra, and of discriminators.

The vocoder and the codec share them. Spectra at several resolutions are always compared;
discriminators judge beside it if the config says so (Kong et al. 2020, arXiv:2010.05646, 2.4).
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from aigc.config import ModelConfig, OptimizerConfig, check_turn, require, require_values
from aigc.config.schedule import Scheduled, values
from aigc.model import GenerativeModel, Phase
from aigc.nn.layers import check_positive
from aigc.nn.log_mel import Framing
from aigc.nn.losses import no_loss
from aigc.nn.sound_discriminators import (
    Maps,
    SoundDiscriminator,
    feature_distance,
    judgement,
    least_squares,
)
from aigc.nn.spectral_loss import MelLoss, STFTLoss
from aigc.nn.spectrogram import check_waveform
from aigc.rng import BatchRNG


@dataclass(frozen=True, kw_only=True)
class SoundLossConfig(ModelConfig):
    """Analysis of sounds, and the weights of the losses; `shape` is (1, samples) of the data."""

    shape: tuple[int, ...] = (1, 16_000)
    rate_hz: int = 8_000
    """Sample rate, that of the data."""
    window: int = 320
    """Samples of a frame's window."""
    hop: int = 80
    """Samples from one frame to the next."""
    crop: int = 7_680
    """Samples of the pieces that are trained on, a multiple of the hop and of a quarter of every
    window."""
    mel_weight: float = 5.0
    """Weight of the difference of log-mel spectrograms."""
    mel_windows: tuple[int, ...] = (64, 128, 256, 512, 1024)
    """Windows of those spectrograms, in samples."""
    stft_weight: float = 1.0
    """Weight of spectral convergence and the difference of log magnitudes."""
    stft_windows: tuple[int, ...] = (128, 256, 512)
    """Windows of those spectra."""
    adversarial_weight: Scheduled = 0.0
    """Weight of discriminators' judgement, such as '0:0 65%:1:step' for the last third of the run.
    0 all the time builds none."""
    feature_weight: float = 2.0
    """Weight of the discriminators' feature maps, relative to their judgement."""
    periods: tuple[int, ...] = (2, 3, 5, 7)
    """Periods at which discriminators fold the sound."""
    period_widths: tuple[int, ...] = (16, 32, 64)
    """Channels of their convolutions."""
    resolutions: tuple[int, ...] = (128, 256, 512)
    """Windows of the spectrograms that discriminators see."""
    resolution_width: int = 16
    """Channels of their convolutions."""
    discriminator_optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(name="adamw", learning_rate=5e-4, betas=(0.8, 0.99))
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_waveform(self.shape)
        check_positive("rate_hz, hop", (self.rate_hz, self.hop))
        Framing(window=self.window, hop=self.hop)  # raises ValueError
        windows = {"mel_windows": self.mel_windows, "stft_windows": self.stft_windows}
        if self.is_adversarial:
            windows["resolutions"] = self.resolutions
            check_positive("periods, period_widths", (*self.periods, *self.period_widths))
            check_positive("resolution_width", (self.resolution_width,))
            require(
                len(self.periods) > 0 and len(self.resolutions) > 0 and len(self.period_widths) > 0,
                "periods, period_widths and resolutions must have an entry each for discriminators",
            )
            require(
                max(self.periods) < self.crop,
                f"periods must be below the crop, {self.crop}, got {self.periods}",
            )
        for name, sizes in windows.items():
            require(
                len(sizes) > 0 and all(size > 0 and size % 8 == 0 for size in sizes),
                f"{name} must be multiples of 8, at least one, got {sizes}",
            )
        step = math.lcm(self.hop, *(size // 4 for sizes in windows.values() for size in sizes))
        require(
            self.crop > 0 and self.crop % step == 0,
            f"crop must be a multiple of {step}, which the hop and a quarter of every window"
            f" divide, got {self.crop}",
        )
        require(
            self.shape[1] >= self.crop,
            f"crop {self.crop} is longer than the sounds, {self.shape[1]} samples; take a smaller"
            " one, or a longer --model.shape",
        )
        for name in ("mel_weight", "stft_weight", "feature_weight", "adversarial_weight"):
            require_values(name, getattr(self, name), 0)
        require(self.mel_weight + self.stft_weight > 0, "mel_weight or stft_weight must be > 0")
        if self.is_adversarial:
            check_turn("adversarial_weight", self.adversarial_weight, self.discriminator_optimizer)

    @property
    def framing(self) -> Framing:
        """Frames of the analysis."""
        return Framing(window=self.window, hop=self.hop)

    @property
    def is_adversarial(self) -> bool:
        """True if there are discriminators, at least for a part of the run."""
        return max(values(self.adversarial_weight)) > 0

    def without_effect(self) -> dict[str, str]:
        """See ModelConfig.without_effect."""
        found = super().without_effect()
        if not self.is_adversarial:
            names = ["feature_weight", "periods", "period_widths", "resolutions"]
            names += ["resolution_width", "discriminator_optimizer"]
            found |= dict.fromkeys(names, "adversarial_weight is 0")
        return found


class SoundModel(GenerativeModel):
    """Model whose output is a sound, of which the losses are taken.

    A subclass calls add_judge() last in its constructor, so that its own weights begin as without
    discriminators.
    """

    config: SoundLossConfig

    def __init__(self, config: SoundLossConfig) -> None:
        super().__init__()
        self.config = config
        self.mel_loss = MelLoss(config.rate_hz, config.mel_windows)
        self.stft_loss = STFTLoss(config.stft_windows)
        self.judge: SoundDiscriminator | None = None

    def add_judge(self) -> None:
        """Build the discriminators, if there are any."""
        c = self.config
        if c.is_adversarial:
            self.judge = SoundDiscriminator(
                c.periods, c.period_widths, c.resolutions, c.resolution_width
            )

    def discriminator_phases(self) -> tuple[Phase, ...]:
        """The phase `discriminator`, if there is one."""
        if self.judge is None:
            return ()
        optimizer = self.config.discriminator_optimizer
        return (Phase(name="discriminator", module=self.judge, optimizer=optimizer),)

    def is_judging(self, noise: BatchRNG) -> bool:
        """True if discriminators have a weight in this batch."""
        return self.judge is not None and noise.at(self.config.adversarial_weight) > 0

    def discriminator_loss(
        self, made: Tensor | None, real: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the discriminators on (N, 1, T); without `made`, before their time, 0."""
        if made is None:
            assert self.judge is not None
            return no_loss(self.judge), {}
        on_real, on_made = self._on_both(real, made.detach())
        return least_squares(on_made, on_real), {}

    def _on_both(self, real: Tensor, made: Tensor) -> tuple[Maps, Maps]:
        """Maps of both in one pass, in the type of `real`, also under autocast."""
        assert self.judge is not None
        both = [
            [one.to(real.dtype) for one in maps] for maps in self.judge(torch.cat([real, made]))
        ]
        halves = [[one.chunk(2) for one in maps] for maps in both]
        on_real, on_made = ([[one[at] for one in maps] for maps in halves] for at in (0, 1))
        return on_real, on_made

    def sound_loss(
        self, made: Tensor, real: Tensor, noise: BatchRNG, metrics: dict[str, Tensor]
    ) -> Tensor:
        """Distances of spectra, and the discriminators' judgement in their time, which join
        `metrics`: made, real (N, 1, T) in [-1, 1] -> ()."""
        c = self.config
        mel, stft = self.mel_loss(made, real), self.stft_loss(made, real)
        metrics |= {"mel": mel.detach(), "stft": stft.detach()}
        loss: Tensor = c.mel_weight * mel + c.stft_weight * stft
        if self.is_judging(noise):
            on_real, on_made = self._on_both(real, made)
            verdict, features = judgement(on_made), feature_distance(on_made, on_real)
            metrics |= {"adversarial": verdict.detach(), "features": features.detach()}
            loss = loss + noise.at(c.adversarial_weight) * (verdict + c.feature_weight * features)
        return loss
