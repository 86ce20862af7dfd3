"""Sequence VAE (Bowman et al. 2016, arXiv:1511.06349): texts of tokens, generated one by one."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from aigc.artifact.manifest import Signature, TensorSpec
from aigc.artifact.vocabulary import END
from aigc.config import DataConfig, Modality, ModelConfig, OptimizerConfig, TrainConfig, require
from aigc.model import Batch, Export, GenerativeModel, Phase
from aigc.nn.autoregressive import AutoregressiveModule
from aigc.nn.layers import condition
from aigc.nn.posteriors import FixedNoisePosterior, LearnedPosterior, Posterior
from aigc.nn.tensor_specs import (
    label_spec,
    latent_spec,
    setting_spec,
    text_spec,
    token_sampling_specs,
    token_spec,
    vector_spec,
)
from aigc.rng import BatchRNG

ACTIVE = 0.01
"""Variance of a posterior mean over texts above which a latent dimension counts as in use."""

COLLAPSED = 0.1
"""KL in nats below which the latent carries no information about a text."""


@dataclass(frozen=True, kw_only=True)
class Config(ModelConfig):
    """A convolutional encoder, a GRU decoder, and measures against posterior collapse.

    The posterior (aigc/nn/posteriors.py) is LearnedPosterior if `blur` is 0, else
    FixedNoisePosterior.
    """

    shape: tuple[int, ...] = (44,)
    """(tokens,) of the longest text, its end included."""
    latent: int = 16
    """Number of latent dimensions."""
    vocabulary: int = 22
    """Number of tokens, the end of a text included."""
    embedding: int = 32
    """Width of a token's embedding."""
    width: int = 256
    """Width of the decoder's GRU."""
    encoder_widths: tuple[int, ...] = (64, 128)
    """Channels of the encoder's convolutions, each of stride 2."""
    word_dropout: float = 0.0
    """Share of the tokens hidden from the GRU in training, so that it must use the latent."""
    dropout: float = 0.0
    """Share of the GRU's outputs dropped in training, the same for all tokens of a text (Gal &
    Ghahramani 2016, arXiv:1512.05287)."""
    kl_floor: float = 4.0
    """Free bits: nats per text below which the KL term costs nothing."""
    kl_ramp: int = 20_000
    """Samples seen over which the weight of the KL term grows from 0 to 1."""
    blur: float = 0.0
    """Standard deviation of the noise in latents that texts are sampled from; 0 to learn it."""
    clear: float = 0.35
    """Standard deviation of the noise in encoded latents, if `blur` is not 0."""
    spread: float = 1.0
    """Default factor of the latents that texts are sampled from, if `blur` is not 0: below 1 rare
    texts become fewer (as the temperature of Kingma & Dhariwal 2018, arXiv:1807.03039, section
    5)."""
    temperature: float = 1.0
    """Default temperature of sampling."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=2e-3, betas=(0.9, 0.99))
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.shape) == 1, f"shape of texts must be (tokens,), got {self.shape}")
        require(self.vocabulary > 1, f"vocabulary must be > 1, got {self.vocabulary}")
        for name in ("word_dropout", "dropout", "blur"):
            value = getattr(self, name)
            require(0 <= value < 1, f"{name} must be in [0, 1), got {value}")
        require(self.kl_floor >= 0, f"kl_floor must be >= 0 nats, got {self.kl_floor}")
        require(self.kl_ramp >= 0, f"kl_ramp must be >= 0 samples, got {self.kl_ramp}")
        require(
            0 < self.clear <= (self.blur or 1),
            f"clear must be in (0, {self.blur or 1:g}], below blur, got {self.clear}",
        )
        require(0 <= self.spread <= 10, f"spread must be in [0, 10], got {self.spread}")
        require(
            0 <= self.temperature <= 100, f"temperature must be in [0, 100], got {self.temperature}"
        )

    def without_effect(self) -> dict[str, str]:
        """See ModelConfig.without_effect."""
        names = ("kl_floor", "kl_ramp") if self.blur else ("clear", "spread")
        reason = f"blur is {self.blur:g}"
        return super().without_effect() | dict.fromkeys(names, reason)

    @property
    def modality(self) -> Modality:
        """Key of the samples in a batch."""
        return "text"

    @property
    def num_tokens(self) -> int:
        """Size of the vocabulary."""
        return self.vocabulary


class Encoder(nn.Module):
    """Convolutions over the whole row: tokens (N, L) int64, labels (N,) -> (N, outputs)."""

    def __init__(self, config: Config, outputs: int) -> None:
        super().__init__()
        self.num_classes = config.num_classes
        self.embedding = nn.Embedding(config.vocabulary, config.embedding)
        layers: list[nn.Module] = []
        channels, length = config.embedding, config.shape[0]
        for width in config.encoder_widths:
            layers += [nn.Conv1d(channels, width, 5, 2, padding=2), nn.LeakyReLU(0.2)]
            channels, length = width, (length + 1) // 2
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.moments = nn.Linear(channels * length + config.num_classes, outputs)

    def forward(self, text: Tensor, label: Tensor | None) -> Tensor:
        h = self.layers(self.embedding(text).transpose(1, 2))
        return self.moments(condition(h, label, self.num_classes))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """A GRU with the latent as input beside every token; the token before the first is an end."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.num_classes, self.hidden = config.num_classes, config.vocabulary
        self.blurred = config.blur > 0
        # One more than the vocabulary: the last row stands for a hidden token.
        self.embedding = nn.Embedding(config.vocabulary + 1, config.embedding)
        inputs = config.embedding + config.latent + config.num_classes + self.blurred
        self.gru = nn.GRU(inputs, config.width, batch_first=True)
        self.logits = nn.Linear(config.width, config.vocabulary)

    def context(self, z: Tensor, label: Tensor | None, blur: Tensor | None) -> Tensor:
        """The input beside every token. z: (N, latent), label and blur: (N,) -> (N, ...)."""
        context = condition(z, label, self.num_classes)
        return context if blur is None else torch.cat([context, blur[:, None].to(z.dtype)], 1)

    def forward(
        self, context: Tensor, before: Tensor, lengths: Tensor, kept: Tensor | None = None
    ) -> PackedSequence:
        """Logits of the next tokens, packed: padding, which is half of the rows, is not computed.

        context: (N, ...) of context(); before: (N, L) int64, the previous tokens; lengths: (N,) on
        the CPU; kept: (N, width), the dropout mask of the GRU's outputs.
        """
        context = context[:, None].expand(-1, before.shape[1], -1)
        h, _ = self.gru(packed(torch.cat([self.embedding(before), context], 2), lengths))
        x = h.data
        if kept is not None:
            x = x * packed(kept[:, None].expand(-1, before.shape[1], -1), lengths).data
        return h._replace(data=self.logits(x))  # type: ignore[no-any-return]


class Model(GenerativeModel):
    """One phase, the negative ELBO."""

    family = "vae"
    host_reads: ClassVar[dict[str, str]] = {
        "loss": "torch takes the lengths of packed texts on the CPU, on GPUs too"
    }

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config: Config = config
        self.posterior: Posterior = (
            FixedNoisePosterior(config.latent, config.blur, config.clear)
            if config.blur
            else LearnedPosterior(config.latent, config.kl_floor, config.kl_ramp)
        )
        self.encoder, self.decoder = Encoder(config, self.posterior.outputs), Decoder(config)

    def phases(self) -> tuple[Phase, ...]:
        """One: encoder and decoder together."""
        return (Phase(name="elbo", module=self, optimizer=self.config.optimizer),)

    def loss(
        self, phase: str, batch: Batch, noise: BatchRNG, shared: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The posterior's objective of the texts' likelihoods, in nats per text."""
        config, text = self.config, batch["text"]
        label = batch["label"] if config.num_classes else None
        eps = noise.normal("posterior", config.latent)
        raw = self.encoder(text, label).to(eps.dtype)
        mu, logvar, blur = self.posterior.training_moments(raw, noise)
        z = mu + (0.5 * logvar).exp() * eps
        before = F.pad(text[:, :-1], (1, 0), value=END)
        if config.word_dropout:
            hidden = noise.uniform("words", config.shape[0]) < config.word_dropout
            before = before.masked_fill(hidden, self.decoder.hidden)
        kept = None
        if config.dropout:
            uniform = noise.uniform("dropout", config.width)
            kept = (uniform >= config.dropout).to(z.dtype) / (1 - config.dropout)
        lengths = written(text).sum(1).cpu()
        logits = self.decoder(self.decoder.context(z, label, blur), before, lengths, kept)
        token_nats = F.cross_entropy(
            logits.data.to(z.dtype), packed(text, lengths).data, reduction="none"
        )
        nats = pad_packed_sequence(logits._replace(data=token_nats), batch_first=True)[0].sum(1)
        loss, metrics = self.posterior.objective(nats, mu, logvar, noise)
        active = (mu.detach().var(0, correction=0) > ACTIVE).sum().to(nats.dtype)
        return loss, {name: x.detach() for name, x in metrics.items()} | {"active_units": active}

    def collapsed(self, values: dict[str, float]) -> str:
        """The decoder ignores the latent: it has become a language model."""
        kl, active = values.get("elbo/kl"), values.get("elbo/active_units")
        if kl is None or active is None:
            return ""
        used = min(kl, values.get("elbo/information_gain", kl))
        if used > COLLAPSED and active >= 1:
            return ""
        return (
            f"posterior collapse: KL {kl:.2g} nats, of which the decoder uses {used:.2g},"
            f" {active:.2g} latent dimensions in use; raise kl_floor, kl_ramp or word_dropout"
        )

    def exports(self) -> dict[str, Export]:
        """`sample` and `decode`, which run the graph of `step` token by token, and `encode`."""
        config, label = self.config, label_spec(self.config)
        latent = vector_spec("latent", config.latent)
        state, logits = vector_spec("state", config.width), vector_spec("logits", config.vocabulary)
        clear: tuple[TensorSpec, ...] = ()
        if config.blur:
            clear = (
                setting_spec("blur", (0.0, 1.0), config.clear),
                setting_spec("spread", (0.0, 10.0), 1.0),
            )
        step = Signature(
            graph="step.onnx",
            inputs=(latent, state, token_spec(config), *clear, *label),
            outputs=(logits, replace(state, name="next_state")),
        )
        noise, heat, *limits = token_sampling_specs(config)
        settings = (replace(heat, default=config.temperature), *limits)
        defaults = {"blur": config.blur, "spread": config.spread}
        blurred = tuple(replace(spec, default=defaults[spec.name]) for spec in clear)
        module = (_BlurredStep if config.blur else _Step)(self.decoder)

        def autoregressive(*inputs: TensorSpec) -> Export:
            text = (text_spec(config),)
            signature = Signature(graph=step.graph, inputs=inputs, outputs=text, step="step")
            return Export(module=AutoregressiveModule(signature, step, module), signature=signature)

        moments = (vector_spec("mu", config.latent), vector_spec("logvar", config.latent))
        encode = Signature(
            graph="encoder.onnx", inputs=(text_spec(config), *label), outputs=moments
        )
        return {
            "sample": autoregressive(latent_spec(config), *label, noise, *settings, *blurred),
            "decode": autoregressive(latent, *label, limits[-1], *clear),
            "encode": Export(module=_Encode(self), signature=encode),
            "step": Export(module=module, signature=step),
        }


class _Step(nn.Module):
    """The decoder at one position."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, latent: Tensor, state: Tensor, token: Tensor, label: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """latent: (N, latent), state: (N, width), token: (N,) int64."""
        return self.step(self.decoder.context(latent, label, None), state, token)

    def step(self, context: Tensor, state: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and the next state. context: (N, ...), state: (N, width), token: (N,)."""
        decoder, gru = self.decoder, self.decoder.gru
        x = torch.cat([decoder.embedding(token), context], 1)
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        w_ih, w_hh, b_ih, b_hh = (gru.get_parameter(name) for name in names)
        h = torch.gru_cell(x, state, w_ih, w_hh, b_ih, b_hh)
        return decoder.logits(h), h


class _BlurredStep(_Step):
    def forward(  # type: ignore[override]
        self,
        latent: Tensor,
        state: Tensor,
        token: Tensor,
        blur: Tensor,
        spread: Tensor,
        label: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See _Step; blur, spread: (N,)."""
        context = self.decoder.context(spread[:, None] * latent, label, blur)
        return self.step(context, state, token)


class _Encode(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.encoder, self.posterior = model.encoder, model.posterior

    def forward(self, text: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.posterior.moments(self.encoder(text, label))


def packed(x: Tensor, lengths: Tensor) -> PackedSequence:
    """(N, L, ...) without padding; lengths: (N,) int64 on the CPU."""
    return pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)


def written(text: Tensor) -> Tensor:
    """(N, L) int64 -> (N, L) bool: True for the tokens of each text and its first end."""
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
    """Surnames, most of whose samples do not occur in training; three minutes of one core."""
    run = numbers()
    return replace(
        run,
        preset="text_vae:names",
        model=Config(
            shape=(14,),
            latent=32,
            vocabulary=27,
            dropout=0.4,
            blur=0.88,
            spread=0.85,
            temperature=0.05,
            optimizer=OptimizerConfig(learning_rate=4e-3, betas=(0.9, 0.99)),
        ),
        data=DataConfig(source="surnames"),
        batch=128,
        samples=600_000,
        ema_half_life=20_000,
        report_interval=12_800,
    )


PRESETS = {"numbers": numbers, "names": names}
