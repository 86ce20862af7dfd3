"""The digits are those of scikit-learn, split as it splits them, without importing it."""

import subprocess
import sys

import numpy as np
import pytest

from aigc.config import DataConfig
from aigc.data import Split, resize
from aigc.data.sources import digits


@pytest.mark.parametrize("split", ["train", "test"])
def test_digits_equal_those_of_scikit_learn(split: Split) -> None:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    halves = train_test_split(
        np.arange(len(bunch.target)), test_size=0.2, random_state=0, stratify=bunch.target
    )
    rows = halves[("train", "test").index(split)]
    loaded = digits.load(DataConfig(source="digits"), (1, 28, 28), split)
    expected = resize(bunch.images[rows], (1, 28, 28), high=16, name="digits")
    assert np.array_equal(loaded.samples, expected)
    assert loaded.samples.dtype == expected.dtype
    assert np.array_equal(loaded.labels, bunch.target[rows])
    assert loaded.classes == tuple(map(str, bunch.target_names))


def test_digits_do_not_import_scikit_learn() -> None:
    program = (
        "import sys; from aigc.config import DataConfig; from aigc.data.sources import digits;"
        "digits.load(DataConfig(source='digits'), (1, 8, 8), 'test');"
        "assert 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
