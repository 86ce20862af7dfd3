"""Metrics of pictures by name: closed forms, classes, paths, copies as a picture, omissions."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from aigc.artifact import Artifact, Signature, TensorSpec
from aigc.data import Dataset
from aigc.feature_network import FeatureNetwork
from aigc.metrics import TooFewRows, image, judge_note, measures
from aigc.metrics.classes import classification_accuracy, worst_recall, worst_share
from aigc.metrics.kernel import kernel_distance, squared_mmd
from aigc.metrics.measures import MEASURES, chosen, is_measure
from aigc.metrics.neighbours import covered, density, nearest_rows
from aigc.metrics.perceptual import of_pairs, path_length, perceptual_distances
from aigc.metrics.vendi import vendi, vendi_score
from tests.metrics.drawn import artifact, digits

PIXELS = FeatureNetwork(
    name="pixels", sha256="0", run=lambda x: x.reshape(len(x), -1), run_maps=lambda x: [x, x[:, :1]]
)


def test_vendi_counts_orthogonal_rows() -> None:
    rows = np.eye(5).repeat(3, 0)
    assert vendi_score(rows) == pytest.approx(5)
    assert vendi_score(np.ones((20, 3)) * 7) == pytest.approx(1)
    wide = np.random.default_rng(0).normal(size=(40, 3))
    by_rows = np.linalg.eigvalsh(_cosines(wide) / len(wide))
    by_rows = by_rows[by_rows > 1e-12]
    assert vendi_score(wide) == pytest.approx(np.exp(-(by_rows * np.log(by_rows)).sum()))
    found = vendi(wide.astype(np.float32))
    assert found.interval is not None
    assert found.interval[0] < found.value < found.interval[1]


def _cosines(x: np.ndarray) -> np.ndarray:
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return x @ x.T


def test_kernel_distance_is_unbiased_and_its_interval_holds_zero() -> None:
    random = np.random.default_rng(1)
    found = [
        squared_mmd(random.normal(size=(20, 3)), random.normal(size=(20, 3))) for _ in range(400)
    ]
    assert abs(np.mean(found)) < 3 * np.std(found) / 20
    x, y = random.normal(size=(2, 300, 3))
    same, apart = kernel_distance(x, y), kernel_distance(x, y + 1)
    assert same.interval is not None
    assert apart.interval is not None
    assert same.interval[0] < 0 < same.interval[1] < apart.interval[0]
    with pytest.raises(TooFewRows, match="four rows on each side, got 3 and 300"):
        kernel_distance(x[:3], y)


def test_density_and_coverage_on_a_line() -> None:
    line = np.arange(6.0)[:, None]  # radii with k = 1 are all 1, and balls are open
    points = np.array([[2.5], [0.25], [9.0]])
    assert density(points, line, k=1).tolist() == [2, 2, 0]
    assert covered(line, points, k=1).tolist() == [True, True, True, True, False, False]


def test_nearest_rows_of_blocks_are_those_of_all() -> None:
    random = np.random.default_rng(2)
    points, others = random.normal(size=(30, 4)), random.normal(size=(50, 4))
    distance, number = nearest_rows(points, [others[:20], others[:0], others[20:]])
    apart = np.linalg.norm(points[:, None] - others[None], axis=2)
    assert number.tolist() == apart.argmin(1).tolist()
    assert distance == pytest.approx(apart.min(1))


def test_perceptual_distance_by_hand() -> None:
    a = np.zeros((2, 2, 1, 1), np.float32)
    b = a.copy()
    a[:, 0], b[0, 1], b[1, 0] = 3, 4, 5  # unit vectors: (1, 0) against (0, 1), and against (1, 0)
    network = replace(PIXELS, run_maps=lambda x: [x])
    assert perceptual_distances(network, a, b) == pytest.approx([2, 0])
    assert of_pairs(network, np.concatenate([a, b])[[0, 2, 1, 3]], [1, 1, 0, 0]).value == (
        pytest.approx(1)
    )
    with pytest.raises(ValueError, match="feature network pixels has no feature maps"):
        perceptual_distances(replace(PIXELS, run_maps=None), a, b)
    with pytest.raises(TooFewRows, match="no pair"):
        of_pairs(network, a, [0, 1])


class _Linear:
    """An artifact whose picture is a linear function of its latent."""

    id = "linear@1"
    manifest = SimpleNamespace(default_signature=lambda: "sample")

    def signature(self, name: str) -> Signature:
        latent = TensorSpec(name="latent", kind="latent", dtype="float32", shape=(8,))
        image = TensorSpec(
            name="image", kind="image", dtype="float32", shape=(8, 1, 1), range=(0.0, 2.0)
        )
        return Signature(graph="g", inputs=(latent,), outputs=(image,))

    def draw(self, name: str, seed: int, indices: range, label: Any) -> Any:
        rows = [np.random.default_rng([seed, i]).normal(size=8) for i in indices]
        made = np.array(rows)
        return {"latent": (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)}

    def run(self, name: str, feeds: Any) -> Any:
        return {"image": feeds["latent"][:, :, None, None] + 1}


def test_path_length_of_a_sphere_is_the_square_of_the_angle() -> None:
    """The unit vectors of the picture are those of the latent: d / ε² is the angle, squared."""
    linear = cast(Artifact, _Linear())
    network = replace(PIXELS, run_maps=lambda x: [x])
    found = path_length(network, linear, pairs=100, seed=0)
    z = np.concatenate([_Linear().draw("", 0, range(200), None)["latent"]])
    angles = np.arccos(_cosines(z)[np.arange(100), np.arange(100, 200)])
    squares = np.sort(angles**2)[1:-1]
    assert found.value == pytest.approx(squares.mean(), rel=0.01)


def test_worst_class_is_named() -> None:
    expected = np.arange(100) % 4
    found = worst_share(np.where(expected == 2, 0, expected), expected, "abcd")
    assert (found.value, found.note) == (0, "worst: 'c', 0.0% of samples, 25.0% expected")
    same = worst_share(expected, expected, "abcd")
    assert same.value == 1
    points = np.array([[0.0], [0.1], [5.0], [5.1]])
    manifold = np.linspace(-1, 1, 20)[:, None]
    recall = worst_recall(points, np.array([0, 0, 1, 1]), manifold, ("low", "high"))
    assert (recall.value, recall.note) == (0, "worst: 'high', 0.0% of its 2 rows")


def test_judge_below_nine_tenths_is_unfit_for_accuracies() -> None:
    right = np.arange(100) < 85
    assert judge_note(right) == (
        "judge unfit for accuracies: right of 85% of held-out real rows, 90% is wanted"
    )
    assert not judge_note(np.arange(100) < 90)


@pytest.mark.process
def test_classifier_of_generated_samples_is_worth_what_they_are(session_cache: None) -> None:
    train, test, _ = digits()
    good = classification_accuracy(train.samples, train.labels, train.classes, test)
    wrong = classification_accuracy(train.samples, (train.labels + 1) % 10, train.classes, test)
    assert good.value > 0.9
    assert wrong.value < 0.1
    with pytest.raises(TooFewRows, match="there are no test rows"):
        classification_accuracy(train.samples, train.labels, train.classes, _rows(test, 0))


def _rows(dataset: Dataset, n: int) -> Dataset:
    return replace(dataset, samples=dataset.samples[:n], labels=dataset.labels[:n])


@pytest.mark.process
def test_every_metric_has_an_interval_or_a_floor(session_cache: None) -> None:
    train, test, others = digits()
    order = np.argsort(np.arange(len(others)) % 10, kind="stable")
    given = artifact(others[order], 10)
    left_out = ("path_length", "cas", "frechet_infinity")  # the last needs 1,024 samples
    names = [name for name in MEASURES if name not in left_out]
    found = image.measure(given, train, test, len(others), 0, names)
    assert not found.omitted
    for metric in found:
        assert metric.interval or metric.floor is not None or metric.name == "judge/cnn64"
        if metric.interval:
            assert metric.interval[0] <= metric.value <= metric.interval[1], metric
    unlabelled = [replace(one, classes=(), labels=one.labels * 0) for one in (train, test)]
    bare = image.measure(
        artifact(others), *unlabelled, 40, 0, ("accuracy", "class_share", "kid"), [PIXELS]
    )
    assert [one.name for one in bare.omitted] == ["accuracy", "class_share"]
    assert {one.reason for one in bare.omitted} == {"the data have no labels"}
    assert [metric.name for metric in bare][-1] == "kid/pixels"
    empty = image.measure(artifact(others), train, _rows(test, 0), 40, 0, ("all",), [PIXELS])
    assert {one.name.partition("/")[0] for one in empty.omitted} >= {"recall", "copied", "cas"}


def test_floors_are_the_same_for_sorted_rows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Rows of folders are sorted by class; fewer samples than rows must not leave classes out."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    train, test, others = digits()
    order = np.argsort(test.labels, kind="stable")
    bare = [replace(one, classes=(), labels=one.labels * 0) for one in (train, test)]
    ordered = replace(bare[1], samples=bare[1].samples[order])
    names = ("vendi", "prdc", "diversity")
    monkeypatch.setattr(measures, "PAIRS", 30)
    floors = [
        {one.name: one.floor for one in image.measure(given, bare[0], each, 60, 0, names, [PIXELS])}
        for given in [artifact(others)]
        for each in (bare[1], ordered)
    ]
    assert floors[1] == pytest.approx(floors[0], rel=0.15)


@pytest.mark.process
def test_copies_stand_first_beside_their_originals(session_cache: None) -> None:
    train, test, others = digits()
    made = others[:50].copy()
    made[33], made[7] = train.samples[5], train.samples[900]
    drawn = image.nearest_pictures(artifact(made), train, test, 50, 0)
    assert drawn.shape == (16 * 10 - 2, 3 * 10 - 2, 1)
    rows = [drawn[i * 10 : i * 10 + 8] for i in range(16)]
    for row, of in ((rows[0], made[7]), (rows[1], made[33])):
        assert np.array_equal(row[:, :8], row[:, 10:18])
        pixels = np.rint((of[0] + 1) * 127.5).astype(np.uint8)
        assert np.abs(row[:, :8, 0].astype(int) - pixels).max() <= 1
    assert not np.array_equal(rows[15][:, :8], rows[15][:, 10:18])


def test_names_of_metrics() -> None:
    assert [*chosen(("fid", "kid"))] == ["frechet", "kid"]
    assert [*chosen(("all",))] == [*MEASURES]
    assert is_measure("ppl")
    assert not is_measure("./sharpness.py")
    with pytest.raises(ValueError, match="unknown metric 'kids'; did you mean 'kid'"):
        chosen(("kids",))
