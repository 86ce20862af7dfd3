"""Runs and artifacts of images of any number of channels, hardly trained and without labels."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from aigc.artifact import Store
from aigc.commands.export import export
from aigc.config import DataConfig, TrainConfig
from aigc.models import fc_gan
from tests.fixtures.make import config, write_run

OfChannels = Callable[[int], Path]
"""From a number of channels to an artifact, made once; not to be written to."""


def run_of(channels: int, folder: Path, **changes: Any) -> TrainConfig:
    """A GAN of 8 x 8 images that lie below `folder`: 200 for training, 40 held out."""
    random = np.random.default_rng(channels)
    sides = np.linspace(-0.6, 0.6, 8, dtype=np.float32)
    images = random.uniform(-0.4, 0.4, (240, channels, 8, 8)).astype(np.float32) + sides
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "data.npz", train_images=images[:200], test_images=images[200:])
    shape = (channels, 8, 8)
    widths = {"generator_widths": (8,), "discriminator_widths": (8,)}
    return replace(
        config(),
        model=fc_gan.Config(shape=shape, latent=4, **widths),
        data=DataConfig(source="npz", path=str(folder / "data.npz")),
        **changes,
    )


def sealed_of(channels: int, folder: Path, **changes: Any) -> Path:
    """Its artifact, called `many`."""
    run = write_run(folder / "run", run_of(channels, folder / "data", **changes))
    return Path(export(run, name="many", store=Store(folder / "store")))
