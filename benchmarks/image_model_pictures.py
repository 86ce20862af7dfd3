"""Picture of the generators of docs/image-models.md, from the runs of bench_image_models.

    python -m benchmarks.image_model_pictures

writes docs/people.png: the first samples of seed 0 of each, nothing picked.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from aigc import files
from aigc.artifact import Artifact
from aigc.artifact.image_files import grid, to_uint8
from aigc.metrics.degradation import Images
from benchmarks.bench_image_models import TRIALS

PEOPLE = Path("docs/people.png")
GENERATORS = ("dcgan:pictures64", "conv_vae:pictures64")
COLUMNS, ROWS = 12, 2
LABELS = 150
"""Width in pixels of the column of labels."""
SHADES = 128
"""Colours of the palette."""


def main() -> None:
    """Write the picture of generators of people, which must have been trained."""
    files.write(PEOPLE, drawn({preset: samples(preset, "people") for preset in GENERATORS}))


def samples(preset: str, data: str) -> Images:
    """(COLUMNS * ROWS, C, H, W) in [-1, 1] of the artifact of the run of seed 0."""
    trial = next(one for one in TRIALS if (one.preset, one.data) == (preset, data))
    artifact = Artifact.open(str(trial.folder(0) / "artifacts" / "model"), verify=False)
    name = artifact.signature("sample").outputs[0].name
    return np.asarray(artifact.sample(seed=0, n=COLUMNS * ROWS)[name])


def drawn(images: dict[str, Images]) -> bytes:
    """PNG of rows of pictures, labels to the left, with a palette so that it is small."""
    tiles = grid(to_uint8(np.concatenate([*images.values()]), -1, 1), COLUMNS)
    height, width, _ = tiles.shape
    page = Image.new("RGB", (LABELS + width, height), "white")
    page.paste(Image.fromarray(tiles), (LABELS, 0))
    draw, step = ImageDraw.Draw(page), height / len(images)
    for number, label in enumerate(images):
        draw.text((4, (number + 0.5) * step - 6), label, fill="black")
    file = io.BytesIO()
    page.quantize(SHADES).save(file, "PNG", optimize=True)
    return file.getvalue()


if __name__ == "__main__":
    main()
