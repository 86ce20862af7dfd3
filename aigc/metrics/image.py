"""Metrics of images under networks that turn them into features, see measures.py.

By default the network is a judge, trained on real images as a classifier of their labels or,
without labels, of rotations (metrics/rotation.py); the names of the metrics say which.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aigc.artifact import Artifact
from aigc.artifact.image_files import grid, to_uint8
from aigc.data import Dataset, scaled
from aigc.feature_network import FeatureNetwork, weights_sha256
from aigc.metrics import (
    MIN_ACCURACY,
    Distance,
    Evaluation,
    classes_in_turn,
    judge_note,
    matching_rows,
    mean,
    reliability_note,
    rotation,
    samples_at,
)
from aigc.metrics.classifier import NAME, Classifier
from aigc.metrics.feature_sets import (
    KEPT,
    FeatureSet,
    collect,
    generated_blocks,
    of_real,
    real_blocks,
)
from aigc.metrics.frechet import moments_frechet
from aigc.metrics.measures import OF_JUDGE, Case, Judged, chosen
from aigc.metrics.moments import Moments
from aigc.metrics.neighbours import nearest_rows
from aigc.metrics.rotation import Rotations, square

Features = NDArray[np.float32]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judge:
    """A network trained on real images."""

    network: FeatureNetwork
    classifier: Classifier
    correct: Callable[[Dataset], NDArray[np.bool_]]
    """Real images -> (N,), True where the prediction is right."""
    min_accuracy: float
    """Smallest share of held-out images that is right with reliable features."""
    labelled: bool
    """True of a classifier of labels."""

    def predicted(self, dataset: Dataset) -> NDArray[np.int64]:
        """(N,) classes that a classifier of labels finds."""
        found = [self.classifier.classify(images).predicted for images in real_blocks(dataset)]
        return np.concatenate(found) if found else np.zeros(0, np.int64)

    @classmethod
    def trained_on(cls, train: Dataset) -> "Judge":
        """A classifier of the labels, of rotations if there are none."""
        if not _labelled(train):
            rotations = Rotations.trained_on(train)
            return cls(
                network=_features(rotation.NAME, rotations.classifier.network, square),
                classifier=rotations.classifier,
                correct=lambda real: rotations.correct(scaled(real.samples)),
                min_accuracy=rotation.MIN_ACCURACY,
                labelled=False,
            )
        classifier = Classifier.trained_on(train)
        return cls(
            network=_features(NAME, classifier.network),
            classifier=classifier,
            correct=classifier.correct,
            min_accuracy=MIN_ACCURACY,
            labelled=True,
        )


def _features(
    name: str, network: nn.Sequential, prepared: Callable[[Tensor], Tensor] = lambda x: x
) -> FeatureNetwork:
    """Features of a judge: the layer before the logits, and the maps of both convolutions."""

    def run(images: Features) -> Features:
        with torch.no_grad():
            return network[:-1](prepared(torch.from_numpy(images))).numpy()  # type: ignore[no-any-return]

    def maps(images: Features) -> list[Features]:
        with torch.no_grad():
            first = network[:2](prepared(torch.from_numpy(images)))
            return [first.numpy(), network[2:4](first).numpy()]

    sha256 = weights_sha256(network)
    return FeatureNetwork(name=name, sha256=sha256, run=run, run_maps=maps)


def evaluate(artifact: Artifact, train: Dataset, test: Dataset, n: int, seed: int) -> Evaluation:
    """Quick metrics of the first n samples of a seed; the judge is trained on `train` alone."""
    return measure(artifact, train, test, n, seed)


def measure(
    artifact: Artifact,
    train: Dataset,
    test: Dataset,
    n: int,
    seed: int,
    names: Sequence[str] = (),
    networks: Sequence[FeatureNetwork] = (),
) -> Evaluation:
    """Metrics of the first n samples of a seed, named as in measures.MEASURES, by default quick
    ones.

    They are computed under all of `networks`; under a judge that is trained on `train` if there are
    none, or if no metric is named. A named metric that does not apply is left out, with the reason.
    Raises ValueError for an unknown name.
    """
    measures, evaluation = chosen(names), Evaluation()
    judge = None
    if not (names and networks) or measures.keys() & OF_JUDGE:
        judge = Judge.trained_on(train)
    compared = [judge.network] if judge and not (names and networks) else []
    compared = [*{one.name: one for one in (*compared, *networks)}.values()]
    generated, labels, predicted = _generated(artifact, n, seed, compared, judge)
    judged, note = None, ""
    if judge is not None:
        correct = judge.correct(test)
        note = reliability_note(correct, judge.min_accuracy)
        evaluation.add(f"judge/{judge.network.name}", lambda: mean(correct), None, "higher", note)
        if judge.labelled:
            judged = Judged(
                name=judge.network.name,
                note=judge_note(correct),
                correct=correct,
                predicted=predicted,
                of_test=judge.predicted(test),
            )
    for network in compared:
        case = Case(
            artifact=artifact,
            train=train,
            test=test,
            n=n,
            seed=seed,
            labels=labels,
            judged=judged,
            network=network,
            generated=generated[network.name],
            real=of_real(network, train, f"training rows, {network.name}"),
            held_out=of_real(network, test, f"test rows, {network.name}"),
            note=note if judge and network is judge.network else "",
        )
        for name, compute in measures.items():
            if name in OF_JUDGE and (network is not compared[0] or not (names or judged)):
                continue
            compute(evaluation, case)
    return evaluation


def _generated(
    artifact: Artifact, n: int, seed: int, networks: Sequence[FeatureNetwork], judge: Judge | None
) -> tuple[dict[str, FeatureSet], NDArray[np.int64] | None, NDArray[np.int64]]:
    """Features of the samples by network, their labels, and the classes that the judge finds."""
    labels: list[NDArray[np.int64]] = []
    predicted: list[NDArray[np.int64]] = []

    def blocks() -> Iterator[Features]:
        for images, own in generated_blocks(artifact, n, seed):
            if own is not None:
                labels.append(own)
            if judge is not None and judge.labelled:
                predicted.append(judge.classifier.classify(images).predicted)
            yield images

    classes = classes_in_turn(artifact) or 1
    found = collect(networks, blocks(), np.arange(min(n, KEPT)), classes)
    none = np.zeros(0, np.int64)
    own = np.concatenate(labels) if labels else None
    return found, own, np.concatenate(predicted) if predicted else none


def _labelled(dataset: Dataset) -> bool:
    return judge_name(dataset.classes) == NAME


def judge_name(classes: Sequence[str]) -> str:
    """Name of the network for data of these classes: a classifier if there are at least two."""
    return NAME if len(classes) > 1 else rotation.NAME


def distance(real: Dataset) -> Distance | None:
    """Fréchet distance in features of a network trained on nine tenths of `real`, with a note if
    the rest finds it unreliable, which is logged, too. None for a single image."""
    if len(real) < 2:
        return None
    held_out = np.arange(len(real)) % 10 == 9
    judge = Judge.trained_on(_rows(real, ~held_out))
    network = judge.network
    note = reliability_note(judge.correct(_rows(real, held_out)), judge.min_accuracy)
    if note:
        log.warning("quality, frechet/%s: %s", network.name, note)
    known = of_real(network, real)
    return Distance(
        lambda images: moments_frechet(known.total, Moments.of(network.features(images))), note
    )


def _rows(dataset: Dataset, chosen: NDArray[np.bool_]) -> Dataset:
    samples, labels = dataset.samples[chosen], dataset.labels[chosen]
    return replace(dataset, samples=samples, labels=labels, origin=None)


SHOWN = 16
"""Samples in a picture of neighbours."""


def nearest_pictures(
    artifact: Artifact,
    train: Dataset,
    test: Dataset,
    n: int,
    seed: int,
    network: FeatureNetwork | None = None,
) -> NDArray[np.uint8]:
    """Rows of a sample, the nearest training image and the nearest test image, as (H, W, C) uint8.

    Those of the first n samples come first that are nearest to a training image beside the nearest
    test image, by features of `network`, by default of the judge. Without test images there are
    two columns.
    """
    network = network or Judge.trained_on(train).network
    generated = _generated(artifact, n, seed, [network], None)[0][network.name].rows
    found = []
    for dataset in (train, test):
        if len(dataset):
            blocks = map(network.features, real_blocks(dataset, "nearest images"))
            found.append((dataset, *nearest_rows(generated, blocks)))
    suspicion = found[0][1] / np.maximum(found[1][1], 1e-12) if len(found) > 1 else found[0][1]
    chosen_rows = np.argsort(suspicion, kind="stable")[:SHOWN]
    samples = [samples_at(artifact, range(i, i + 1), seed)[0] for i in chosen_rows.tolist()]
    columns = [np.concatenate(samples)]
    columns += [scaled(dataset.samples[number[chosen_rows]]) for dataset, _, number in found]
    pictures = np.stack(columns, 1).reshape(-1, *columns[0].shape[1:])
    return grid(to_uint8(pictures, -1, 1), len(columns))


def side_by_side(artifact: Artifact, test: Dataset, seed: int) -> NDArray[np.uint8]:
    """A row of test images above a row of the first samples of a seed."""
    real, generated = matching_rows(artifact, test, seed)
    return grid(to_uint8(np.concatenate([scaled(real), generated]), -1, 1), len(real))
