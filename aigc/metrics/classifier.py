"""A small CNN trained on a real training split only: judge and feature extractor of images."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aigc.data import Dataset, scaled
from aigc.noise import derive

NAME = "cnn64"
"""Part of the name of every metric that uses these features."""
EPOCHS = 16


@dataclass(frozen=True)
class Judgement:
    """What the classifier makes of images."""

    features: NDArray[np.float32]
    """(N, 64): the layer before the logits."""
    predicted: NDArray[np.int64]
    """(N,) class indices."""


class Classifier:
    """A trained judge.

    classifier = Classifier.trained_on(train)
    classifier.accuracy(test.samples, test.labels)      # 0.99
    """

    def __init__(self, network: nn.Sequential) -> None:
        self._network = network.eval()

    @classmethod
    def trained_on(cls, dataset: Dataset, cache: Path | None = None) -> "Classifier":
        """Train on a real split from a fixed seed, or load what was trained on the same data.

        Cached by content hash below `cache`, by default $XDG_CACHE_HOME/aigc.
        """
        cache = cache or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "aigc"
        facts = f"{NAME}/{EPOCHS}/{torch.__version__}/{dataset.fingerprint()['sha256']}"
        path = cache / f"{NAME}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.safetensors"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(facts))
            network = _network(dataset.samples.shape[1:], len(dataset.classes))
            if path.exists():
                network.load_state_dict(load_file(path))
            else:
                _fit(network, dataset)
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary = path.with_suffix(f".{os.getpid()}.tmp")
                save_file(network.state_dict(), temporary)
                temporary.rename(path)
        return cls(network)

    def judge(self, images: NDArray[np.float32]) -> Judgement:
        """images: (N, C, H, W) float32 in [-1, 1]."""
        with torch.no_grad():
            parts = [self._network[:-1](x) for x in torch.split(torch.from_numpy(images), 512)]
            features = torch.cat(parts)
            predicted = self._network[-1](features).argmax(1)
        return Judgement(features=features.numpy(), predicted=predicted.numpy())

    def accuracy(self, images: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
        """Share of images (N, C, H, W) taken for their label (N,)."""
        return float((self.judge(images).predicted == labels).mean())


def _network(shape: tuple[int, ...], num_classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(shape[0], 32, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64 * -(-shape[1] // 4) * -(-shape[2] // 4), 64),
        nn.ReLU(),
        nn.Linear(64, num_classes),
    )


def _fit(network: nn.Sequential, dataset: Dataset) -> None:
    """AdamW with cosine decay; shifted a little (2 of 28 pixels), so that position is no clue."""
    samples = torch.from_numpy(scaled(dataset.samples))
    labels = torch.from_numpy(dataset.labels)
    batch = 64
    steps = max(EPOCHS * -(-len(dataset) // batch), 600)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    network.train()
    for _ in range(steps):
        chosen = torch.randint(len(samples), (batch,))
        loss = F.cross_entropy(network(_shifted(samples[chosen])), labels[chosen])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    network.eval()


def _shifted(images: Tensor) -> Tensor:
    reach = images.shape[-1] // 14
    dy, dx = (int(v) for v in torch.randint(-reach, reach + 1, (2,)))
    return torch.roll(images, (dy, dx), (2, 3))
