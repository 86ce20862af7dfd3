"""Files of a user: a small GAN, a data source and a metric, and packages that declare them."""

import sys
from pathlib import Path

import pytest

from aigc.own_code import code_files

GAN = '''
from dataclasses import dataclass

from torch import cat, nn

from aigc.config import DataConfig, TrainConfig
from aigc.gan import GAN, GANConfig


@dataclass(frozen=True, kw_only=True)
class Config(GANConfig):
    """A GAN of points."""

    width: int = 8
    """Width of both networks."""


class Critic(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, config.width), nn.Tanh(), nn.Linear(config.width, 1)
        )

    def forward(self, x, label):
        return self.layers(x).squeeze(1), None


class Generator(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layers = nn.Linear(config.latent, 2)

    def forward(self, z, label):
        return self.layers(z)


class Model(GAN):
    def __init__(self, config):
        super().__init__(config, Generator(config), Critic(config))


def small():
    return TrainConfig(
        preset="points:small",
        model=Config(shape=(2,), latent=4),
        data=DataConfig(source="ring"),
        samples=256,
        batch=32,
    )


PRESETS = {"small": small}
'''

SOURCE = '''
import numpy as np

from aigc.data import Dataset


def load(config, shape, split):
    """Points on a line."""
    points = np.linspace(-1, 1, 64 if split == "train" else 32, dtype=np.float32)
    return Dataset(
        name="line",
        samples=np.stack([points, points], 1),
        labels=np.zeros(len(points), np.int64),
        classes=(),
    )
'''


READ_WHEN_DUE = '''
import numpy as np

from aigc.data import permutation


class Line:
    """Points on a line, read one by one."""

    name, classes = "line", ()

    def __len__(self):
        return 64

    def shard_of(self, row):
        return row // 16

    def read(self, row):
        return np.full(2, row / 64, np.float32), 0

    def order(self, seed, epoch):
        return permutation(seed, epoch, 64)

    def fingerprint(self):
        return {"name": "line", "samples": 64, "classes": [], "sha256": "line"}


def load(config, shape, split, *, conditional):
    assert not conditional
    return Line()
'''

METRIC = """
import numpy as np

from aigc.metrics import Distance, Evaluation


def evaluate(artifact, train, test, n, seed):
    evaluation = Evaluation()
    points = artifact.sample(seed=seed, n=n)["vector"]
    evaluation.add("off_the_line", lambda: off(points), lambda: off(test.samples), "lower")
    return evaluation


def distance(real):
    return Distance(off)


def off(points):
    return float(np.abs(points[:, 0] - points[:, 1]).mean())
"""


def write(folder: Path, text: str, name: str = "points.py") -> Path:
    """A file in a folder that is created if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text)
    return path


def install(folder: Path, package: str, entry_points: str, **modules: str) -> None:
    """A package in a folder of the import path, with its metadata as an installer writes them."""
    for name, text in {"__init__": "", **modules}.items():
        write(folder / package, text, f"{name}.py")
    metadata = folder / f"{package}-1.2.dist-info"
    write(metadata, f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n", "METADATA")
    write(metadata, entry_points, "entry_points.txt")
    write(metadata, package, "top_level.txt")


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process as one that has seen no file of a user."""
    for file in code_files._known.values():
        monkeypatch.delitem(sys.modules, file.module, raising=False)
    monkeypatch.setattr(code_files, "_known", {})
