"""Metrics of pictures by name, each under a feature network: `aigc evaluate --metrics kid prdc`.

MEASURES is the registry; aigc/metrics/image.py computes them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import Artifact
from aigc.data import Dataset, permutation, scaled
from aigc.feature_network import FeatureNetwork
from aigc.metrics import (
    Evaluation,
    Omitted,
    TooFewRows,
    classes_in_turn,
    first_samples,
    mean,
    samples_at,
)
from aigc.metrics.classes import classification_accuracy, worst_recall, worst_share
from aigc.metrics.estimate import Estimate, of_mean, of_share
from aigc.metrics.feature_sets import FeatureSet, real_blocks
from aigc.metrics.frechet import (
    frechet_estimate,
    frechet_infinity,
    moments_frechet,
    note_if_near,
)
from aigc.metrics.kernel import kernel_distance
from aigc.metrics.moments import GroupedMoments
from aigc.metrics.neighbours import copies, covered, density, in_manifold, nearest_rows
from aigc.metrics.perceptual import has_paths, of_pairs, path_length
from aigc.metrics.vendi import vendi, vendi_score
from aigc.suggest import alternatives

PAIRS = 500
"""Pairs of pictures that perceptual distances are averaged over."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Predictions of a classifier of the training data."""

    name: str
    note: str
    """Reason to doubt counts of its predictions."""
    correct: NDArray[np.bool_]
    """(len(test),) True of held-out rows that it is right of."""
    predicted: NDArray[np.int64]
    """(n,) classes that it finds in the samples."""
    of_test: NDArray[np.int64]
    """(len(test),) classes that it finds in the held-out rows."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """An artifact, the real data, and the network that compares them."""

    artifact: Artifact
    train: Dataset
    test: Dataset
    n: int
    seed: int
    labels: NDArray[np.int64] | None
    """(n,) classes that the samples were asked for; None without classes."""
    judged: Judged | None
    """None if the data have no labels."""
    network: FeatureNetwork
    generated: FeatureSet
    real: FeatureSet
    held_out: FeatureSet
    note: str
    """Reason to doubt the features."""


def frechet_distance(evaluation: Evaluation, c: Case) -> None:
    """Fréchet distance (Heusel et al. 2017, arXiv:1706.08500)."""
    name = f"frechet/{c.network.name}"
    assert c.generated.groups is not None
    groups = c.generated.groups
    evaluation.add(
        name,
        lambda: frechet_estimate(c.real.total, groups),
        lambda: moments_frechet(c.real.total, c.held_out.total),
        "lower",
        c.note,
    )
    note_if_near(evaluation, name, len(c.test))


def extrapolated(evaluation: Evaluation, c: Case) -> None:
    """Fréchet distance of infinitely many samples (Chong & Forsyth 2020, arXiv:1911.07023)."""
    assert c.generated.groups is not None
    groups = c.generated.groups
    evaluation.add(
        f"frechet_infinity/{c.network.name}",
        lambda: frechet_infinity(c.real.total, groups),
        lambda: frechet_infinity(c.real.total, GroupedMoments.of([c.held_out.rows])),
        "lower",
        c.note,
    )


def kernel(evaluation: Evaluation, c: Case) -> None:
    """Kernel distance (Bińkowski et al. 2018, arXiv:1801.01401)."""
    evaluation.add(
        f"kid/{c.network.name}",
        lambda: kernel_distance(c.real.rows, c.generated.rows),
        lambda: kernel_distance(c.real.rows, c.held_out.rows),
        "lower",
        c.note,
    )


def recall_precision(evaluation: Evaluation, c: Case) -> None:
    """Recall and precision (Kynkäänniemi et al. 2019, arXiv:1904.06991)."""
    real, generated, held_out = c.real.rows, c.generated.rows, c.held_out.rows
    for name, points, manifold in (
        ("recall", held_out, generated),
        ("precision", generated, real),
    ):
        evaluation.add(
            f"{name}/{c.network.name}",
            lambda points=points, manifold=manifold: of_share(in_manifold(points, manifold)),  # type: ignore[misc]
            lambda: of_share(in_manifold(held_out, real)),
            "higher",
            c.note,
        )


def density_coverage(evaluation: Evaluation, c: Case) -> None:
    """Density and coverage (Naeem et al. 2020, arXiv:2002.09797)."""
    real, generated, held_out = c.real.rows, c.generated.rows, c.held_out.rows
    evaluation.add(
        f"density/{c.network.name}",
        lambda: of_mean(density(generated, real)),
        lambda: of_mean(density(held_out, real)),
        "real",
        c.note,
    )

    def coverage(points: NDArray[np.float32]) -> Estimate:
        # More points cover more: as many of both.
        m = min(len(generated), len(held_out)) or len(points)
        return of_share(covered(real, drawn_rows(points, m)))

    evaluation.add(
        f"coverage/{c.network.name}",
        lambda: coverage(generated),
        lambda: coverage(held_out),
        "higher",
        c.note,
    )


def drawn_rows(rows: NDArray[Any], m: int) -> NDArray[Any]:
    """At most m of rows (N, ...) by a fixed permutation: real ones may be sorted by class."""
    return rows[permutation(0, 0, len(rows))[:m]]


def prdc(evaluation: Evaluation, c: Case) -> None:
    """Precision, recall, density and coverage."""
    recall_precision(evaluation, c)
    density_coverage(evaluation, c)


def vendi_scores(evaluation: Evaluation, c: Case) -> None:
    """Vendi score (Friedman & Dieng 2023, arXiv:2210.02410)."""
    m = min(len(c.generated.rows), len(c.held_out.rows)) or len(c.generated.rows)
    evaluation.add(
        f"vendi/{c.network.name}",
        lambda: vendi(c.generated.rows[:m], classes_in_turn(c.artifact) or 1),
        lambda: vendi_score(drawn_rows(c.held_out.rows, m)),
        "real",
        c.note,
    )


def neighbours(evaluation: Evaluation, c: Case) -> None:
    """Distance to the nearest training row, and the share of near copies of one."""

    @cache
    def own() -> NDArray[np.float64]:
        return nearest_train(c, c.generated.rows)[0]

    @cache
    def others() -> NDArray[np.float64]:
        return nearest_train(c, c.held_out.rows)[0]

    evaluation.add(
        f"nearest/{c.network.name}",
        lambda: float(np.median(own())),
        lambda: float(np.median(others())),
        "real",
        c.note,
    )
    evaluation.add(
        f"copied/{c.network.name}",
        lambda: of_share(copies(own(), others())),
        lambda: of_share(copies(others(), others())),
        "lower",
        c.note,
    )


def nearest_train(
    c: Case, points: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(N,) distances of features to those of the nearest training row, and (N,) its number."""
    if not len(points):
        raise TooFewRows("there are no test rows")
    blocks = map(c.network.features, real_blocks(c.train, "nearest rows"))
    return nearest_rows(points, blocks)


NO_LABELS = "the data have no labels"
NO_CLASSES = "the samples are of no class"
NO_MAPS = "the network has no feature maps"


def accuracy(evaluation: Evaluation, c: Case) -> None:
    """Share of samples of which the judge predicts the class that was asked for."""
    if c.judged is None or c.labels is None:
        reason = NO_LABELS if c.judged is None else NO_CLASSES
        evaluation.omitted.append(Omitted("accuracy", reason))
        return
    judged, matches = c.judged, c.judged.predicted == c.labels
    evaluation.add(
        f"accuracy/{judged.name}",
        lambda: of_share(matches),
        lambda: mean(judged.correct),
        "higher",
        judged.note,
    )


def class_share(evaluation: Evaluation, c: Case) -> None:
    """Smallest share of a class among the judge's predictions; the note names the class."""
    if c.judged is None:
        evaluation.omitted.append(Omitted("class_share", NO_LABELS))
        return
    judged, names = c.judged, c.train.classes
    expected = c.train.labels if c.labels is None else c.labels
    evaluation.add(
        f"class_share/{judged.name}",
        lambda: worst_share(judged.predicted, expected, names),
        lambda: worst_share(judged.of_test, c.test.labels, names),
        "higher",
        judged.note,
    )


def class_recall(evaluation: Evaluation, c: Case) -> None:
    """Smallest recall of a class, which the note names."""
    if len(c.train.classes) < 2:
        evaluation.omitted.append(Omitted(f"class_recall/{c.network.name}", NO_LABELS))
        return
    labels = c.test.labels[c.held_out.numbers]
    points, names = c.held_out.rows, c.train.classes
    evaluation.add(
        f"class_recall/{c.network.name}",
        lambda: worst_recall(points, labels, c.generated.rows, names),
        lambda: worst_recall(points, labels, c.real.rows, names),
        "higher",
        c.note,
    )


def classification(evaluation: Evaluation, c: Case) -> None:
    """Classification accuracy score (Ravuri & Vinyals 2019, arXiv:1905.10887)."""
    if c.judged is None or c.labels is None:
        reason = NO_LABELS if c.judged is None else NO_CLASSES
        evaluation.omitted.append(Omitted("cas", reason))
        return
    m = min(c.n, len(c.train))

    def generated() -> Estimate:
        images, labels = first_samples(c.artifact, m, c.seed)
        assert labels is not None
        return classification_accuracy(images, labels, c.train.classes, c.test)

    def real() -> Estimate:
        rows = np.sort(permutation(0, 0, len(c.train))[:m])
        images = scaled(c.train.samples[rows])
        return classification_accuracy(images, c.train.labels[rows], c.train.classes, c.test)

    evaluation.add(f"cas/{c.judged.name}", generated, real, "higher", c.judged.note)


def diversity(evaluation: Evaluation, c: Case) -> None:
    """Mean perceptual distance of pairs of samples, of the same class where there are classes."""
    if c.network.run_maps is None:
        evaluation.omitted.append(Omitted(f"diversity/{c.network.name}", NO_MAPS))
        return

    def generated() -> Estimate:
        m = min(c.n, 2 * PAIRS)
        return of_pairs(c.network, *samples_at(c.artifact, range(m), c.seed))

    def real() -> Estimate:
        chosen = drawn_rows(np.arange(len(c.test)), 2 * PAIRS)
        labels = c.test.labels[chosen] if c.labels is not None else None
        return of_pairs(c.network, scaled(c.test.samples[chosen]), labels)

    evaluation.add(f"diversity/{c.network.name}", generated, real, "real", c.note)


def length(evaluation: Evaluation, c: Case) -> None:
    """Perceptual path length (Karras et al. 2019, arXiv:1812.04948)."""
    if c.network.run_maps is None or not has_paths(c.artifact):
        reason = NO_MAPS if c.network.run_maps is None else "samples are not pictures of one latent"
        evaluation.omitted.append(Omitted(f"path_length/{c.network.name}", reason))
        return
    evaluation.add(
        f"path_length/{c.network.name}",
        lambda: path_length(c.network, c.artifact, pairs=min(c.n, PAIRS), seed=c.seed),
        None,
        "lower",
        c.note,
    )


Measure = Callable[[Evaluation, Case], None]
MEASURES: dict[str, Measure] = {
    "accuracy": accuracy,
    "frechet": frechet_distance,
    "frechet_infinity": extrapolated,
    "kid": kernel,
    "prdc": prdc,
    "vendi": vendi_scores,
    "class_share": class_share,
    "class_recall": class_recall,
    "neighbours": neighbours,
    "diversity": diversity,
    "cas": classification,
    "path_length": length,
}
"""By name, in the order in which they are computed."""
ALIASES = {"fid": "frechet", "fid_infinity": "frechet_infinity", "ppl": "path_length"}
"""Names that other tools have for some."""
OF_JUDGE = frozenset({"accuracy", "class_share", "cas"})
"""Measures that are the same under every network."""
DEFAULT = ("accuracy", "frechet", "recall_precision")
"""Quick ones, which are computed if none is named."""
ALL = "all"


def is_measure(reference: str) -> bool:
    """True of the name of a measure; all other references are files, modules and modalities."""
    return reference in MEASURES or reference in ALIASES or reference == ALL


def chosen(names: Sequence[str]) -> dict[str, Measure]:
    """Measures by name, in order; the default ones if none is named. Raises ValueError."""
    if not names:
        own: dict[str, Measure] = {**MEASURES, "recall_precision": recall_precision}
        return {name: own[name] for name in DEFAULT}
    wanted = {ALIASES.get(name, name) for name in names}
    for name in wanted - MEASURES.keys() - {ALL}:
        raise ValueError(f"unknown metric {name!r}{alternatives(name, MEASURES)}")
    return {k: v for k, v in MEASURES.items() if k in wanted or ALL in wanted}
