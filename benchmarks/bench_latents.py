"""Bytes of latents against quality of what is decoded from them, beside WebP and AVIF.

    python -m benchmarks.bench_latents artifacts/kl8 artifacts/vq8 --data build/emoji64/all \
        --features runs/classifier

Latents of real numbers are rounded to 8 bits between the least and the largest value of their
channel over the training pictures; tokens count as many bits as their codebook needs. Neither is
coded any further. Linear patch PCA has the latent shape of the artifact above it.
"""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image

from aigc import data, feature_network
from aigc.artifact import Artifact
from aigc.artifact.image_files import to_uint8
from aigc.config import DataConfig, ModelConfig
from aigc.feature_network import FeatureNetwork
from aigc.metrics.perceptual import perceptual_distances
from aigc.metrics.reconstruction import linear
from aigc.metrics.similarity import psnr, ssim
from benchmarks.report import header, write_section

QUALITIES = (1, 10, 30, 60, 90)
LEVELS = 255
"""Steps of a number of 8 bits."""
BATCH = 64
Images = NDArray[np.float32]
Coded = tuple[float, Images]
"""Bytes per picture, and the decoded pictures (N, C, H, W) in [-1, 1]."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Curve of bytes against quality."""

    artifacts: tyro.conf.Positional[tuple[str, ...]]
    """Autoencoders with the signatures `encode` and `decode`."""
    data: str
    """Folder of pictures with a test split, of the artifacts' channels and size."""
    features: str
    """Network of perceptual distances, a reference as of `aigc evaluate --features`."""
    out: Path = Path("docs/image-models.md")
    """File whose section is rewritten."""


def main() -> None:
    """Measure, print and write."""
    bench = tyro.cli(Bench, description=Bench.__doc__)
    opened = [Artifact.open(where, verify=False) for where in bench.artifacts]
    size = opened[0].signature("reconstruct").sizes({})
    shape = opened[0].signature("reconstruct").at(size).inputs[0].fixed_shape
    train, test = (pictures(bench.data, shape, split) for split in ("train", "test"))
    network = feature_network.load(bench.features)
    rows = [
        f"| {name} | {cells(coded, test, network)} |" for name, coded in codes(opened, train, test)
    ]
    section = "\n".join(
        [
            f"{header('torch', 'onnxruntime', 'pillow')} {len(test):,} test pictures of"
            f" {Path(bench.data).name}, {' x '.join(map(str, shape))}.",
            "",
            f"| code | bytes a picture | PSNR, dB | SSIM | `perceptual/{network.name}` |",
            "|---|--:|--:|--:|--:|",
            *rows,
        ]
    )
    print(section)
    write_section(bench.out, "latents", section)


def pictures(path: str, shape: tuple[int, ...], split: data.Split) -> Images:
    """A split as (N, C, H, W) in [-1, 1]."""
    source = data.load(DataConfig(source="folder", path=path), ModelConfig(shape=shape), split)
    return data.scaled(data.whole(source, "stop").samples)


def codes(opened: list[Artifact], train: Images, test: Images) -> Iterator[tuple[str, Coded]]:
    """Name and result of every code."""
    for artifact in opened:
        latent = encoded(artifact, test)
        made_by = f"`{artifact.manifest.model}:{artifact.manifest.preset}`"
        yield made_by, latents(artifact, train, test)
        if latent.dtype.kind == "f":
            shape = latent.shape[1:]
            name = f"patch PCA, {' x '.join(map(str, shape))}"
            made = linear(train, test, test.shape[2] // shape[1], shape[0])
            yield name, (float(math.prod(shape)), made)
    for kind in ("webp", "avif"):
        for quality in QUALITIES:
            yield f"{kind.upper()}, quality {quality}", files_of(test, kind, quality)


def cells(coded: Coded, test: Images, network: FeatureNetwork) -> str:
    """Bytes, PSNR, SSIM and perceptual distance as cells of a row."""
    size, made = coded
    distance = perceptual_distances(network, made, test).mean()
    return f"{size:.0f} | {psnr(made, test):.1f} | {ssim(made, test):.3f} | {distance:.3f}"


def encoded(artifact: Artifact, images: Images) -> NDArray[np.generic]:
    """The first output of `encode`, (N, ...)."""
    return _run(artifact, "encode", images)


def latents(artifact: Artifact, train: Images, test: Images) -> Coded:
    """An autoencoder's latents, of 8 bits a number or of its tokens' bits."""
    latent = encoded(artifact, test)
    places = latent[0].size
    if latent.dtype.kind != "f":
        spec = artifact.signature("encode").outputs[0]
        assert spec.range is not None
        bits = math.ceil(math.log2(spec.range[1] - spec.range[0] + 1))
        return places * bits / 8, _decoded(artifact, latent)
    known = encoded(artifact, train).astype(np.float64)
    low, high = (reach(known, axis=(0, 2, 3), keepdims=True) for reach in (np.min, np.max))
    step = np.maximum(high - low, 1e-9) / LEVELS
    codes = np.clip(np.round((latent - low) / step), 0, LEVELS)
    return float(places), _decoded(artifact, (codes * step + low).astype(np.float32))


def _decoded(artifact: Artifact, latent: NDArray[np.generic]) -> Images:
    return _run(artifact, "decode", latent).astype(np.float32)


def _run(artifact: Artifact, name: str, given: NDArray[np.generic]) -> NDArray[np.generic]:
    signature = artifact.signature(name)
    parts = [
        artifact.run(name, {signature.inputs[0].name: given[i : i + BATCH]})
        for i in range(0, len(given), BATCH)
    ]
    return np.concatenate([part[signature.outputs[0].name] for part in parts])


def files_of(test: Images, kind: str, quality: int) -> Coded:
    """Pictures as files of a format; bytes are the mean of whole files."""
    pixels = to_uint8(test, -1, 1)
    size, made = 0, np.empty_like(test)
    for index, picture in enumerate(pixels):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, kind, quality=quality)
        size += file.tell()
        made[index] = data.scaled(np.asarray(Image.open(file)).transpose(2, 0, 1)[None])[0]
    return size / len(test), made


if __name__ == "__main__":
    main()
