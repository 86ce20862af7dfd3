"""The stated rules of divergence, and the way back to the last good checkpoint."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from aigc import data
from aigc.divergence import (
    COLLAPSE_BATCHES,
    EXPLOSION,
    EXPLOSION_BATCHES,
    WARMUP_BATCHES,
    Diverged,
    Guard,
    NonFiniteLoss,
)
from aigc.run import MAX_ROLLBACKS, Run, work
from aigc.train import Alone
from tests.test_train import small

pytestmark = pytest.mark.process


def norms(guard: Guard, values: list[float]) -> None:
    for number, value in enumerate(values):
        guard.observe(number, {"generator/gradient_norm": value})


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_named(bad: float) -> None:
    with pytest.raises(NonFiniteLoss, match="phase 'generator' is not finite after 640 samples"):
        Guard().observe(640, {"discriminator/loss": 1.0, "generator/loss": bad})


def test_a_gradient_explodes_by_the_rule_and_not_before() -> None:
    usual = [1.0 + number % 3 for number in range(WARMUP_BATCHES)]
    high = 10 * EXPLOSION
    norms(Guard(), [*usual, *[high] * (EXPLOSION_BATCHES - 1), 1.0, high])  # not in a row
    norms(Guard(), [high] * 500)  # always so high
    norms(Guard(), [*usual[1:], *[high] * 3])  # too early to tell
    with pytest.raises(Diverged, match="gradient norm of phase 'generator' is 1e"):
        norms(Guard(), [*usual, *[high] * EXPLOSION_BATCHES])


def test_a_collapse_counts_in_a_row() -> None:
    guard = Guard(lambda values: "too sure" if values["real"] > 7 else "")
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
    run = Run(tmp_path / "run")
    run.create(config)
    return run


def test_a_rollback_halves_the_rates_until_it_goes_well(tmp_path: Path) -> None:
    run = reckless(tmp_path, 60.0, on_divergence="rollback")
    config = run.config()
    outcome = work(run, config, data.load(config.data, config.model), Alone())
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


def test_a_rollback_gives_up_after_some_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    run = reckless(tmp_path, 1e30, on_divergence="rollback")
    config = run.config()
    with pytest.raises(NonFiniteLoss):
        work(run, config, data.load(config.data, config.model), Alone())
    rollbacks = [entry for entry in run.history() if entry.get("event") == "rollback"]
    assert len(rollbacks) == MAX_ROLLBACKS


def test_stop_is_what_happens_by_default(tmp_path: Path) -> None:
    run = reckless(tmp_path, 1e30)
    config = run.config()
    with pytest.raises(NonFiniteLoss, match="lower the learning rate"):
        work(run, config, data.load(config.data, config.model), Alone())
    assert [entry for entry in run.history() if "event" in entry] == []
