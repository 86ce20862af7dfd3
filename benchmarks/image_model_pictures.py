"""Pictures of the models of docs/image-models.md, from the runs of bench_image_models.

    python -m benchmarks.image_model_pictures

writes docs/people.png and docs/emoji.png. Nothing is picked: samples are the first of seed 0, test
pictures are evenly spaced in the test data.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from aigc import files
from aigc.artifact import Artifact
from aigc.artifact.image_files import grid, png, to_uint8
from aigc.metrics.degradation import Images
from aigc.metrics.restoration import restored
from benchmarks.bench_image_models import EMOJI, TRIALS, manifest
from benchmarks.bench_latents import pictures

COLUMNS = 12
SHAPE = (3, 64, 64)
LABELS = 150
"""Width in pixels of the column of labels."""
GENERATORS = ("dcgan:pictures64", "conv_vae:pictures64", "autoencoder:kl8_prior")
RECONSTRUCTED = ("autoencoder:kl8", "autoencoder:vq8")
RESTORED = ("upscaler:x2", "denoiser:gaussian", "inpainter:holes")
Row = tuple[str, Images]
"""A label, and pictures (COLUMNS, C, H, W) in [-1, 1]."""


def main() -> None:
    """Write both pictures."""
    people, emoji = (
        spread(pictures(str(EMOJI / name), SHAPE, "test")) for name in ("people", "all")
    )
    files.write(Path("docs/people.png"), drawn([("test pictures", people), *generated("people")]))
    files.write(Path("docs/emoji.png"), drawn([("test pictures", emoji), *made_again(emoji)]))


def spread(images: Images) -> Images:
    """COLUMNS of the images, evenly spaced."""
    return images[np.linspace(0, len(images) - 1, COLUMNS).astype(int)]


def generated(data: str) -> Iterator[Row]:
    """Two rows of samples of each generator that is there."""
    for preset in GENERATORS:
        if artifact := opened(preset, data):
            name = artifact.signature("sample").outputs[0].name
            made = np.asarray(artifact.sample(seed=0, n=2 * COLUMNS)[name])
            yield from ((preset, made[:COLUMNS]), ("", made[COLUMNS:]))


def made_again(real: Images) -> Iterator[Row]:
    """Reconstructions, and what restorations are given and make of it, beside a classic method."""
    for preset in (*RECONSTRUCTED, *RESTORED):
        artifact = opened(preset, "emoji")
        if artifact is None:
            continue
        name = next(
            name for name in artifact.manifest.signatures if name not in ("encode", "decode")
        )
        name = "reconstruct" if preset in RECONSTRUCTED else name
        # Of several degradations the first is shown.
        one = next(
            iter(restored(name, artifact.signature(name), real, partial(run, artifact, name)))
        )
        if one.trial.baseline is None:
            yield preset, one.images
            continue
        yield "given", enlarged(one.trial.shown)
        yield one.trial.baseline_name, one.trial.baseline()
        yield preset, one.images


def run(
    artifact: Artifact, name: str, given: dict[str, NDArray[np.generic]]
) -> dict[str, NDArray[np.generic]]:
    """Outputs of a signature, of all of its inputs that are given; others are drawn of seed 0."""
    rows = range(len(next(iter(given.values()))))
    return artifact.run(name, artifact.draw(name, 0, rows, given=given))


def opened(preset: str, data: str) -> Artifact | None:
    """The artifact of seed 0, if it was evaluated."""
    trial = next(one for one in TRIALS if (one.preset, one.data) == (preset, data))
    if not manifest(trial, 0):
        return None
    return Artifact.open(str(trial.folder(0) / "artifacts" / "model"), verify=False)


def enlarged(images: Images) -> Images:
    """Images (N, C, H, W) of the size of SHAPE, pixel by pixel."""
    factor = SHAPE[1] // images.shape[2]
    return images.repeat(factor, 2).repeat(factor, 3)


def drawn(rows: list[Row]) -> bytes:
    """PNG of rows of pictures, labels to the left."""
    tiles = grid(to_uint8(np.concatenate([images for _, images in rows]), -1, 1), COLUMNS)
    height, width, _ = tiles.shape
    page = Image.new("RGB", (LABELS + width, height), "white")
    page.paste(Image.fromarray(tiles), (LABELS, 0))
    draw = ImageDraw.Draw(page)
    step = (height + 2) / len(rows)
    for number, (label, _) in enumerate(rows):
        draw.text((4, number * step + step / 2 - 6), label, fill="black")
    return png(np.asarray(page))


if __name__ == "__main__":
    main()
