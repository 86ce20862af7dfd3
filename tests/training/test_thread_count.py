"""Threads of torch: chosen by a trial, kept by the run."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from aigc import data, models
from aigc.config import TrainConfig
from aigc.training import thread_count
from aigc.training.loop import TrainState, train
from cluster.train import command


def small() -> TrainConfig:
    return replace(models.preset("fc_gan:ring"), samples=64, batch=32)


@pytest.mark.parametrize(
    ("alone_s", "together_s", "expected"), [(0.02, 0.01, 4), (0.01, 0.02, 1), (0.01, 0.01, 1)]
)
def test_choose_takes_the_faster_number_of_threads(
    alone_s: float, together_s: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def batch(rows: int) -> None:
        time.sleep(alone_s if torch.get_num_threads() == 1 else together_s)

    before = torch.get_num_threads()
    monkeypatch.setattr(thread_count, "_batch", lambda config, source: batch)
    config = small()
    chosen, factor = thread_count.choose_threads(config, data.load(config.data, config.model), 4)
    assert chosen == expected
    assert factor == pytest.approx(max(alone_s, together_s) / min(alone_s, together_s), rel=0.3)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("seconds_per_row", "expected"), [(0.001, 4), (0.0001, 1)])
def test_choose_tells_a_large_model_from_one_that_waits_for_cores(
    seconds_per_row: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []

    def batch(rows: int) -> None:
        trained.append((torch.get_num_threads(), rows))
        time.sleep(0.02 if torch.get_num_threads() > 1 else rows * seconds_per_row)

    monkeypatch.setattr(thread_count, "_batch", lambda config, source: batch)
    monkeypatch.setattr(thread_count, "LONG_S", 0.01)
    config = small()
    chosen, factor = thread_count.choose_threads(config, data.load(config.data, config.model), 4)
    assert chosen == expected
    assert factor > 1
    assert trained == [(4, 32), (1, 8)]


@pytest.mark.process
@pytest.mark.parametrize("preset", ["fc_gan:ring", "text_vae:numbers"])
def test_choose_leaves_training_bit_equal(preset: str) -> None:
    config = replace(models.preset(preset), samples=64, batch=32)
    source = data.load(config.data, config.model)

    def trained() -> list[bytes]:
        state = TrainState(config)
        train(config, state, source)
        return [value.numpy().tobytes() for value in state.model.state_dict().values()]

    alone = trained()
    before = torch.get_rng_state()
    chosen, factor = thread_count.choose_threads(config, source, 2)
    assert chosen in (1, 2)
    assert factor >= 0.9
    assert torch.equal(torch.get_rng_state(), before)
    assert trained() == alone


def test_resume_keeps_the_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cluster.train.choose_threads", lambda config, source, most: (1, 1.5))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    before = torch.get_num_threads()
    flags = ["fc_gan:ring", "--storage", str(tmp_path), "--name", "r", "--batch", "32"]
    try:
        assert command([*flags, "--samples", "32"]) == 0
        assert "threads: 1, as a batch takes 1.50 times as long with 2;" in capsys.readouterr().err
        kept = tmp_path / "r" / "config.json"
        assert json.loads(kept.read_text())["threads"] == 1
        monkeypatch.setattr("cluster.train.choose_threads", None)  # a resumed run tries nothing
        assert command([*flags, "--samples", "64", "--resume"]) == 0
        assert json.loads(kept.read_text())["threads"] == torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
