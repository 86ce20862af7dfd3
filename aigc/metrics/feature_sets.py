"""Features of many pictures, in memory that does not grow with their number.

Of each set there are the moments of all rows, for Fréchet distances, and KEPT rows themselves, for
metrics of neighbours, kernels and eigenvalues. Those of real data are kept in the user's cache.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from tqdm import tqdm

from aigc import cache
from aigc.artifact import Artifact
from aigc.data import Dataset, permutation, scaled
from aigc.feature_network import FeatureNetwork
from aigc.metrics import samples_at
from aigc.metrics.moments import GroupedMoments, Moments

KEPT = 10_000
"""Most rows of a set that are kept: 82 MB of 2,048 features."""
BLOCK = 256
"""Pictures that are in memory as float32 at a time."""

Images = NDArray[np.float32]


@dataclass(frozen=True)
class FeatureSet:
    """Features of a set of pictures."""

    total: Moments
    rows: Images
    """(at most KEPT, D) float32."""
    numbers: NDArray[np.int64]
    """Number of the picture of each of `rows`."""
    groups: GroupedMoments | None = None
    """Moments of groups, of generated pictures."""


def collect(
    networks: Sequence[FeatureNetwork],
    blocks: Iterable[Images],
    kept: NDArray[np.int64],
    classes: int = 1,
) -> dict[str, FeatureSet]:
    """Features of the pictures of all blocks, each (., C, H, W), by the network's name.

    kept: numbers of the rows that are kept, ascending. classes: number of those that come in turn.
    """
    moments = {network.name: GroupedMoments(classes) for network in networks}
    rows: dict[str, list[Images]] = {network.name: [] for network in networks}
    first = 0
    for block in blocks:
        own = kept[(kept >= first) & (kept < first + len(block))] - first
        for network in networks:
            features = network.features(block)
            moments[network.name].add(features)
            rows[network.name].append(features[own])
        first += len(block)
    return {
        name: FeatureSet(
            total=moments[name].merged(),
            rows=np.concatenate(rows[name]),
            numbers=kept[kept < first],
            groups=moments[name],
        )
        for name in rows
    }


def generated_blocks(
    artifact: Artifact, n: int, seed: int
) -> Iterator[tuple[Images, NDArray[np.int64] | None]]:
    """The first n samples of a seed in blocks with their labels; a bar on stderr after two
    seconds."""
    with tqdm(total=n, desc="samples", unit="", delay=2, leave=False) as bar:
        for first in range(0, n, BLOCK):
            made = samples_at(artifact, range(first, min(first + BLOCK, n)), seed)
            yield made
            bar.update(len(made[0]))


def real_blocks(dataset: Dataset, what: str = "real rows") -> Iterator[Images]:
    """Pictures of a data set in blocks, in order; a bar on stderr after two seconds."""
    with tqdm(total=len(dataset), desc=what, unit="", delay=2, leave=False) as bar:
        for first in range(0, len(dataset), BLOCK):
            block = scaled(dataset.samples[first : first + BLOCK])
            yield block
            bar.update(len(block))


def of_real(network: FeatureNetwork, dataset: Dataset, what: str = "real rows") -> FeatureSet:
    """Features of a data set, from the cache if they are known for this data and this network.

    The rows that are kept are drawn by a fixed permutation.
    """
    if not len(dataset):
        nothing = np.zeros((0, 0))
        return FeatureSet(Moments.of(nothing), nothing.astype(np.float32), np.zeros(0, np.int64))
    shape = [*dataset.samples.shape]
    facts = [network.sha256, dataset.fingerprint()["sha256"], shape, KEPT]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
    with suppress(OSError, SafetensorError, KeyError):
        known = load(cache.read(cache.folder() / f"features-{key}.safetensors"))
        total = Moments(len(dataset), known["mean"], known["scatter"])
        return FeatureSet(total, known["rows"], known["numbers"])
    kept = np.sort(permutation(0, 0, len(dataset))[:KEPT])
    found = collect([network], real_blocks(dataset, what), kept)[network.name]
    made: dict[str, NDArray[Any]] = {
        "mean": found.total.mean,
        "scatter": found.total.scatter,
        "rows": found.rows,
        "numbers": found.numbers,
    }
    with suppress(OSError):
        cache.keep(cache.folder() / f"features-{key}.safetensors", save(made))
    return FeatureSet(found.total, found.rows, found.numbers)
