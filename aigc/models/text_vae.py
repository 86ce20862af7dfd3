"""Sequence VAE (Bowman et al. 2016, arXiv:1511.06349): texts of tokens, written one by one."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aigc import losses
from aigc.artifact.manifest import Signature, TensorSpec
from aigc.artifact.vocabulary import END
from aigc.config import DataConfig, Modality, ModelConfig, OptimizerConfig, TrainConfig, require
from aigc.layers import condition
from aigc.model import Batch, Export, GenerativeModel, Phase
from aigc.noise import Noise
from aigc.signature import (
    label_spec,
    latent_spec,
    text_spec,
    token_spec,
    vector_spec,
    writing_specs,
)
from aigc.stepped import Stepped

ACTIVE = 0.01
"""Variance of a posterior mean over texts above which a latent dimension counts as in use."""

COLLAPSED = 0.1
"""KL in nats at which the latent says nothing of a text."""


@dataclass(frozen=True, kw_only=True)
class Config(ModelConfig):
    """Convolutions read a text, a GRU writes it; what keeps the latent in use."""

    shape: tuple[int, ...] = (44,)
    """(tokens,) of the longest text, its end included."""
    latent: int = 16
    """Number of latent dimensions."""
    vocabulary: int = 22
    """Number of tokens, the end of a text included."""
    embedding: int = 32
    """Width of a token's embedding."""
    width: int = 256
    """Of the GRU that writes."""
    encoder_widths: tuple[int, ...] = (64, 128)
    """Channels of the convolutions that read, each of stride 2."""
    word_dropout: float = 0.0
    """Share of the tokens hidden from the GRU in training, so that it must ask the latent."""
    kl_floor: float = 4.0
    """Free bits: below so many nats per text the KL term costs nothing more (Kingma et al. 2016,
    arXiv:1606.04934, over all dimensions at once)."""
    kl_ramp: int = 20_000
    """Samples seen over which the weight of the KL term grows from 0 to 1."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=2e-3, betas=(0.9, 0.99))
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.shape) == 1, f"shape of texts must be (tokens,), got {self.shape}")
        require(self.vocabulary > 1, f"vocabulary must be > 1, got {self.vocabulary}")
        require(
            0 <= self.word_dropout < 1, f"word_dropout must be in [0, 1), got {self.word_dropout}"
        )
        require(self.kl_floor >= 0, f"kl_floor must be >= 0 nats, got {self.kl_floor}")
        require(self.kl_ramp >= 0, f"kl_ramp must be >= 0 samples, got {self.kl_ramp}")

    @property
    def modality(self) -> Modality:
        """Key of the samples in a batch."""
        return "text"

    @property
    def num_tokens(self) -> int:
        """Size of the vocabulary."""
        return self.vocabulary


class Encoder(nn.Module):
    """Convolutions over the whole row: (N, L) int64, labels -> (N, 2 · latent)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.num_classes = config.num_classes
        self.embedding = nn.Embedding(config.vocabulary, config.embedding)
        layers: list[nn.Module] = []
        channels, length = config.embedding, config.shape[0]
        for width in config.encoder_widths:
            layers += [nn.Conv1d(channels, width, 5, 2, padding=2), nn.LeakyReLU(0.2)]
            channels, length = width, (length + 1) // 2
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.moments = nn.Linear(channels * length + config.num_classes, 2 * config.latent)

    def forward(self, text: Tensor, label: Tensor | None) -> Tensor:
        h = self.layers(self.embedding(text).transpose(1, 2))
        return self.moments(condition(h, label, self.num_classes))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """A GRU that is given the latent beside every token, and begins at the end of no text."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.num_classes, self.hidden = config.num_classes, config.vocabulary
        # One more than the vocabulary: what stands for a token that is hidden.
        self.embedding = nn.Embedding(config.vocabulary + 1, config.embedding)
        given = config.embedding + config.latent + config.num_classes
        self.gru = nn.GRU(given, config.width, batch_first=True)
        self.logits = nn.Linear(config.width, config.vocabulary)

    def forward(self, z: Tensor, label: Tensor | None, before: Tensor) -> Tensor:
        """z: (N, latent), before: (N, L) int64 -> logits (N, L, vocabulary) of what comes next."""
        known = condition(z, label, self.num_classes)
        known = known[:, None].expand(-1, before.shape[1], -1)
        h, _ = self.gru(torch.cat([self.embedding(before), known], 2))
        return self.logits(h)  # type: ignore[no-any-return]


class Model(GenerativeModel):
    """One phase, the negative ELBO."""

    family = "vae"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config: Config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)

    def phases(self) -> tuple[Phase, ...]:
        """One: encoder and decoder together."""
        return (Phase(name="elbo", module=self, optimizer=self.config.optimizer),)

    def loss(
        self, phase: str, batch: Batch, noise: Noise, shared: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Negative ELBO in nats per text, its KL term ramped and free below the floor.

        A text's likelihood is that of its tokens and of one end; nothing is said of what follows.
        """
        config, text = self.config, batch["text"]
        label = batch["label"] if config.num_classes else None
        eps = noise.normal("posterior", config.latent)
        mu, logvar = self.encoder(text, label).to(eps.dtype).chunk(2, 1)
        before = F.pad(text[:, :-1], (1, 0), value=END)
        if config.word_dropout:
            hidden = noise.uniform("words", config.shape[0]) < config.word_dropout
            before = before.masked_fill(hidden, self.decoder.hidden)
        logits = self.decoder(mu + (0.5 * logvar).exp() * eps, label, before)
        nats = F.cross_entropy(logits.to(eps.dtype).transpose(1, 2), text, reduction="none")
        nats = (nats * written(text)).sum(1)
        kl = losses.gaussian_kl(mu, logvar)
        ramp = min(1.0, noise.samples / config.kl_ramp) if config.kl_ramp else 1.0
        loss = (nats + ramp * kl.clamp(min=config.kl_floor)).mean()
        return loss, {
            "elbo": -(nats + kl).mean().detach(),
            "kl": kl.mean().detach(),
            "active_units": (mu.detach().var(0, correction=0) > ACTIVE).sum().to(eps.dtype),
        }

    def collapsed(self, values: dict[str, float]) -> str:
        """Nothing of a text passes the latent: the decoder has become a model of language alone."""
        kl, active = values.get("elbo/kl"), values.get("elbo/active_units")
        if kl is None or active is None or (kl > COLLAPSED and active >= 1):
            return ""
        return f"posterior collapse: KL {kl:.2g} nats, {active:.2g} latent dimensions in use"

    def exports(self) -> dict[str, Export]:
        """`step` is the decoder's graph, which `sample` and `decode` run; and `encode`."""
        config, label = self.config, label_spec(self.config)
        given = vector_spec("latent", config.latent)
        state, logits = vector_spec("state", config.width), vector_spec("logits", config.vocabulary)
        step = Signature(
            graph="step.onnx",
            inputs=(given, state, token_spec(config), *label),
            outputs=(logits, replace(state, name="next_state")),
        )
        noise, *settings = writing_specs(config)
        drawn = (latent_spec(config), *label, noise, *settings)
        module = _Step(self.decoder)

        def by_steps(*inputs: TensorSpec) -> Export:
            text = (text_spec(config),)
            signature = Signature(graph=step.graph, inputs=inputs, outputs=text, step="step")
            return Export(module=Stepped(signature, step, module), signature=signature)

        moments = (vector_spec("mu", config.latent), vector_spec("logvar", config.latent))
        encode = Signature(
            graph="encoder.onnx", inputs=(text_spec(config), *label), outputs=moments
        )
        return {
            "sample": by_steps(*drawn),
            "decode": by_steps(given, *label, settings[-1]),
            "encode": Export(module=_Encode(self.encoder), signature=encode),
            "step": Export(module=module, signature=step),
        }


class _Step(nn.Module):
    """One token of the decoder: what its GRU computes at one position."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, latent: Tensor, state: Tensor, token: Tensor, label: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """latent: (N, latent), state: (N, width), token: (N,) int64."""
        decoder, gru = self.decoder, self.decoder.gru
        known = condition(latent, label, decoder.num_classes)
        x = torch.cat([decoder.embedding(token), known], 1)
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        w_ih, w_hh, b_ih, b_hh = (gru.get_parameter(name) for name in names)
        h = torch.gru_cell(x, state, w_ih, w_hh, b_ih, b_hh)
        return decoder.logits(h), h


class _Encode(nn.Module):
    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, text: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mu, logvar = self.encoder(text, label).chunk(2, 1)
        return mu, logvar


def written(text: Tensor) -> Tensor:
    """(N, L) int64 -> (N, L) bool: the tokens of each text and its first end."""
    ended = (text == END).int()
    return (ended.cumsum(1) - ended) == 0


def numbers() -> TrainConfig:
    """Number words of 0..9999, character by character."""
    return TrainConfig(
        preset="text_vae:numbers",
        model=Config(),
        data=DataConfig(source="numbers"),
        samples=100_000,
        ema_half_life=5_000,
        report_interval=3_200,
        grid_interval=0,
    )


def names() -> TrainConfig:
    """Surnames, of which most were never seen in training."""
    run = numbers()
    return replace(
        run,
        preset="text_vae:names",
        model=Config(shape=(16,), vocabulary=27, kl_floor=5.0),
        data=DataConfig(source="surnames"),
        samples=200_000,
    )


PRESETS = {"numbers": numbers, "names": names}
