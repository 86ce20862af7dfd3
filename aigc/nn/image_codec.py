"""Signatures of an encoder and a decoder of pictures, at any size that is a multiple of a patch."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from aigc.artifact.manifest import Signature, TensorSpec
from aigc.model import Export
from aigc.nn.codebooks import Codebook
from aigc.nn.image_to_image import image_axes, image_spec
from aigc.nn.map_flow import MapFlow

SMALLEST_DEVIATION = 1e-4


class Moments(nn.Module):
    """Running mean and deviation of latents by channel, of which `sample` draws.

    With a prior they normalise what it is of.
    """

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(latent))
        self.register_buffer("square", torch.ones(latent))
        self.mean: Tensor
        self.square: Tensor

    def sums(self, z: Tensor) -> dict[str, Tensor]:
        """Sums of the values of z, (N, latent, h, w), and of their squares, and their number."""
        sums = {"values": z.sum((0, 2, 3)), "squares": z.square().sum((0, 2, 3))}
        return {**sums, "places": z.new_full((), z[:, 0].numel())}

    def update(self, sums: dict[str, Tensor]) -> None:
        """Running means, by a hundredth per batch."""
        self.mean.lerp_(sums["values"] / sums["places"], 0.01)
        self.square.lerp_(sums["squares"] / sums["places"], 0.01)

    def deviation(self) -> Tensor:
        """(latent,), at least SMALLEST_DEVIATION, so that a constant channel can be normalised."""
        return (self.square - self.mean.square()).clamp_min(SMALLEST_DEVIATION**2).sqrt()

    def normalised(self, z: Tensor) -> Tensor:
        """z, (N, latent, h, w), to mean 0 and deviation 1 by channel; finite if one is constant."""
        return (z - self.mean[:, None, None]) / self.deviation()[:, None, None]


@dataclass(frozen=True)
class ImageCodec:
    """The parts of an autoencoder of pictures."""

    encoder: nn.Module
    """(N, C, H, W) -> (N, latent or more, H / factor, W / factor); what is more is left out."""
    decoder: nn.Module
    """(N, latent, h, w) -> (N, C, H, W)."""
    latent: int
    codebook: Codebook | None = None
    """Codes of the latents; None for latents of real numbers."""
    moments: Moments | None = None
    """Moments by which latents of real numbers are drawn."""
    prior: MapFlow | None = None
    """Flow from normalised latents to standard normal maps; None draws each place by itself."""

    def exports(
        self, shape: tuple[int, ...], factor: int, bounds: tuple[int, int]
    ) -> dict[str, Export]:
        """`reconstruct`, `encode`, `decode` and `sample` of pictures of a shape (C, H, W), and of
        those whose latents are of any height and width within the bounds.

        Codes are called `tokens`. Pictures, and tokens, beyond the bounds are made of tiles, but
        for those that `sample` draws by a prior, which sees the whole map: they end at the bounds.
        `sample` draws N(0, I) of the size of the latent, which the prior, or else the moments
        alone, make a latent of, or a uniform number for each code.
        """
        axes = image_axes(shape[1] // factor, shape[2] // factor, *bounds)
        image = image_spec("image", shape[0], factor)
        latent = TensorSpec(
            name="latent", kind="vector", dtype="float32", shape=(self.latent, "h", "w")
        )
        drawn = replace(latent, kind="latent")
        again: tuple[TensorSpec, ...] = (replace(image, name="reconstruction"),)
        if self.codebook is not None:
            codes = (0.0, self.codebook.codes - 1.0)
            latent = TensorSpec(
                name="tokens", kind="vector", dtype="int64", shape=("h", "w"), range=codes
            )
            drawn = TensorSpec(name="drawn", kind="uniform", dtype="float32", shape=("h", "w"))
            again = (*again, latent)

        def export(module: nn.Module, graph: str, given: TensorSpec, *made: TensorSpec) -> Export:
            signature = Signature(graph=graph, inputs=(given,), outputs=made, axes=axes)
            apart = self.prior is None or given.kind != "latent"
            tile = apart and all(spec.kind == "image" or spec.is_codes for spec in made)
            return Export(module=module, signature=signature, tile=tile)

        return {
            "sample": export(_Sample(self), "sampler.onnx", drawn, image),
            "reconstruct": export(_Reconstruct(self), "autoencoder.onnx", image, *again),
            "encode": export(_Encode(self), "encoder.onnx", image, latent),
            "decode": export(_Decode(self), "decoder.onnx", latent, image),
        }


class _Encode(nn.Module):
    """(N, C, H, W) -> tokens (N, h, w), or latents (N, latent, h, w)."""

    def __init__(self, codec: ImageCodec) -> None:
        super().__init__()
        self.encoder, self.codebook, self.latent = codec.encoder, codec.codebook, codec.latent

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.encoder(x)[:, : self.latent]
        return found if self.codebook is None else self.codebook.tokens(found)


class _Decode(nn.Module):
    """Tokens (N, h, w) or latents (N, latent, h, w) -> (N, C, H, W) in [-1, 1]."""

    def __init__(self, codec: ImageCodec) -> None:
        super().__init__()
        self.decoder, self.codebook = codec.decoder, codec.codebook

    def forward(self, latent: Tensor) -> Tensor:
        z = latent if self.codebook is None else self.codebook.vectors_of(latent)
        return self.decoder(z).clamp(-1, 1)  # type: ignore[no-any-return]


class _Reconstruct(nn.Module):
    """(N, C, H, W) -> (N, C, H, W) in [-1, 1], with the tokens between, if there are some."""

    def __init__(self, codec: ImageCodec) -> None:
        super().__init__()
        self.encode, self.decode = _Encode(codec), _Decode(codec)
        self.has_tokens = codec.codebook is not None

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        latent = self.encode(x)
        made: Tensor = self.decode(latent)
        return (made, latent) if self.has_tokens else made


class _Sample(nn.Module):
    """A latent that is drawn by the prior, else each of its places by itself, decoded."""

    def __init__(self, codec: ImageCodec) -> None:
        super().__init__()
        self.decode, self.codebook, self.prior = _Decode(codec), codec.codebook, codec.prior
        if codec.moments is not None:
            self.register_buffer("mean", codec.moments.mean[:, None, None])
            self.register_buffer("deviation", codec.moments.deviation()[:, None, None])
        self.mean: Tensor
        self.deviation: Tensor

    def forward(self, drawn: Tensor) -> Tensor:
        if self.codebook is not None:
            return self.decode(self.codebook.draw(drawn))  # type: ignore[no-any-return]
        normal = drawn if self.prior is None else self.prior.inverse(drawn)
        return self.decode(self.mean + self.deviation * normal)  # type: ignore[no-any-return]
