"""VAE of sounds whose decoder draws an envelope, a pitch and harmonics, heard through Griffin-Lim.

What is compared with the data are log-magnitude spectrograms, bin by bin as they are drawn, and as
energies of larger and larger patches (multi-resolution, after Yamamoto et al. 2020,
arXiv:1910.11480): the mean of logarithms alone would be too quiet wherever the latent does not say
all. Energies are those of the sound that Griffin-Lim makes, so that the decoder makes up for what
is lost between a spectrogram and its sound. The prior is a flow that is learned with the model, so
that samples sound like reconstructions.
"""

import itertools
import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aigc.artifact.manifest import Signature, TensorSpec
from aigc.config import DataConfig, ModelConfig, OptimizerConfig, TrainConfig, require
from aigc.flow import Flow
from aigc.harmonics import Harmonics
from aigc.layers import activation, check_positive, condition
from aigc.model import Batch, Export, GenerativeModel, Phase
from aigc.noise import Noise
from aigc.signature import label_spec, latent_spec, sample_spec, vector_spec
from aigc.spectrogram import STFT, GriffinLim, LogMagnitude, check_griffin_lim, check_waveform

COLLAPSED = 0.1
"""KL in nats at which the latent says nothing of a sound."""
NARROWEST = -7.0
"""Log variance of the narrowest posterior there is, a standard deviation of 0.03; the widest, 1."""
QUIET = 2e-5
"""Added to the energy of a patch, of full scale: what is softer is not told apart."""


@dataclass(frozen=True, kw_only=True)
class Config(ModelConfig):
    """Both networks, the prior, and the transform between spectrograms and sound."""

    shape: tuple[int, ...] = (1, 4096)
    """(1, samples)."""
    latent: int = 16
    """Number of latent dimensions; even."""
    window: int = 384
    """Samples of the transform's Hann window: half as many frequencies."""
    hop: int = 64
    """Samples between two frames."""
    floor: float = 1e-3
    """Magnitudes below, as a share of full scale, count as silence."""
    iterations: int = 2
    """Of Griffin-Lim, in the graph that is served. Four sound better, but multiply what rounding
    changes to more than a replica tolerates."""
    momentum: float = 0.99
    """Of Griffin-Lim."""
    encoder_widths: tuple[int, ...] = (128, 128, 128)
    """Channels after each halving of the frames."""
    decoder_widths: tuple[int, ...] = (192, 192, 128, 128)
    """Channels at the fewest frames, and after each doubling of them."""
    hidden: int = 128
    """Width of the dense layers behind the latent."""
    style: int = 64
    """Channels that are the same in all frames, beside those of every layer: voice and pitch."""
    bands: int = 64
    """Frequencies at which the envelope is given."""
    ripples: int = 3
    """Cosines that make up the comb of a voice."""
    ripple_bands: int = 16
    """Frequencies at which the strength of each is given."""
    pitch: tuple[float, float] = (0.0075, 0.05)
    """Lowest and highest pitch in cycles per sample: 60 and 400 Hz at 8 kHz."""
    couplings: int = 6
    """Of the flow that is the prior."""
    level_std: float = 0.3
    """Standard deviation of a bin's level given the latent; levels are in [-1, 1]. Smaller ones
    weigh reconstruction more against the KL term."""
    energy_std: float = 0.6
    """The same of the logarithm of a bin's energy, in nepers; of a patch's it is as much over the
    root of its number of bins."""
    pitch_std: float = 0.01
    """The same of the pitch, as a share of the logarithmic range `pitch`."""
    kl_ramp: int = 20_000
    """Samples seen over which the weight of the KL term grows from 0 to 1."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=1.5e-3, betas=(0.9, 0.99))
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_waveform(self.shape)
        check_griffin_lim(self.iterations, self.momentum)
        for name in ("level_std", "energy_std", "pitch_std"):
            require(getattr(self, name) > 0, f"{name} must be > 0, got {getattr(self, name)}")
        for name, halvings in (
            ("encoder_widths", len(self.encoder_widths)),
            ("decoder_widths", len(self.decoder_widths) - 1),
        ):
            check_positive(name, getattr(self, name))
            frames = self.stft.frames
            require(halvings >= 0, f"{name} must name at least one layer")
            require(
                frames % 2**halvings == 0,
                f"{frames} frames cannot be halved {halvings} times ({name})",
            )

    @property
    def stft(self) -> STFT:
        """The transform."""
        return STFT(samples=self.shape[1], window=self.window, hop=self.hop, floor=self.floor)


class Encoder(nn.Module):
    """Log-magnitudes (N, bins, frames), labels -> (N, 2 latent): mu beside log variance."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.num_classes = config.num_classes
        widths, stft = config.encoder_widths, config.stft
        layers: list[nn.Module] = [nn.Conv1d(stft.bins, 96, 1), activation("leaky_relu")]
        for c_in, c_out in itertools.pairwise((96, *widths)):
            layers += [nn.Conv1d(c_in, c_out, 4, 2, padding=1), activation("leaky_relu")]
        self.layers = nn.Sequential(*layers, nn.Flatten())
        features = (96, *widths)[-1] * stft.frames // 2 ** len(widths)
        self.moments = nn.Linear(features + config.num_classes, 2 * config.latent)

    def forward(self, level: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        moments = self.moments(condition(self.layers(level), label, self.num_classes))
        mu, logvar = moments.chunk(2, 1)
        # The prior is learned, so nothing else says how large latents are: without a bound they
        # are shrunk until the flow cannot follow, and samples fall apart.
        return mu, NARROWEST * (1 - torch.tanh(logvar)) / 2


class Decoder(nn.Module):
    """(N, latent), labels (N,) -> what Harmonics makes levels of, (N, size, frames)."""

    def __init__(self, config: Config, size: int) -> None:
        super().__init__()
        self.num_classes = config.num_classes
        widths, hidden = config.decoder_widths, config.hidden
        frames = config.stft.frames // 2 ** (len(widths) - 1)
        given = config.latent + config.num_classes

        def dense(features: int) -> list[nn.Module]:
            layers = (nn.Linear(given, hidden), nn.Linear(hidden, features))
            return [module for layer in layers for module in (layer, nn.ReLU())]

        self.style = nn.Sequential(*dense(config.style))
        first = dense(widths[0] * frames)
        self.first = nn.Sequential(*first, nn.Unflatten(1, (widths[0], frames)))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv1d(c_in + config.style, c_out, 3, padding=1), nn.ReLU())
            for c_in, c_out in itertools.pairwise(widths)
        )
        self.last = nn.Conv1d(widths[-1] + config.style, size, 1)

    def forward(self, z: Tensor, label: Tensor | None) -> Tensor:
        given = condition(z, label, self.num_classes)
        style, h = self.style(given)[:, :, None], self.first(given)
        for block in self.blocks:
            h = F.interpolate(h, scale_factor=2)
            h = block(torch.cat([h, style.expand(-1, -1, h.shape[2])], 1))
        return self.last(torch.cat([h, style.expand(-1, -1, h.shape[2])], 1))  # type: ignore[no-any-return]


class Model(GenerativeModel):
    """One phase: reconstruction in three views, and KL to the flow."""

    family = "vae"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config: Config = config
        self.harmonics = Harmonics(
            config.stft, config.bands, config.ripple_bands, config.ripples, config.pitch
        )
        self.encoder = Encoder(config)
        self.decoder = Decoder(config, self.harmonics.size)
        self.prior = Flow(config.latent, config.num_classes, config.couplings, 96)
        self.griffin_lim = GriffinLim(config.stft, config.iterations, config.momentum)

    def phases(self) -> tuple[Phase, ...]:
        """One: encoder, decoder and prior together."""
        return (Phase(name="elbo", module=self, optimizer=self.config.optimizer),)

    def loss(
        self, phase: str, batch: Batch, noise: Noise, shared: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Nats per sound; the KL term, estimated by the posterior's one draw, is ramped."""
        config = self.config
        label = batch["label"] if config.num_classes else None
        with torch.no_grad():
            level = config.stft.log_magnitude(batch[config.modality])
            pitch, sure = self.harmonics.pitch(level)
        eps = noise.normal("posterior", config.latent)
        mu, logvar = (moment.to(eps.dtype) for moment in self.encoder(level, label))
        z = mu + (0.5 * logvar).exp() * eps
        log_q = -0.5 * (eps.square() + logvar + math.log(2 * math.pi)).sum(1)
        kl = log_q - self.prior.log_prob(z, label)
        parameters = self.decoder(z, label).to(eps.dtype)
        # Drawn at the pitch that was heard: a comb a little beside another's teeth would learn
        # nothing from it. The decoder's own pitch is told apart.
        made = self.harmonics(parameters, pitch)
        wrong_pitch = (parameters[:, -1].sigmoid() - pitch).square() * sure
        terms = {
            "level": _nats((made - level).square(), config.level_std),
            "energy": self._energies(self.heard(made), level),
            "pitch": _nats(wrong_pitch, config.pitch_std),
        }
        ramp = min(1.0, noise.samples / config.kl_ramp) if config.kl_ramp else 1.0
        loss = (sum(terms.values()) + ramp * kl).mean()
        return loss, {name: v.mean().detach() for name, v in {**terms, "kl": kl}.items()}

    def collapsed(self, values: dict[str, float]) -> str:
        """Nothing of a sound passes the latent."""
        kl = values.get("elbo/kl")
        if kl is None or abs(kl) > COLLAPSED:
            return ""
        return f"posterior collapse: KL {kl:.2g} nats"

    def heard(self, made: Tensor) -> Tensor:
        """Log-magnitudes (N, bins, frames) as drawn -> those of the sound that is made of them."""
        return self.config.stft.log_magnitude(self.griffin_lim(made.clamp(-1, 1)))

    def _energies(self, made: Tensor, level: Tensor) -> Tensor:
        """(N,) nats of patches of 2 x 2 and 8 x 4 bins x frames."""
        stft, total = self.config.stft, torch.zeros_like(made[:, 0, 0])
        a, b = (stft.magnitude(x).square()[:, None] for x in (made, level))
        for pool, area in (((2, 2), 4), ((4, 2), 32)):
            a, b = F.avg_pool2d(a, pool), F.avg_pool2d(b, pool)
            error = ((a + QUIET) / (b + QUIET)).log().square()
            total = total + area * _nats(error, self.config.energy_std)
        return total

    def exports(self) -> dict[str, Export]:
        """`sample`, `decode`, `encode` and `reconstruct`."""
        sound, label = sample_spec(self.config), label_spec(self.config)
        given = vector_spec("latent", self.config.latent)
        moments = (vector_spec("mu", given.shape[0]), vector_spec("logvar", given.shape[0]))

        def export(graph: str, module: nn.Module, first: TensorSpec, *out: TensorSpec) -> Export:
            signature = Signature(graph=graph, inputs=(first, *label), outputs=out)
            return Export(module=module, signature=signature)

        return {
            "sample": export("generator.onnx", _Sample(self), latent_spec(self.config), sound),
            "decode": export("decoder.onnx", _Decode(self), given, sound),
            "encode": export("encoder.onnx", _Encode(self), sound, *moments),
            "reconstruct": export(
                "autoencoder.onnx", _Reconstruct(self), sound, replace(sound, name="reconstruction")
            ),
        }


def _nats(square: Tensor, std: float) -> Tensor:
    return square.flatten(1).sum(1) / (2 * std**2)


class _Decode(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.decoder, self.harmonics = model.decoder, model.harmonics
        self.griffin_lim = model.griffin_lim

    def forward(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        level = self.harmonics(self.decoder(latent, label))
        return self.griffin_lim(level.clamp(-1, 1))  # type: ignore[no-any-return]


class _Sample(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.prior, self.decode = model.prior, _Decode(model)

    def forward(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        return self.decode(self.prior(latent, label), label)  # type: ignore[no-any-return]


class _Encode(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.seen, self.encoder = LogMagnitude(model.config.stft), model.encoder

    def forward(self, audio: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mu, logvar = self.encoder(self.seen(audio), label)
        return mu, logvar


class _Reconstruct(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.encode, self.decode = _Encode(model), _Decode(model)

    def forward(self, audio: Tensor, label: Tensor | None = None) -> Tensor:
        return self.decode(self.encode(audio, label)[0], label)  # type: ignore[no-any-return]


def spoken_digits() -> TrainConfig:
    """Ten spoken digits in three synthetic voices: five minutes on one core (docs/models.md)."""
    return TrainConfig(
        preset="audio_vae:spoken_digits",
        model=Config(num_classes=10),
        data=DataConfig(source="spoken_digits"),
        batch=16,
        samples=88_000,
        grid_interval=0,
    )


PRESETS = {"spoken_digits": spoken_digits}
