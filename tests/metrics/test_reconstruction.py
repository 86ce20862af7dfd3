"""Baselines of reconstructions: principal components and mean colours of patches."""

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from aigc.artifact import Artifact, Signature, TensorSpec
from aigc.data import Dataset
from aigc.feature_network import FeatureNetwork
from aigc.metrics.frechet import frechet
from aigc.metrics.reconstruction import evaluate, linear, mean_colours


def test_components_hold_what_lies_in_their_space() -> None:
    """Patches of two colours that are mixed: one component beside the mean is enough, none not."""
    random = np.random.default_rng(0)
    ends = random.uniform(-1, 1, (2, 3, 4, 4))
    share = random.uniform(0, 1, (6, 1, 4, 1, 6, 1))
    a, b = (np.tile(end[None, :, None, :, None, :], (6, 1, 4, 1, 6, 1)) for end in ends)
    images = (share * a + (1 - share) * b).reshape(6, 3, 16, 24).astype(np.float32)
    assert np.abs(linear(images[:4], images, 4, 1) - images).max() < 1e-5
    assert np.abs(linear(images[:4], images, 8, 1) - images).max() > 0.1


def test_more_components_are_nearer() -> None:
    images = np.random.default_rng(1).uniform(-1, 1, (8, 3, 16, 16)).astype(np.float32)
    errors = [np.square(linear(images, images, 4, k) - images).mean() for k in (1, 8, 24, 48)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-10


class _Halved:
    """An autoencoder of pictures in [0, 1] that halves their values."""

    id = "halved@1"

    @property
    def manifest(self) -> SimpleNamespace:
        return SimpleNamespace(signatures={"reconstruct": self.signature("reconstruct")})

    def signature(self, name: str) -> Signature:
        shape = (1, 12, 12)
        given = TensorSpec(name="x", kind="image", dtype="float32", shape=shape, range=(0.0, 1.0))
        return Signature(graph="g", inputs=(given,), outputs=(replace(given, name="y"),))

    def run(self, name: str, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert feeds["x"].min() >= 0
        return {"y": feeds["x"] / 2}


def test_pictures_are_given_and_taken_in_the_range_of_the_signature() -> None:
    samples = np.full((20, 1, 12, 12), 0.6, np.float32)
    data = Dataset(name="made", samples=samples, labels=np.zeros(20, np.int64), classes=())
    found = evaluate(cast(Artifact, _Halved()), data, data, 20)
    assert found.metrics[0].value == pytest.approx(-20 * np.log10(0.4), rel=1e-4)


def test_networks_compare_reconstructions_with_their_originals() -> None:
    samples = np.random.default_rng(0).uniform(0.2, 1, (40, 1, 12, 12)).astype(np.float32)
    data = Dataset(name="made", samples=samples, labels=np.zeros(40, np.int64), classes=())

    def corners(images: np.ndarray) -> np.ndarray:
        return images[:, :, :2, :2].reshape(len(images), 4)

    def edges(images: np.ndarray) -> list[np.ndarray]:
        return [np.concatenate([images, np.ones_like(images)], 1)]

    network = FeatureNetwork(name="corners@0", sha256="", run=corners)
    with_maps = FeatureNetwork(name="x@0", sha256="", run=corners, run_maps=edges)
    halved = cast(Artifact, _Halved())
    found = {m.name: m for m in evaluate(halved, data, data, 40, networks=[network, with_maps])}
    assert [*found][2:] == [
        "reconstruction/frechet/corners@0",
        "reconstruction/perceptual/x@0",
        "reconstruction/frechet/x@0",
    ]
    # Halves of values of [0, 1] are (x - 1) / 2 in [-1, 1].
    expected = frechet(corners(samples), corners((samples - 1) / 2))
    value = found["reconstruction/frechet/corners@0"].value
    assert value == pytest.approx(expected, rel=1e-4)
    assert value > 0.1
    assert found["reconstruction/frechet/corners@0"].better == "lower"
    angles = [np.arctan2(x.astype(np.float64), 1) for x in (samples, (samples - 1) / 2)]
    distance = (2 - 2 * np.cos(angles[0] - angles[1])).mean()  # of vectors of length 1
    assert found["reconstruction/perceptual/x@0"].value == pytest.approx(distance, rel=1e-4)


def test_networks_without_test_images_leave_metrics_out() -> None:
    samples = np.zeros((4, 1, 12, 12), np.float32)
    data = Dataset(name="made", samples=samples, labels=np.zeros(4, np.int64), classes=())
    empty = Dataset(name="made", samples=samples[:0], labels=np.zeros(0, np.int64), classes=())
    network = FeatureNetwork(name="x@0", sha256="", run=lambda x: x, run_maps=lambda x: [x])
    found = evaluate(cast(Artifact, _Halved()), data, empty, 4, networks=[network])
    assert found.metrics == []
    assert {one.name for one in found.omitted} >= {"reconstruction/frechet/x@0"}


def test_artifact_that_reconstructs_nothing_is_refused() -> None:
    data = Dataset(name="", samples=np.zeros((1, 1, 2, 2)), labels=np.zeros(1), classes=())
    other = SimpleNamespace(id="gan@1", manifest=SimpleNamespace(signatures={}))
    with pytest.raises(ValueError, match=r"gan@1 has no signature 'reconstruct'.*leave out"):
        evaluate(cast(Artifact, other), data, data, 1, 0)


def test_mean_colours_by_hand() -> None:
    image = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    found = mean_colours(image, 2)[0, 0]
    assert found[:2, :2].tolist() == [[2.5, 2.5], [2.5, 2.5]]
    assert found[3, 3] == 12.5
