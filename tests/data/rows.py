"""Rows of an image, a text and a sound as files, of which some lack one."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from aigc.artifact import audio_files
from aigc.artifact.image_files import png
from aigc.config import DataConfig, Modality, ModelConfig, TrainConfig
from aigc.models.multimodal_vae import Config
from tests.fixtures.make import config as tiny_run

RATE_HZ = 4000
SHAPES = {"image": (1, 8, 8), "text": (4,), "audio": (1, 512)}
WORDS = ("one", "two")


@dataclass(frozen=True, kw_only=True)
class Paired(ModelConfig):
    """The config of a model of three modalities."""

    text: int = 4

    @property
    def modality(self) -> Modality:
        return "paired"

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return SHAPES | {"text": (self.text,)}

    @property
    def num_tokens(self) -> int:
        return 6


PAIRED = Paired(num_classes=2)


def written(folder: Path, missing: str = "") -> DataConfig:
    """Four rows to train and two to test, of two classes; row 1 of each lacks `missing`."""
    for number in range(6):
        place = folder / ("train" if number < 4 else "test") / WORDS[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        image = np.random.default_rng(number).integers(0, 256, (8, 8, 1), np.uint8)
        image[0, :2, 0] = 0, 255
        wave = np.rint(30_000 * np.sin(np.arange(600) * (0.1 + number / 40)))
        files = {
            "image": (f"{number}.png", png(image)),
            "text": (f"{number}.txt", f"{WORDS[number % 2]}\n".encode()),
            "audio": (f"{number}.wav", audio_files.wav(wave.astype(np.int16)[:, None], RATE_HZ)),
        }
        for modality, (name, content) in files.items():
            if number % 4 != 1 or modality != missing:
                (place / name).write_bytes(content)
    return DataConfig(source="paired", path=str(folder), sample_rate_hz=RATE_HZ)


TINY = Config(
    shape=SHAPES["image"],
    tokens=SHAPES["text"][0],
    vocabulary=6,
    samples=SHAPES["audio"][1],
    window=64,
    hop=16,
    latent=4,
    private_image=4,
    private_audio=4,
    components=5,
    flow_layers=2,
    flow_width=8,
    image_widths=(8, 8),
    hidden=16,
    audio_widths=(8, 8),
    decoder_widths=(8, 8, 8),
    style=4,
    bands=8,
    ripple_bands=4,
    shift=1,
)


def run(folder: Path, missing: str = "", **changes: Any) -> TrainConfig:
    """A small run on rows of which some lack a modality."""
    small = replace(tiny_run(), preset="multimodal_vae:digits3", model=TINY, samples=64)
    return replace(small, data=written(folder, missing), **changes)
