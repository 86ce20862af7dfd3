"""Classifier: accuracy on held-out digits, and the cache of its weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from aigc import data
from aigc.config import DataConfig, ModelConfig
from aigc.metrics import classifier
from aigc.metrics.classifier import Classifier


@pytest.mark.process
def test_classifies_held_out_digits_and_is_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelConfig(shape=(1, 8, 8))
    train, test = (data.load(DataConfig(), model, split) for split in ("train", "test"))
    network = Classifier.trained_on(train, tmp_path)
    assert network.accuracy(test.samples, test.labels) > 0.97
    assert network.accuracy(test.samples, (test.labels + 1) % 10) < 0.02
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(classifier, "_fit", None)  # a second training would raise
    again = Classifier.trained_on(train, tmp_path)
    before, after = network.classify(test.samples), again.classify(test.samples)
    assert np.array_equal(before.features, after.features)
    assert before.features.shape == (360, 64)


def kept(folder: Path, trained: list[int], width: int = 3) -> nn.Sequential:
    """A network whose training sets its weights to ones."""

    def fit(network: nn.Sequential) -> None:
        trained.append(width)
        nn.init.ones_(network[0].weight)

    return classifier.cached_network(
        "net", "facts", lambda: nn.Sequential(nn.Linear(2, width)), fit, folder
    )


@pytest.mark.parametrize("damage", ["cut off", "empty", "garbage", "another network"])
def test_damaged_cache_entry_is_replaced(damage: str, tmp_path: Path) -> None:
    trained: list[int] = []
    kept(tmp_path, trained)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    if damage == "another network":
        path.unlink()
        kept(tmp_path, trained, width=5)
    else:
        path.write_bytes({"cut off": whole[:-5], "empty": b"", "garbage": b"{" * 99}[damage])
    before = len(trained)
    for _ in range(2):
        assert torch.equal(kept(tmp_path, trained)[0].weight, torch.ones(3, 2))
    assert len(trained) == before + 1
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]


def test_trains_each_time_and_warns_once_without_a_cache(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    trained: list[int] = []
    for _ in range(3):
        assert kept(tmp_path / "file" / "cache", trained)[0].weight.sum() == 6
    assert len(trained) == 3
    assert caplog.text.count("judges are trained anew each time, since they cannot be kept") == 1


def test_restores_the_global_generator(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    kept(tmp_path, [])
    assert torch.rand(1) == expected
