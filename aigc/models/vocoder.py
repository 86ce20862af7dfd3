"""Vocoder: log-mel spectrograms to sounds of any length, by inverse STFT.

    aigc train vocoder:speech8k --data.path recordings --name vocoder

ConvNeXt blocks predict magnitude and phase of each frame's spectrum, which an inverse STFT turns
into sound (Vocos: Siuzdak 2023, arXiv:2306.00814, section 3). Everything is local in time, so that
long sounds are made of chunks.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from aigc.artifact.axes import Axis
from aigc.artifact.manifest import Signature, TensorSpec
from aigc.config import DataConfig, OptimizerConfig, TrainConfig, require
from aigc.model import Batch, Export, Phase
from aigc.nn.convnext import ConvNeXt
from aigc.nn.layers import check_positive
from aigc.nn.log_mel import InverseSTFT, LogMel, mel_filters
from aigc.nn.sound_crops import crops
from aigc.rng import BatchRNG
from aigc.sound_loss import SoundLossConfig, SoundModel

LOUDEST = 5.0
"""Largest magnitude of a spectrum; a sine of full scale has 1."""


@dataclass(frozen=True, kw_only=True)
class Config(SoundLossConfig):
    """The analysis, and the network."""

    bands: int = 40
    """Mel bands of a frame."""
    width: int = 192
    """Channels between the blocks."""
    hidden: int = 512
    """Width of the dense layers within a block."""
    blocks: int = 6
    causal: bool = False
    """See no frames ahead: a sound then lags behind its mel by half a window alone."""
    largest: int = 256
    """Most frames in one run of an artifact's graph; longer sounds are made of chunks."""
    gain: tuple[float, float] = (0.5, 1.2)
    """Least and largest factor of the loudness of a piece that is trained on."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            name="adamw",
            learning_rate="0:0 1.6k:1e-3 50%:1e-3 100%:0:cosine",
            betas=(0.8, 0.99),
            clip_norm=10.0,
        )
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = (self.bands, self.width, self.hidden, self.blocks, self.largest)
        check_positive("bands, width, hidden, blocks, largest", sizes)
        mel_filters(self.framing.bins, self.bands, self.rate_hz)
        low, high = self.gain
        require(0 < low <= high < math.inf, f"gain must be 0 < low <= high, got {self.gain}")
        require(
            self.largest > 2 * self.context,
            f"largest must be above {2 * self.context} frames: {self.blocks} blocks"
            f"{' that look back' if self.causal else ''} need {self.context} on either side of a"
            f" chunk, got {self.largest}",
        )

    @property
    def context(self) -> int:
        """Frames that a frame's sound depends on, on the farther side."""
        convolutions = 1 + self.blocks  # of kernel 7
        reach = 6 * convolutions if self.causal else 3 * convolutions
        return reach + self.window // self.hop // 2


class Network(nn.Module):
    """Log-mel spectrograms (N, bands, t) -> sounds (N, 1, hop * t)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.trunk = ConvNeXt(
            config.bands, config.width, config.hidden, config.blocks, causal=config.causal
        )
        self.head = nn.Conv1d(config.width, 2 * config.framing.bins, 1)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        self.inverse = InverseSTFT(config.framing)

    def forward(self, mel: Tensor) -> Tensor:
        level, phase = self.head(self.trunk(mel)).chunk(2, 1)
        magnitude = (level - 4).clamp_max(math.log(LOUDEST)).exp()
        return self.inverse(magnitude * phase.cos(), magnitude * phase.sin())  # type: ignore[no-any-return]


class Model(SoundModel):
    """Trained on pieces of sounds: the network makes them of their own spectrograms."""

    family = "vocoder"
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.mel = LogMel(config.framing, config.bands, config.rate_hz)
        self.network = Network(config)
        self.add_judge()

    def averaged(self) -> nn.Module:
        """The network."""
        return self.network

    def phases(self) -> tuple[Phase, ...]:
        """The discriminators, if there are any, then the network."""
        own = Phase(name="vocoder", module=self.network, optimizer=self.config.optimizer)
        return (*self.discriminator_phases(), own)

    def prepare(
        self, batch: Batch, noise: BatchRNG, due: Collection[str]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Pieces (N, 1, crop), their spectrograms, and in the discriminators' time the sounds made
        of these."""
        low, high = self.config.gain
        gain = low + (high - low) * noise.uniform("gain", 1, 1)
        real = crops(batch["audio"], self.config.crop, noise) * gain
        real = real / real.abs().amax((1, 2), keepdim=True).clamp_min(1)
        mel, made = self.mel(real), None
        if self.is_judging(noise):
            with torch.set_grad_enabled("vocoder" in due):
                made = self.network(mel).to(real.dtype)
        return real, mel, made

    def loss(
        self, phase: str, batch: Batch, noise: BatchRNG, shared: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See GenerativeModel.loss."""
        real, mel, made = shared
        if phase == "discriminator":
            return self.discriminator_loss(made, real)
        made = self.network(mel).to(real.dtype) if made is None else made
        metrics: dict[str, Tensor] = {}
        return self.sound_loss(made, real, noise, metrics), metrics

    def exports(self) -> dict[str, Export]:
        """`decode`, a spectrogram to a sound, and `analyse`, a sound to its spectrogram."""
        c = self.config
        axes = {"t": Axis(min=min(64, c.largest), max=c.largest, default=min(100, c.largest))}
        mel = TensorSpec(name="mel", kind="vector", dtype="float32", shape=(c.bands, "t"))
        audio = TensorSpec(
            name="audio",
            kind="audio",
            dtype="float32",
            shape=(1, f"{c.hop}*t"),
            range=(-1.0, 1.0),
            sample_rate_hz=c.rate_hz,
        )
        decode = Signature(graph="decode.onnx", inputs=(mel,), outputs=(audio,), axes=axes)
        analyse = Signature(graph="analyse.onnx", inputs=(audio,), outputs=(mel,), axes=axes)
        return {
            "decode": Export(module=_Decode(self.network), signature=decode, chunk=True),
            "analyse": Export(module=self.mel, signature=analyse, chunk=True),
        }


class _Decode(nn.Module):
    """A network whose output is clamped to [-1, 1]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, mel: Tensor) -> Tensor:
        return self.network(mel).clamp(-1, 1)  # type: ignore[no-any-return]


def speech8k() -> TrainConfig:
    """Speech at 8 kHz on one core in minutes."""
    return TrainConfig(
        preset="vocoder:speech8k",
        model=Config(),
        data=DataConfig(source="audio", sample_rate_hz=8_000, pieces=True),
        batch=16,
        samples=30_400,
        ema_half_life=1_000,
        report_interval=1_600,
        grid_interval=0,
        checkpoint_interval=10_000,
    )


def speech8k_gan() -> TrainConfig:
    """speech8k with discriminators in the last third of the run."""
    run = speech8k()
    model = Config(adversarial_weight="0:0 65%:1:step")
    return replace(run, preset="vocoder:speech8k_gan", model=model)


PRESETS = {"speech8k": speech8k, "speech8k_gan": speech8k_gan}
