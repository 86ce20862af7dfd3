"""VAE of sounds: a decoder to envelope, pitch and harmonics, made audible by Griffin-Lim.

aigc/nn/audio_decoder.py has the decoder and its likelihood. The prior is a flow that is trained
with the model, and on its own after encoder and decoder are done: a flow lags behind latents that
move, and its samples are then worse than reconstructions.
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
from aigc.model import Batch, Export, GenerativeModel, Phase
from aigc.nn.audio_decoder import Decoder, HarmonicSynthesizer, VoiceConfig
from aigc.nn.flows import Flow
from aigc.nn.layers import activation, condition, one_hot
from aigc.nn.posteriors import bounded_log_variance
from aigc.nn.spectrogram import LogMagnitude
from aigc.nn.tensor_specs import label_spec, latent_spec, sample_spec, vector_spec
from aigc.rng import BatchRNG

COLLAPSED = 0.1
"""KL in nats below which the latent carries no information about a sound."""


@dataclass(frozen=True, kw_only=True)
class Config(VoiceConfig):
    """Both networks and the prior."""

    shape: tuple[int, ...] = (1, 4096)
    """(1, samples)."""
    latent: int = 16
    """Number of latent dimensions; even."""
    encoder_widths: tuple[int, ...] = (128, 128, 128)
    """Channels after each halving of the number of frames."""
    hidden: int = 128
    """Width of the dense layers after the latent."""
    narrowest: float = -5.0
    """Log variance of the narrowest posterior, by default a standard deviation of 0.08: the wider
    posteriors are, the less the prior can miss."""
    couplings: int = 10
    """Number of couplings of the flow that is the prior."""
    prior_width: int = 192
    """Width of the dense layers in each coupling."""
    kl_ramp: int = 20_000
    """Samples seen over which the weight of the KL term grows from 0 to 1."""
    done: int = 56_000
    """Samples seen after which encoder and decoder are frozen and only the prior learns, which
    takes
    a sixth of the time; 0 for never."""
    decay: int = 20_000
    """Samples before `done` over which the learning rate of both falls to 0."""
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
        return mu, bounded_log_variance(logvar, self.narrowest)


class PreparedBatch(NamedTuple):
    """Result of prepare()."""

    level: Tensor
    label: Tensor | None
    z: Tensor
    """(N, latent), drawn from the posterior."""
    log_q: Tensor
    """(N,) nats, the log density of the posterior at z."""


class Model(GenerativeModel):
    """Two phases: reconstruction in three terms with the KL to the flow, and the flow itself."""

    family = "vae"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config: Config = config
        self.voice = HarmonicSynthesizer(config)
        self.encoder = Encoder(config)
        inputs = config.latent + config.num_classes
        self.decoder = Decoder(config, inputs, config.hidden, self.voice.size)
        self.prior = Flow(config.latent, config.num_classes, config.couplings, config.prior_width)

    def phases(self) -> tuple[Phase, ...]:
        """The networks, and the prior, which is fitted to the latents of the same batch."""
        c, networks = self.config, nn.ModuleList([self.encoder, self.decoder])
        return (
            Phase(name="elbo", module=networks, optimizer=c.optimizer, until=c.done, decay=c.decay),
            Phase(name="prior", module=self.prior, optimizer=c.optimizer),
        )

    def prepare(self, batch: Batch, noise: BatchRNG, due: Collection[str]) -> PreparedBatch:
        """One draw of the posterior, with a gradient to the encoder only if `elbo` is due."""
        config = self.config
        label = batch["label"] if config.num_classes else None
        with torch.no_grad():
            level = config.stft.log_magnitude(batch[config.modality])
        eps = noise.normal("posterior", config.latent)
        with torch.set_grad_enabled("elbo" in due):
            mu, logvar = (moment.to(eps.dtype) for moment in self.encoder(level, label))
            z = mu + (0.5 * logvar).exp() * eps
            log_q = -0.5 * (eps.square() + logvar + math.log(2 * math.pi)).sum(1)
        return PreparedBatch(level, label, z, log_q)

    def loss(
        self, phase: str, batch: Batch, noise: BatchRNG, shared: PreparedBatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Nats per sound: of `elbo`, reconstruction and the ramped KL; of `prior`, the KL alone.

        The KL is estimated from one draw of the posterior.
        """
        config, (level, label, z, log_q) = self.config, shared
        classes = one_hot(label, config.num_classes, z.dtype)
        if phase == "prior":
            return (log_q.detach() - self.prior.log_prob(z.detach(), classes)).mean(), {}
        kl = log_q - self.prior.log_prob(z, classes)
        parameters = self.decoder(condition(z, label, config.num_classes)).to(z.dtype)
        terms = self.voice.nats(parameters, level)
        ramp = min(1.0, noise.samples / config.kl_ramp) if config.kl_ramp else 1.0
        loss = (sum(terms.values()) + ramp * kl).mean()
        return loss, {name: v.mean().detach() for name, v in {**terms, "kl": kl}.items()}

    def collapsed(self, values: dict[str, float]) -> str:
        """The latent carries no information."""
        kl = values.get("prior/loss")
        if kl is None or abs(kl) > COLLAPSED:
            return ""
        return f"posterior collapse: KL {kl:.2g} nats"

    def exports(self) -> dict[str, Export]:
        """`sample`, `decode`, `encode` and `reconstruct`."""
        sound, label = sample_spec(self.config), label_spec(self.config)
        size = self.config.latent
        latent = vector_spec("latent", size)
        moments = (vector_spec("mu", size), vector_spec("logvar", size))

        def export(graph: str, module: nn.Module, first: TensorSpec, *out: TensorSpec) -> Export:
            signature = Signature(graph=graph, inputs=(first, *label), outputs=out)
            return Export(module=module, signature=signature)

        return {
            "sample": export("generator.onnx", _Sample(self), latent_spec(self.config), sound),
            "decode": export("decoder.onnx", _Decode(self), latent, sound),
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
        inputs = condition(latent, label, self.num_classes)
        return self.voice(self.decoder(inputs))  # type: ignore[no-any-return]


class _Sample(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.num_classes = model.config.num_classes
        self.prior, self.decode = model.prior, _Decode(model)

    def forward(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        z, _ = self.prior.inverse(latent, one_hot(label, self.num_classes, latent.dtype))
        return self.decode(z, label)  # type: ignore[no-any-return]


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
