"""VAE of sounds whose decoder draws an envelope, a pitch and harmonics, heard through Griffin-Lim.

How that is compared with the data is in aigc/voice.py. The prior is a flow that is learned with the
model, and goes on learning when encoder and decoder are done: a flow lags behind latents that move,
and samples are then further from sounds than reconstructions are.
"""

import itertools
import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from aigc.artifact.manifest import Signature, TensorSpec
from aigc.config import DataConfig, OptimizerConfig, TrainConfig, require
from aigc.flow import Flow
from aigc.layers import activation, condition
from aigc.model import Batch, Export, GenerativeModel, Phase
from aigc.noise import Noise
from aigc.posterior import bounded
from aigc.signature import label_spec, latent_spec, sample_spec, vector_spec
from aigc.spectrogram import LogMagnitude
from aigc.voice import Decoder, Voice, VoiceConfig

COLLAPSED = 0.1
"""KL in nats at which the latent says nothing of a sound."""


@dataclass(frozen=True, kw_only=True)
class Config(VoiceConfig):
    """Both networks and the prior."""

    shape: tuple[int, ...] = (1, 4096)
    """(1, samples)."""
    latent: int = 16
    """Number of latent dimensions; even."""
    encoder_widths: tuple[int, ...] = (128, 128, 128)
    """Channels after each halving of the frames."""
    hidden: int = 128
    """Width of the dense layers behind the latent."""
    narrowest: float = -5.0
    """Log variance of the narrowest posterior, a standard deviation of 0.08: the wider posteriors
    are, the less the prior can miss."""
    couplings: int = 10
    """Of the flow that is the prior."""
    prior_width: int = 192
    """Of the dense layers in each."""
    kl_ramp: int = 20_000
    """Samples seen over which the weight of the KL term grows from 0 to 1."""
    done: int = 56_000
    """Samples seen from which on encoder and decoder stay as they are, and only the prior learns;
    0 for none. Such a batch takes a sixth of the time."""
    decay: int = 20_000
    """Samples before that over which the learning rate of both falls to nothing."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=1.5e-3, betas=(0.9, 0.99))
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_frames("encoder_widths", len(self.encoder_widths))
        require(self.narrowest < 0, f"narrowest must be < 0, got {self.narrowest}")
        require(self.prior_width > 0, f"prior_width must be > 0, got {self.prior_width}")
        require(
            0 <= self.decay <= self.done,
            f"decay must be in [0, done], here [0, {self.done}], got {self.decay}",
        )


class Encoder(nn.Module):
    """Log-magnitudes (N, bins, frames), labels -> (N, 2 latent): mu beside log variance."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.num_classes, self.narrowest = config.num_classes, config.narrowest
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
        return mu, bounded(logvar, self.narrowest)


class Drawn(NamedTuple):
    """What prepare() makes of a batch."""

    level: Tensor
    label: Tensor | None
    z: Tensor
    """(N, latent), drawn from the posterior."""
    log_q: Tensor
    """(N,) nats, the posterior's density there."""


class Model(GenerativeModel):
    """Two phases: reconstruction in three views with KL to the flow, and the flow itself."""

    family = "vae"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config: Config = config
        self.voice = Voice(config)
        self.encoder = Encoder(config)
        given = config.latent + config.num_classes
        self.decoder = Decoder(config, given, config.hidden, self.voice.size)
        self.prior = Flow(config.latent, config.num_classes, config.couplings, config.prior_width)

    def phases(self) -> tuple[Phase, ...]:
        """The prior is fitted beside the networks, to what they made of the same batch."""
        c, networks = self.config, nn.ModuleList([self.encoder, self.decoder])
        return (
            Phase(name="elbo", module=networks, optimizer=c.optimizer, until=c.done, decay=c.decay),
            Phase(name="prior", module=self.prior, optimizer=c.optimizer),
        )

    def prepare(self, batch: Batch, noise: Noise, due: Collection[str]) -> Drawn:
        """One draw of the posterior, with the encoder's graph only if that learns."""
        config = self.config
        label = batch["label"] if config.num_classes else None
        with torch.no_grad():
            level = config.stft.log_magnitude(batch[config.modality])
        eps = noise.normal("posterior", config.latent)
        with torch.set_grad_enabled("elbo" in due):
            mu, logvar = (moment.to(eps.dtype) for moment in self.encoder(level, label))
            z = mu + (0.5 * logvar).exp() * eps
            log_q = -0.5 * (eps.square() + logvar + math.log(2 * math.pi)).sum(1)
        return Drawn(level, label, z, log_q)

    def loss(
        self, phase: str, batch: Batch, noise: Noise, shared: Drawn
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Nats per sound; the KL term, estimated by the posterior's one draw, is ramped.

        Of the prior, the KL alone.
        """
        config, (level, label, z, log_q) = self.config, shared
        if phase == "prior":
            return (log_q.detach() - self.prior.log_prob(z.detach(), label)).mean(), {}
        kl = log_q - self.prior.log_prob(z, label)
        parameters = self.decoder(condition(z, label, config.num_classes)).to(z.dtype)
        terms = self.voice.nats(parameters, level)
        ramp = min(1.0, noise.samples / config.kl_ramp) if config.kl_ramp else 1.0
        loss = (sum(terms.values()) + ramp * kl).mean()
        return loss, {name: v.mean().detach() for name, v in {**terms, "kl": kl}.items()}

    def collapsed(self, values: dict[str, float]) -> str:
        """Nothing of a sound passes the latent."""
        kl = values.get("prior/loss")
        if kl is None or abs(kl) > COLLAPSED:
            return ""
        return f"posterior collapse: KL {kl:.2g} nats"

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


class _Decode(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.num_classes = model.config.num_classes
        self.decoder, self.voice = model.decoder, model.voice

    def forward(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        given = condition(latent, label, self.num_classes)
        return self.voice(self.decoder(given))  # type: ignore[no-any-return]


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
        samples=150_000,
        grid_interval=0,
    )


PRESETS = {"spoken_digits": spoken_digits}
