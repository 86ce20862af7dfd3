"""The judge: good on held-out digits, the same every time, trained once."""

from pathlib import Path

import numpy as np
import pytest

from aigc import data
from aigc.config import DataConfig, ModelConfig
from aigc.metrics import classifier
from aigc.metrics.classifier import Classifier


@pytest.mark.process
def test_it_knows_held_out_digits_and_is_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelConfig(shape=(1, 8, 8))
    train, test = (data.load(DataConfig(), model, split) for split in ("train", "test"))
    judge = Classifier.trained_on(train, tmp_path)
    assert judge.accuracy(test.samples, test.labels) > 0.97
    assert judge.accuracy(test.samples, (test.labels + 1) % 10) < 0.02
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(classifier, "_fit", None)  # a second training would raise
    again = Classifier.trained_on(train, tmp_path)
    before, after = judge.judge(test.samples), again.judge(test.samples)
    assert np.array_equal(before.features, after.features)
    assert before.features.shape == (360, 64)
