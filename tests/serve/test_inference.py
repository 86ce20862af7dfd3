"""Pieces of many jobs are drawn in one call, and nobody can tell."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.batching import Job, Piece
from serve.hosting import Loader
from serve.inference import run
from serve.lane import LocalLane
from serve.memory import Memory
from serve.metrics import Metrics


@pytest.fixture
def lane(store: Path, metrics_dir: Path) -> LocalLane:
    memory = Memory(limit_bytes=1 << 40)
    loader = Loader(threads=1, max_batch=64, memory=memory, metrics=Metrics())
    lane = loader.open(f"{store}/tiny/1").lanes["sample"]
    assert isinstance(lane, LocalLane)
    return lane


@pytest.fixture
def draws(lane: LocalLane, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples each call drew."""
    sizes: list[int] = []
    draw = lane.artifact.draw

    def noted(signature: str, seed: Any, indices: Any, *rest: Any) -> Any:
        sizes.append(len(indices))
        return draw(signature, seed, indices, *rest)

    monkeypatch.setattr(lane.artifact, "draw", noted)
    return sizes


def piece(job: Job, start: int = 0, stop: int | None = None) -> Piece:
    return Piece(job=job, start=start, stop=job.n if stop is None else stop)


def test_pieces_of_seeds_are_drawn_at_once_and_are_the_same_as_alone(
    lane: LocalLane, draws: list[int]
) -> None:
    asked: list[tuple[int, int, int, Any]] = [
        (7, 0, 3, None),
        (7, 5, 1, 3),
        (8, 2, 4, [9, 8, 7, 6]),
        (2**53 - 1, 0, 1, 0),
    ]
    jobs = [lane.job(seed=s, first_index=i, n=n, label=label) for s, i, n, label in asked]
    pieces = [piece(jobs[0], 1), piece(jobs[1]), piece(jobs[2], 1, 3), piece(jobs[3])]
    together = run(lane, pieces).outcomes
    assert draws == [6]
    for one, outcome in zip(pieces, together, strict=True):
        (alone,) = run(lane, [one]).outcomes
        assert isinstance(alone, dict)
        assert isinstance(outcome, dict)
        assert np.array_equal(alone["pixels"], outcome["pixels"])


def test_a_job_that_cannot_be_drawn_fails_alone(lane: LocalLane, draws: list[int]) -> None:
    labels: list[int | None] = [None, 99, 3]
    jobs = [lane.job(seed=1, first_index=0, n=2, label=label) for label in labels]
    good, bad, other = run(lane, [piece(job) for job in jobs]).outcomes
    assert draws == [6, 2, 2, 2]
    assert isinstance(bad, ValueError)
    assert isinstance(good, dict)
    assert isinstance(other, dict)
    assert len(good["pixels"]) == len(other["pixels"]) == 2


def test_tensors_and_seeds_share_a_batch(lane: LocalLane, draws: list[int]) -> None:
    drawn = lane.artifact.draw("sample", 5, range(2))
    given = Job(lane=lane, n=2, draw=lambda a, b: {k: v[a:b] for k, v in drawn.items()})
    seeded = lane.job(seed=5, first_index=0, n=2, label=None)
    first, second = run(lane, [piece(given), piece(seeded)]).outcomes
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert np.array_equal(first["pixels"], second["pixels"])
