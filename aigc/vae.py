"""The VAE family: the negative ELBO, and optionally a flow that samples are drawn by."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from aigc.artifact.manifest import Signature, TensorSpec
from aigc.config import ModelConfig, OptimizerConfig, require, require_values
from aigc.config.schedule import Scheduled
from aigc.model import Batch, Export, GenerativeModel, Phase
from aigc.nn import losses
from aigc.nn.flows import Flow
from aigc.nn.layers import one_hot
from aigc.nn.tensor_specs import label_spec, latent_spec, sample_spec, vector_spec
from aigc.rng import BatchRNG


@dataclass(frozen=True, kw_only=True)
class VAEConfig(ModelConfig):
    """Fields of every VAE's Config."""

    beta: Scheduled = 1.0
    """Weight of the KL term (Higgins et al. 2017, "beta-VAE"); may change during the run."""
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    """Distribution of a pixel given the latent; bernoulli reads intensities as probabilities."""
    gaussian_std: float = 0.3
    """Standard deviation of the gaussian likelihood, in units of [-1, 1]."""
    couplings: int = 0
    """Couplings of a flow that is fitted to the posterior's latents beside the networks, and that
    samples are drawn by; 0 samples the standard normal. A decoder knows only latents of data, which
    leave most of the standard normal empty (Dai & Wipf 2019, arXiv:1903.05789, section 4)."""
    flow_width: int = 128
    """Width of the flow's layers."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=1e-3, betas=(0.9, 0.999))
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_values("beta", self.beta, 0)
        require(self.couplings >= 0, f"couplings must be >= 0, got {self.couplings}")
        require(self.flow_width > 0, f"flow_width must be > 0, got {self.flow_width}")
        require(self.gaussian_std > 0, f"gaussian_std must be > 0, got {self.gaussian_std}")
        require(
            self.likelihood == "gaussian" or self.modality == "image",
            "likelihood bernoulli needs values in [-1, 1]; take gaussian for vectors",
        )

    def without_effect(self) -> dict[str, str]:
        """See ModelConfig.without_effect."""
        found = super().without_effect()
        if self.likelihood == "bernoulli":
            found["gaussian_std"] = "likelihood is bernoulli"
        if not self.couplings:
            found["flow_width"] = "couplings is 0"
        return found


class VAE(GenerativeModel):
    """Encoder and decoder; a subclass builds the two networks.

    encoder(x: (N, *shape), label: (N,) or None) -> (N, 2 · latent): mu beside log variance
    decoder(z: (N, latent), label) -> (N, *shape): Bernoulli logits or Gaussian means
    """

    family = "vae"

    def __init__(self, config: VAEConfig, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.config: VAEConfig = config
        self.encoder, self.decoder = encoder, decoder
        self.flow: Flow | None = None
        if config.couplings:
            self.flow = Flow(
                config.latent,
                config.num_classes,
                config.couplings,
                config.flow_width,
                mirrored=True,
            )

    def phases(self) -> tuple[Phase, ...]:
        """Encoder and decoder together; and the flow, if there is one."""
        optimizer = self.config.optimizer
        if self.flow is None:
            return (Phase(name="elbo", module=self, optimizer=optimizer),)
        networks = nn.ModuleList([self.encoder, self.decoder])
        return (
            Phase(name="elbo", module=networks, optimizer=optimizer),
            Phase(name="flow", module=self.flow, optimizer=optimizer),
        )

    def encode(self, x: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x: (N, *shape) in [-1, 1] -> mu, logvar of q(z | x), each (N, latent)."""
        mu, logvar = self.encoder(x, label).chunk(2, 1)
        return mu, logvar

    def decode(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """z: (N, latent) -> mean of p(x | z), (N, *shape), in [-1, 1] for images."""
        raw: Tensor = self.decoder(z, label)
        if self.config.likelihood == "bernoulli":
            return 2 * torch.sigmoid(raw) - 1
        return raw.clamp(-1, 1) if self.config.modality == "image" else raw

    def elbo(
        self, x: Tensor, label: Tensor | None, eps: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """E_q[log p(x | z)] - KL(q(z | x) ‖ p(z)) with one sample z = mu + sigma · eps.

        Kingma & Welling 2014, arXiv:1312.6114, eq. 10. Without the KL term this is an
        autoencoder, whose latent space cannot be sampled. Returns log likelihood and KL, each (N,)
        nats, mu and logvar.
        """
        mu, logvar = (moment.to(x.dtype) for moment in self.encode(x, label))
        # Likelihoods are summed in full precision, also under autocast.
        raw = self.decoder(mu + (0.5 * logvar).exp() * eps, label).to(x.dtype)
        if self.config.likelihood == "bernoulli":
            log_likelihood = losses.bernoulli_log_likelihood(raw, (x + 1) / 2)
        else:
            log_likelihood = losses.gaussian_log_likelihood(raw, x, self.config.gaussian_std)
        return log_likelihood, losses.gaussian_kl(mu, logvar), mu, logvar

    def loss(
        self, phase: str, batch: Batch, noise: BatchRNG, shared: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Negative ELBO with the KL weighted by beta, in nats per sample."""
        label = batch["label"] if self.config.num_classes else None
        eps = noise.normal("posterior", self.config.latent)
        if phase == "flow":
            return self._flow_loss(batch[self.config.modality], label, eps), {}
        log_likelihood, kl, _, _ = self.elbo(batch[self.config.modality], label, eps)
        loss = (noise.at(self.config.beta) * kl - log_likelihood).mean()
        metrics = {"elbo": (log_likelihood - kl).mean().detach(), "kl": kl.mean().detach()}
        return loss, metrics

    def _flow_loss(self, x: Tensor, label: Tensor | None, eps: Tensor) -> Tensor:
        """Negative log density () in nats of latents of the posterior, which are constants here."""
        assert self.flow is not None
        with torch.no_grad():
            mu, logvar = (moment.to(x.dtype) for moment in self.encode(x, label))
            z = mu + (0.5 * logvar).exp() * eps
        classes = one_hot(label, self.config.num_classes, z.dtype)
        return -self.flow.log_prob(z, classes).mean()

    def exports(self) -> dict[str, Export]:
        """`sample`, `decode` (one graph without a flow), `encode` and `reconstruct`."""
        x, z, label = sample_spec(self.config), latent_spec(self.config), label_spec(self.config)
        size = self.config.latent
        latent = vector_spec("latent", size)
        moments = (vector_spec("mu", size), vector_spec("logvar", size))
        decode = _Decode(self)

        def signature(graph: str, first: TensorSpec, *outputs: TensorSpec) -> Signature:
            return Signature(graph=graph, inputs=(first, *label), outputs=outputs)

        sample = Export(module=decode, signature=signature("decoder.onnx", z, x))
        if self.flow is not None:
            sample = Export(module=_Sample(self), signature=signature("sampler.onnx", z, x))
        return {
            "sample": sample,
            "decode": Export(module=decode, signature=signature("decoder.onnx", latent, x)),
            "encode": Export(
                module=_Encode(self), signature=signature("encoder.onnx", x, *moments)
            ),
            "reconstruct": Export(
                module=_Reconstruct(self),
                signature=signature("autoencoder.onnx", x, replace(x, name="reconstruction")),
            ),
        }


class _Decode(nn.Module):
    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        return self.vae.decode(latent, label)


class _Sample(nn.Module):
    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        assert self.vae.flow is not None
        classes = one_hot(label, self.vae.config.num_classes, latent.dtype)
        return self.vae.decode(self.vae.flow.inverse(latent, classes)[0], label)


class _Encode(nn.Module):
    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.vae.encode(x, label)


class _Reconstruct(nn.Module):
    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        return self.vae.decode(self.vae.encode(x, label)[0], label)
