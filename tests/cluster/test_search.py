"""A search's folder: rungs, ranking, the table, and the config of the best trial."""

from pathlib import Path

import pytest

from aigc import recipe
from aigc.training.quality_log import append_quality
from cluster.search import Plan, Search, at_rung
from tests.training.small_runs import small

RATE = "model.generator_optimizer.learning_rate"
PLAN = Plan(
    preset="fc_gan:ring",
    over=("batch=16,32", f"{RATE}=log:1e-5..1e-2"),
    points=[{}, *({"batch": 32, RATE: rate} for rate in (1e-2, 1e-3, 1e-4, 1e-5))],
    samples=1000,
    reduction=3,
    first_rung=112,
)


@pytest.fixture
def search(tmp_path: Path) -> Search:
    found = Search(tmp_path / "search")
    found.create(PLAN, small("fc_gan:ring", until="quality<=1", evaluate_interval=64))
    return found


@pytest.mark.parametrize(
    ("samples", "first", "rungs"),
    [(1000, 112, [112, 336, 1000]), (900, 100, [100, 300, 900]), (900, 900, [900])],
)
def test_rungs_end_with_the_budget(samples: int, first: int, rungs: list[int]) -> None:
    fields = vars(PLAN) | {"samples": samples, "first_rung": first}
    assert Plan(**fields).rungs == rungs


def test_trials_rank_by_their_last_quality_and_failed_ones_last(search: Search) -> None:
    for number, samples, quality in (
        (0, 112, 1.0),
        (1, 112, 0.5),
        (1, 352, 0.9),
        (2, 112, 0.7),
        (2, 336, 0.8),
        (3, 336, 0.1),
    ):
        append_quality(search.trial_folder(number), samples, quality, metric="off_the_ring")
    search.end(0, "halved")
    search.end(3, "failed", "a loss that is not finite")
    assert [trial.number for trial in search.ranked()] == [2, 1, 0, 4, 3]
    head, first, *_, last, reason = search.table().splitlines()
    assert head.split()[:4] == ["trial", "off_the_ring", "samples", "ended"]
    assert head.split()[4:] == ["batch", "learning_rate", "folder"]
    assert first.split() == ["2", "0.8", "336", "to", "go", "on", "32", "0.001", "trials/002"]
    assert last.split()[:2] == ["3", "0.1"]
    assert reason == "trial 3 failed: a loss that is not finite"
    file = search.write_best()
    assert file is not None
    best = recipe.read(file)
    assert (best.batch, best.samples) == (32, 1000)
    assert best.model.generator_optimizer.learning_rate == 1e-3  # type: ignore[attr-defined]
    # What the search sets for its trials is not in it.
    assert (best.until, best.evaluate_interval) == ("quality<=1", 64)


def test_measurements_of_a_rung_are_those_of_whole_batches(search: Search) -> None:
    folder = search.trial_folder(1)
    assert at_rung(folder, 112, 32) is None
    append_quality(folder, 128, 3.0)
    assert at_rung(folder, 112, 32) == 128
    assert at_rung(folder, 112, 16) is None


def test_nothing_measured_has_no_best(search: Search) -> None:
    assert search.write_best() is None
    assert Search.find(search.folder.parent, "search").plan() == PLAN
    with pytest.raises(ValueError, match="did you mean 'search'"):
        Search.find(search.folder.parent, "serch")
