"""Metrics against other implementations, on features that a seed determines.

The constants are what torch-fidelity 0.4.0, prdc 0.2 and piq 0.8.0 computed of features(), in
float64: fid_features_to_statistics and fid_statistics_to_metric; kid_features_to_metric with one
subset of 500 rows; prc_features_to_metric, which takes generated features first; compute_prdc;
piq.KID(subset_size=500), piq.FID. piq.FID takes the root of a matrix by a fixed number of
iterations and reaches the others' value of few features only.
"""

import numpy as np
import pytest

from aigc.metrics.frechet import frechet
from aigc.metrics.kernel import kernel_distance, squared_mmd
from aigc.metrics.neighbours import covered, density, in_manifold


def features() -> tuple[np.ndarray, ...]:
    """Real (600, 48), generated (500, 48); and (300, 8), (250, 8) for piq.FID."""
    random = np.random.default_rng(20)
    mixed = random.normal(size=(48, 8)) @ random.normal(size=(8, 48)) / 30
    mixed = mixed + np.diag(random.uniform(0.2, 0.5, 48))
    real = random.normal(size=(600, 48)) @ mixed
    generated = random.normal(0.1, 1.1, size=(500, 48)) @ mixed
    few_real = random.normal(size=(300, 8))
    return real, generated, few_real, random.normal(0.2, 1.2, size=(250, 8))


def test_frechet_distance_equals_others() -> None:
    real, generated, few_real, few_generated = features()
    assert frechet(real, generated) == pytest.approx(1.5202830514148786, rel=1e-6)  # torch-fidelity
    assert frechet(few_real, few_generated) == pytest.approx(0.608022410729486, rel=1e-4)  # piq


def test_kernel_distance_equals_others() -> None:
    real, generated, *_ = features()
    whole = squared_mmd(real[:500], generated)
    assert whole == pytest.approx(0.04845734596010365, rel=1e-9)  # torch-fidelity
    assert whole == pytest.approx(0.04845734596010365, rel=1e-6)  # piq
    # torch-fidelity's mean of 100 subsets of 200 rows is 0.04666 with a deviation of 0.0199.
    found = kernel_distance(real, generated, subset=200)
    assert found.value == pytest.approx(0.04666, abs=3 * 0.0199 / 10)
    assert found.interval is not None
    assert found.interval[0] < whole < found.interval[1]


def test_precision_recall_density_coverage_equal_others() -> None:
    real, generated, *_ = features()
    found = {  # prdc
        "precision": in_manifold(generated, real, 5).mean(),
        "recall": in_manifold(real, generated, 5).mean(),
        "density": density(generated, real).mean(),
        "coverage": covered(real, generated).mean(),
    }
    assert found == pytest.approx(
        {
            "precision": 0.82,
            "recall": 0.9733333333333334,
            "density": 0.6032000000000001,
            "coverage": 0.8566666666666667,
        },
        rel=1e-9,
    )
    assert in_manifold(generated, real).mean() == pytest.approx(0.7039999961853027, rel=1e-6)
    assert in_manifold(real, generated).mean() == pytest.approx(0.9266666769981384, rel=1e-6)
