"""Pieces of many jobs are drawn in one call, and nobody can tell."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.batching.batch_runner import run
from serve.batching.batcher import Batcher
from serve.batching.jobs import BatchSlice, Job
from serve.hosting.memory_budget import MemoryBudget
from serve.hosting.models import ModelLoader
from serve.hosting.runner import LocalRunner
from serve.metrics import Metrics
from serve.sampling_params import SamplingParams


@pytest.fixture
def runner(store: Path, metrics_dir: Path) -> LocalRunner:
    memory = MemoryBudget(limit_bytes=1 << 40)
    loader = ModelLoader(
        threads=1, max_batch=64, memory=memory, metrics=Metrics(), batcher=Batcher(max_queue=1)
    )
    runner = loader.open(f"{store}/tiny/1").runners["sample"]
    assert isinstance(runner, LocalRunner)
    return runner


@pytest.fixture
def draws(runner: LocalRunner, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of samples drawn by each call."""
    sizes: list[int] = []
    draw = runner.artifact.draw

    def noted(signature: str, seed: Any, indices: Any, *rest: Any, **more: Any) -> Any:
        sizes.append(len(indices))
        return draw(signature, seed, indices, *rest, **more)

    monkeypatch.setattr(runner.artifact, "draw", noted)
    return sizes


def part(job: Job, start: int = 0, stop: int | None = None) -> BatchSlice:
    return BatchSlice(job=job, start=start, stop=job.n if stop is None else stop)


def test_slices_of_seeds_are_drawn_at_once_and_are_the_same_as_alone(
    runner: LocalRunner, draws: list[int]
) -> None:
    asked: list[tuple[int, int, int, Any]] = [
        (7, 0, 3, None),
        (7, 5, 1, 3),
        (8, 2, 4, [9, 8, 7, 6]),
        (2**53 - 1, 0, 1, 0),
    ]
    jobs = [
        runner.job(SamplingParams(seed=s, first_index=i, n=n, label=label))
        for s, i, n, label in asked
    ]
    slices = [part(jobs[0], 1), part(jobs[1]), part(jobs[2], 1, 3), part(jobs[3])]
    together = run(runner, slices, 0.0).outcomes
    assert draws == [6]
    for one, outcome in zip(slices, together, strict=True):
        (alone,) = run(runner, [one], 0.0).outcomes
        assert isinstance(alone, dict)
        assert isinstance(outcome, dict)
        assert np.array_equal(alone["pixels"], outcome["pixels"])


def test_a_job_that_cannot_be_drawn_fails_alone(runner: LocalRunner, draws: list[int]) -> None:
    labels: list[int | None] = [None, 99, 3]
    jobs = [runner.job(SamplingParams(seed=1, first_index=0, n=2, label=label)) for label in labels]
    good, bad, other = run(runner, [part(job) for job in jobs], 0.0).outcomes
    assert draws == [6, 2, 2, 2]
    assert isinstance(bad, ValueError)
    assert isinstance(good, dict)
    assert isinstance(other, dict)
    assert len(good["pixels"]) == len(other["pixels"]) == 2


def test_tensors_and_seeds_share_a_batch(runner: LocalRunner, draws: list[int]) -> None:
    drawn = runner.artifact.draw("sample", 5, range(2))
    given = Job(
        runner=runner,
        params=SamplingParams(n=2),
        draw=lambda a, b: {k: v[a:b] for k, v in drawn.items()},
    )
    seeded = runner.job(SamplingParams(seed=5, first_index=0, n=2))
    first, second = run(runner, [part(given), part(seeded)], 0.0).outcomes
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert np.array_equal(first["pixels"], second["pixels"])
