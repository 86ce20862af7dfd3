"""A small CNN trained on a real training split only: classifier and feature extractor of images."""

import hashlib
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from aigc import cache as user_cache
from aigc.data import Dataset, scaled
from aigc.rng import derive_seed

NAME = "cnn64"
"""Part of the name of every metric that uses these features."""
EPOCHS = 16
BATCH = 64

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Classification:
    """Features and predictions of a batch of images."""

    features: NDArray[np.float32]
    """(N, 64): the layer before the logits."""
    predicted: NDArray[np.int64]
    """(N,) class indices."""


class Classifier:
    """A trained network.

    classifier = Classifier.trained_on(train)
    classifier.accuracy(test.samples, test.labels)      # 0.99
    """

    def __init__(self, network: nn.Sequential) -> None:
        self._network = network.eval()

    @classmethod
    def trained_on(cls, dataset: Dataset, folder: Path | None = None) -> "Classifier":
        """Train on a real split from a fixed seed, or load the weights trained on the same data.

        Weights are cached by content hash below `folder`, by default the user's cache; if the cache
        cannot be written, the network is trained every time, with one warning.
        """
        facts = f"{NAME}/{EPOCHS}/{torch.__version__}/{dataset.fingerprint()['sha256']}"

        def fresh() -> nn.Sequential:
            torch.manual_seed(derive_seed(facts))
            return network_of(dataset.samples.shape[1:], len(dataset.classes))

        return cls(
            cached_network(NAME, facts, fresh, lambda network: _fit(network, dataset), folder)
        )

    @classmethod
    def fitted(cls, dataset: Dataset) -> "Classifier":
        """Train from a fixed seed, and keep nothing. The state of torch's generator is kept."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(NAME))
            network = network_of(dataset.samples.shape[1:], len(dataset.classes))
            _fit(network, dataset)
        return cls(network)

    @property
    def network(self) -> nn.Sequential:
        """The network, in eval mode."""
        return self._network

    def correct(self, dataset: Dataset) -> NDArray[np.bool_]:
        """(N,) True for rows that are assigned their label."""
        blocks = range(0, len(dataset), 512)
        found = [
            self.classify(scaled(dataset.samples[i : i + 512])).predicted
            == dataset.labels[i : i + 512]
            for i in blocks
        ]
        return np.concatenate(found) if found else np.zeros(0, bool)

    def classify(self, images: NDArray[np.float32]) -> Classification:
        """images: (N, C, H, W) float32 in [-1, 1]."""
        with torch.no_grad():
            parts = [self._network[:-1](x) for x in torch.split(torch.from_numpy(images), 512)]
            features = torch.cat(parts)
            predicted = self._network[-1](features).argmax(1)
        return Classification(features=features.numpy(), predicted=predicted.numpy())

    def accuracy(self, images: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
        """Share of images (N, C, H, W) that are assigned their label (N,)."""
        return float((self.classify(images).predicted == labels).mean())


def cached_network(
    name: str,
    facts: str,
    fresh: Callable[[], nn.Sequential],
    fit: Callable[[nn.Sequential], None],
    folder: Path | None = None,
) -> nn.Sequential:
    """The network that `fresh` builds, with weights from the cache or trained by `fit`.

    `facts` identify it; a file that holds another network, or a part of one, is replaced. The state
    of torch's global generator is restored.
    """
    file = f"{name}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.safetensors"
    with torch.random.fork_rng(devices=[]):
        # SafetensorError: not such a file; RuntimeError: weights of another network.
        with suppress(OSError, SafetensorError, RuntimeError):
            network = fresh()
            network.load_state_dict(load(user_cache.read((folder or user_cache.folder()) / file)))
            return network
        network = fresh()
        fit(network)
        try:
            user_cache.keep((folder or user_cache.folder()) / file, save(network.state_dict()))
        except OSError as error:
            _warn_once(str(error))
    return network


@cache
def _warn_once(error: str) -> None:
    log.warning("judges are trained anew each time, since they cannot be kept: %s", error)


def network_of(shape: tuple[int, ...], num_classes: int) -> nn.Sequential:
    """(N, *shape) -> logits (N, num_classes); the layer before the last gives 64 features."""
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
    """Cross entropy on images shifted a little (2 of 28 pixels), so that position is no clue."""
    samples = torch.from_numpy(scaled(dataset.samples))
    labels = torch.from_numpy(dataset.labels)

    def loss() -> Tensor:
        chosen = torch.randint(len(samples), (BATCH,))
        return F.cross_entropy(network(shifted(samples[chosen])), labels[chosen])

    minimise(network, loss, max(EPOCHS * -(-len(dataset) // BATCH), 600))


def minimise(network: nn.Sequential, loss_of_batch: Callable[[], Tensor], steps: int) -> None:
    """Train with AdamW and cosine decay; the network is in eval mode afterwards."""
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    network.train()
    for _ in range(steps):
        loss = loss_of_batch()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    network.eval()


def shifted(images: Tensor) -> Tensor:
    """Images (N, C, H, W), all rolled by one random offset of up to 1/14 of the width."""
    reach = images.shape[-1] // 14
    dy, dx = (int(v) for v in torch.randint(-reach, reach + 1, (2,)))
    return torch.roll(images, (dy, dx), (2, 3))
