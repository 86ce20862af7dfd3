"""The stated rules of divergence, and the way back to the last good checkpoint."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from aigc.training.divergence import (
    COLLAPSE_BATCHES,
    EXPLOSION,
    EXPLOSION_BATCHES,
    WARMUP_BATCHES,
    Diverged,
    DivergenceMonitor,
    NonFiniteLoss,
)
from aigc.training.run import MAX_ROLLBACKS, Run
from tests.training.small_runs import begin_run, continue_run, small

pytestmark = pytest.mark.process


def norms(guard: DivergenceMonitor, values: list[float]) -> None:
    for number, value in enumerate(values):
        guard.observe(number, {"generator/gradient_norm": value})


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_monitor_names_the_value_that_is_not_finite(bad: float) -> None:
    with pytest.raises(NonFiniteLoss, match="phase 'generator' is not finite after 640 samples"):
        DivergenceMonitor().observe(640, {"discriminator/loss": 1.0, "generator/loss": bad})


def test_monitor_detects_exploding_gradients() -> None:
    usual = [1.0 + number % 3 for number in range(WARMUP_BATCHES)]
    high = 10 * EXPLOSION
    norms(
        DivergenceMonitor(), [*usual, *[high] * (EXPLOSION_BATCHES - 1), 1.0, high]
    )  # not in a row
    norms(DivergenceMonitor(), [high] * 500)  # always so high
    norms(DivergenceMonitor(), [*usual[1:], *[high] * 3])  # too early to tell
    with pytest.raises(Diverged, match="gradient norm of phase 'generator' is 1e"):
        norms(DivergenceMonitor(), [*usual, *[high] * EXPLOSION_BATCHES])


def test_monitor_counts_collapsed_batches_in_a_row() -> None:
    guard = DivergenceMonitor(lambda values: "too sure" if values["real"] > 7 else "")
    for number in range(COLLAPSE_BATCHES - 1):
        guard.observe(number, {"real": 8.0})
    guard.observe(0, {"real": 1.0})
    for number in range(COLLAPSE_BATCHES - 1):
        guard.observe(number, {"real": 8.0})
    with pytest.raises(
        Diverged, match=f"in {COLLAPSE_BATCHES} batches in a row, after .*: too sure"
    ):
        guard.observe(640, {"real": 8.0})


def reckless(tmp_path: Path, rate: float, **changes: Any) -> Run:
    """A run whose learning rate is far too high."""
    from dataclasses import replace

    config = small("fc_gan:ring", checkpoint_interval=32, report_interval=16, samples=640)
    model = config.model
    hot = replace(model.generator_optimizer, learning_rate=rate)
    model = replace(
        model, objective="least_squares", generator_optimizer=hot, discriminator_optimizer=hot
    )
    config = replace(config, model=model, **changes)
    return begin_run(tmp_path / "run", config)


def test_rollback_halves_the_rates_until_training_is_stable(tmp_path: Path) -> None:
    run = reckless(tmp_path, 60.0, on_divergence="rollback")
    config = run.config()
    outcome = continue_run(run, config)
    assert outcome == "done"
    rollbacks = [entry for entry in run.history() if entry.get("event") == "rollback"]
    assert len(rollbacks) > 0
    assert "not finite" in rollbacks[0]["reason"]
    assert run.facts()["rate_scale"] == 0.5 ** len(rollbacks)
    assert run.facts()["rollbacks"] == len(rollbacks)
    assert run.facts()["samples"] == 640
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    reports = [json.loads(line) for line in lines]
    assert [report["samples"] for report in reports] == list(range(16, 641, 16))
    assert reports[-1]["host"]["rollbacks"] == len(rollbacks)


def test_rollback_gives_up_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    run = reckless(tmp_path, 1e30, on_divergence="rollback")
    config = run.config()
    with pytest.raises(NonFiniteLoss):
        continue_run(run, config)
    rollbacks = [entry for entry in run.history() if entry.get("event") == "rollback"]
    assert len(rollbacks) == MAX_ROLLBACKS


def test_divergence_stops_the_run_by_default(tmp_path: Path) -> None:
    run = reckless(tmp_path, 1e30)
    config = run.config()
    with pytest.raises(NonFiniteLoss, match="lower the learning rate"):
        continue_run(run, config)
    assert [entry for entry in run.history() if "event" in entry] == []
