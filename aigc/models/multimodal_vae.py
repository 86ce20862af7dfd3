"""VAE of image, text and sound of one thing, for generating any of them from any others.

The posterior of the shared latents is a product of experts over the modalities that are given (Wu &
Goodman 2018, arXiv:1802.05335). Image and sound have private latents beside them, whose density
given the shared ones is a flow.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aigc.artifact.manifest import Signature, TensorSpec
from aigc.config import DataConfig, Modality, OptimizerConfig, TrainConfig, require
from aigc.model import Batch, Export, GenerativeModel, Phase
from aigc.nn import losses
from aigc.nn.audio_decoder import Decoder, HarmonicSynthesizer, VoiceConfig
from aigc.nn.encoders import POOLED, AudioEncoder, ImageEncoder, TextEncoder, shifted
from aigc.nn.flows import Flow, standard_normal_log_prob
from aigc.nn.layers import Dense, Upsampler, upsampling_base
from aigc.nn.mixture import Mixture
from aigc.nn.posteriors import bounded_log_variance, expert_moments, product_of_experts
from aigc.nn.spectrogram import LogMagnitude
from aigc.nn.tensor_specs import latent_spec, optional_specs, part_spec
from aigc.rng import BatchRNG

IMAGE: Final = "image"
TEXT: Final = "text"
AUDIO: Final = "audio"
MODALITIES: Final = (IMAGE, TEXT, AUDIO)
TURNS = (
    *((1, 0, 0),) * 3,
    *((0, 1, 0), (0, 0, 1)) * 2,
    *((1, 1, 0), (1, 0, 1), (0, 1, 1)),
    *((1, 1, 1),) * 2,
)
"""Subsets of the modalities that rows are encoded from, each as often as it is listed: an image
alone
is the hardest."""


@dataclass(frozen=True, kw_only=True)
class Config(VoiceConfig):
    """Encoders, decoders and densities of three modalities."""

    shape: tuple[int, ...] = (1, 28, 28)
    """(C, H, W) of the image."""
    tokens: int = 6
    """Length of the text, its end included."""
    vocabulary: int = 16
    """Number of tokens, the end of a text included."""
    samples: int = 4096
    """Length of the sound."""
    latent: int = 12
    """Latent dimensions that the modalities share."""
    private_image: int = 16
    """Latent dimensions of the image alone; a text has none, the shared ones determine it."""
    private_audio: int = 16
    """Latent dimensions of the sound alone."""
    components: int = 40
    """Gaussians in the density of the shared latents."""
    flow_layers: int = 6
    """Couplings in the density of the private latents."""
    flow_width: int = 64
    """Hidden units of each coupling."""
    image_widths: tuple[int, ...] = (32, 64)
    """Channels of the image's convolutions, each of stride 2; its decoder mirrors them."""
    hidden: int = 256
    """Width of dense layers."""
    audio_widths: tuple[int, ...] = (96, 96)
    """Channels of the sound's convolutions, each of stride 2."""
    beta: float = 2.0
    """Weight of the KL term of the shared latents; a higher one moves information into private
    ones."""
    image_std: float = 0.15
    """Standard deviation of a pixel given the latents, in units of [-1, 1]."""
    shared_temperature: float = 0.8
    """Factor of the shared noise in samples; below 1 fewer fall between two classes."""
    private_temperature: float = 0.95
    """Factor of the private noise in samples."""
    image_weight: float = 1.0
    """Weight of the image in the loss."""
    text_weight: float = 10.0
    """Weight of the text in the loss."""
    audio_weight: float = 0.3
    """Weight of the sound in the loss."""
    shift: int = 2
    """Largest shift, in pixels, of the image before its shared latents are encoded."""
    jitter: float = 0.3
    """Standard deviation of noise added before shared latents are encoded."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=1e-3, betas=(0.9, 0.99))
    )
    density_optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=5e-3, betas=(0.9, 0.99))
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        upsampling_base(self.shape, self.image_widths, (2,) * len(self.image_widths), 4)
        self.check_frames("audio_widths", len(self.audio_widths), POOLED)
        for name in ("private_image", "private_audio", "tokens", "vocabulary"):
            require(getattr(self, name) > 1, f"{name} must be > 1, got {getattr(self, name)}")
        for name in ("components", "flow_layers", "flow_width", "hidden"):
            require(getattr(self, name) > 0, f"{name} must be > 0, got {getattr(self, name)}")
        weights = ("beta", "image_weight", "text_weight", "audio_weight")
        for name in (*weights, "jitter", "shift"):
            require(getattr(self, name) >= 0, f"{name} must be >= 0, got {getattr(self, name)}")

    @property
    def modality(self) -> Modality:
        """`paired`."""
        return "paired"

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each modality."""
        return {IMAGE: self.shape, TEXT: (self.tokens,), AUDIO: (1, self.samples)}

    @property
    def num_tokens(self) -> int:
        """Size of the vocabulary."""
        return self.vocabulary

    @property
    def context(self) -> int:
        """Width of write()'s second result, which image and sound are decoded from."""
        return self.latent + self.tokens * self.vocabulary


class Networks(nn.Module):
    """All modules trained by the ELBO."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        s, u_image, u_audio = config.latent, config.private_image, config.private_audio
        written = config.tokens, config.vocabulary
        image = config.shape, config.image_widths, config.hidden
        audio = config.stft, config.audio_widths, config.hidden
        self.voice = HarmonicSynthesizer(config)
        self.shared = nn.ModuleDict(
            {
                IMAGE: ImageEncoder(*image, 2 * s),
                TEXT: TextEncoder(*written, config.hidden, 2 * s),
                AUDIO: AudioEncoder(*audio, 2 * s),
            }
        )
        self.private = nn.ModuleDict(
            {IMAGE: ImageEncoder(*image, 2 * u_image), AUDIO: AudioEncoder(*audio, 2 * u_audio)}
        )
        self.flows = nn.ModuleDict(
            {
                name: Flow(
                    size,
                    config.context,
                    config.flow_layers,
                    config.flow_width,
                    act="leaky_relu",
                    mirrored=True,
                )
                for name, size in ((IMAGE, u_image), (AUDIO, u_audio))
            }
        )
        widths = config.image_widths[::-1]
        self.image = Upsampler(
            config.context + u_image,
            config.shape,
            widths,
            (2,) * len(widths),
            4,
            "leaky_relu",
            False,
        )
        self.text = Dense(s, config.hidden, config.tokens * config.vocabulary)
        self.audio = Decoder(config, config.context + u_audio, config.hidden, self.voice.size)
        self.written = written

    def write(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the text (N, tokens, vocabulary), and s beside the text's probabilities,
        (N, context), which image and sound are decoded from."""
        logits = self.text(s).to(s.dtype).unflatten(1, self.written)
        return logits, torch.cat([s, logits.softmax(2).flatten(1)], 1)

    def flow(self, name: str) -> Flow:
        """From standard normal noise to the private latents of a modality."""
        flow = self.flows[name]
        assert isinstance(flow, Flow)
        return flow


class Model(GenerativeModel):
    """Two phases: the negative ELBO, and the density of the shared latents."""

    family = "vae"

    subsets: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config: Config = config
        self.networks = Networks(config)
        self.density = Mixture(config.latent, config.components)
        turns = torch.tensor(TURNS, dtype=torch.float32)
        self.register_buffer("subsets", turns, persistent=False)

    def phases(self) -> tuple[Phase, ...]:
        """The networks, and the density, which is fitted to the latents of the same batch."""
        c = self.config
        return (
            Phase(name="elbo", module=self.networks, optimizer=c.optimizer),
            Phase(name="density", module=self.density, optimizer=c.density_optimizer),
        )

    def prepare(self, batch: Batch, noise: BatchRNG, due: Collection[str]) -> Any:
        """The experts' moments, the spectrograms, and the modalities that each row has."""
        config = self.config
        like = batch[IMAGE]
        have = torch.stack([batch[f"mask/{name}"] for name in MODALITIES], 1)
        with torch.no_grad():
            level = config.stft.log_magnitude(batch[AUDIO])
        with torch.set_grad_enabled("elbo" in due):
            image = like + config.jitter * noise.normal("jitter/image", *config.shape)
            image = shifted(image, noise.uniform("shift", 2), config.shift)
            sound = level + config.jitter * noise.normal("jitter/audio", *level.shape[1:])
            shared = self.networks.shared
            seen = {IMAGE: image, TEXT: batch[TEXT], AUDIO: sound}
            experts = [
                expert_moments(shared[name](seen[name]).to(like.dtype)) for name in MODALITIES
            ]
        return experts, level, have

    def loss(
        self, phase: str, batch: Batch, noise: BatchRNG, shared: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See GenerativeModel.loss."""
        experts, level, have = shared
        eps = noise.normal("shared", self.config.latent)
        if phase == "density":
            mu, logvar = product_of_experts([(m.detach(), v.detach()) for m, v in experts], have)
            loss = -self.density.log_prob(mu + (0.5 * logvar).exp() * eps).mean()
            return loss, {}
        return self._elbo(batch, noise, experts, level, have, eps)

    def _elbo(
        self,
        batch: Batch,
        noise: BatchRNG,
        experts: list[tuple[Tensor, Tensor]],
        level: Tensor,
        have: Tensor,
        eps: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        config, net = self.config, self.networks
        turn = (noise.uniform("subset") * len(self.subsets)).long()
        given = self.subsets.to(eps.dtype)[turn] * have
        # A row that lacks all of its subset is encoded from all that it has.
        given = torch.where(given.sum(1, keepdim=True) > 0, given, have)
        mu, logvar = product_of_experts(experts, given)
        s = mu + (0.5 * logvar).exp() * eps
        kl = losses.gaussian_kl(mu, logvar)
        logits, context = net.write(s)
        nats = F.cross_entropy(logits.transpose(1, 2), batch[TEXT], reduction="none").sum(1)
        raw, kl_image = self._reconstruct(IMAGE, batch[IMAGE], context, noise)
        parameters, kl_audio = self._reconstruct(AUDIO, level, context, noise)
        sound = net.voice.nats(parameters, level)
        parts = {
            IMAGE: kl_image - losses.gaussian_log_likelihood(raw, batch[IMAGE], config.image_std),
            TEXT: nats,
            AUDIO: kl_audio + sum(sound.values()),
        }
        weights = (config.image_weight, config.text_weight, config.audio_weight)
        total = config.beta * kl
        for k, (name, weight) in enumerate(zip(MODALITIES, weights, strict=True)):
            total = total + weight * have[:, k] * parts[name]
        kls = {"kl": kl, f"kl_{IMAGE}": kl_image, f"kl_{AUDIO}": kl_audio}
        metrics = kls | {"text": nats} | sound
        return total.mean(), {k: v.mean().detach() for k, v in metrics.items()}

    def _reconstruct(
        self, name: str, x: Tensor, context: Tensor, noise: BatchRNG
    ) -> tuple[Tensor, Tensor]:
        """A modality decoded from a draw of its private posterior, and the KL term of it, (N,)."""
        net = self.networks
        mu, raw = net.private[name](x).to(context.dtype).chunk(2, 1)
        logvar = bounded_log_variance(raw)
        eps = noise.normal(f"private/{name}", mu.shape[1])
        u = mu + (0.5 * logvar).exp() * eps
        log_q = -0.5 * (eps.square() + logvar + math.log(2 * math.pi)).sum(1)
        decoded = getattr(net, name)(torch.cat([context, u], 1)).to(context.dtype)
        noise_of_u, log_det = net.flow(name).inverse(u, context)
        return decoded, log_q - (log_det + standard_normal_log_prob(noise_of_u))

    def exports(self) -> dict[str, Export]:
        """`sample` and `translate`."""
        config = self.config
        size = config.latent + config.private_image + config.private_audio
        noise = replace(latent_spec(config), shape=(size,))
        component = TensorSpec(name="component", kind="uniform", dtype="float32", shape=(1,))
        specs = [part_spec(config, name) for name in MODALITIES]
        given = [tensor for spec in specs for tensor in optional_specs(spec)]
        outputs = tuple(replace(spec, name=f"new_{spec.name}") for spec in specs)
        sample = Signature(graph="sample.onnx", inputs=(noise, component), outputs=tuple(specs))
        translate = Signature(graph="translate.onnx", inputs=(*given, noise), outputs=outputs)
        return {
            "sample": Export(module=_Sample(self), signature=sample),
            "translate": Export(module=_Translate(self), signature=translate),
        }


class _Decode(nn.Module):
    """Shared latents, and noise for private ones, to all three modalities."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.config, self.networks = model.config, model.networks

    def forward(self, s: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        config, net = self.config, self.networks
        sizes = [config.latent, config.private_image, config.private_audio]
        eps = torch.split(noise, sizes, 1)
        logits, context = net.write(s)
        heat = config.private_temperature
        u_image, _ = net.flow(IMAGE)(heat * eps[1], context)
        u_audio, _ = net.flow(AUDIO)(heat * eps[2], context)
        image = net.image(torch.cat([context, u_image], 1)).clamp(-1, 1)
        sound = net.voice(net.audio(torch.cat([context, u_audio], 1)))
        return image, logits.argmax(2), sound


class _Sample(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.density, self.decode = model.density, _Decode(model)

    def forward(self, latent: Tensor, component: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        config = self.decode.config
        eps = config.shared_temperature * latent[:, : config.latent]
        s = self.density(eps, component)
        return self.decode(s, latent)  # type: ignore[no-any-return]


class _Translate(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.seen, self.decode = LogMagnitude(model.config.stft), _Decode(model)
        self.shared = model.networks.shared

    def forward(
        self,
        image: Tensor,
        image_given: Tensor,
        text: Tensor,
        text_given: Tensor,
        audio: Tensor,
        audio_given: Tensor,
        latent: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        config = self.decode.config
        seen = (image, text, self.seen(audio))
        pairs = zip(MODALITIES, seen, strict=True)
        experts = [expert_moments(self.shared[name](x)) for name, x in pairs]
        given = torch.stack([image_given, text_given, audio_given], 1)
        mu, logvar = product_of_experts(experts, given)
        s = mu + (0.5 * logvar).exp() * latent[:, : config.latent]
        return self.decode(s, latent)  # type: ignore[no-any-return]


def digits3() -> TrainConfig:
    """A handwritten digit, its word, and the word spoken."""
    return TrainConfig(
        preset="multimodal_vae:digits3",
        model=Config(),
        data=DataConfig(source="digits3"),
        samples=64_000,
        batch=16,
        ema_half_life=10_000,
        report_interval=3_200,
        grid_interval=0,
    )


PRESETS = {"digits3": digits3}
