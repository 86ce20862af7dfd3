"""Metrics beside real data of any size: what cannot be had is left out, the others are given."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aigc import data
from aigc.artifact import Artifact
from aigc.config import DataConfig, ModelConfig
from aigc.data import Dataset
from aigc.metrics import (
    Evaluation,
    Metric,
    Omitted,
    TooFewRows,
    evaluator_of,
    mean,
    reliability_note,
)
from tests.data.sounds import SHAPE
from tests.data.sounds import sealed as sounding
from tests.metrics.paired_rows import TEST, TRAIN

pytestmark = pytest.mark.usefixtures("session_cache")

Splits = tuple[Artifact, Dataset, Dataset]


def raising() -> float:
    raise TooFewRows("one row")


def test_unavailable_metric_is_omitted_with_its_reason() -> None:
    figures = Evaluation()
    figures.add("a", lambda: 1.0, lambda: 2.0, "higher", "weak")
    figures.add("b", raising, lambda: 2.0, "higher")
    figures.add("c", lambda: 1.0, raising, "higher", "weak")
    figures.add("d", lambda: math.nan, None, "higher")
    figures.add("e", lambda: mean(np.zeros(0), "rows"), None, "higher")
    assert list(figures) == [
        Metric("a", 1.0, 2.0, "higher", "weak"),
        Metric("c", 1.0, None, "higher", "weak; no floor: one row"),
    ]
    assert figures.omitted == [
        Omitted("b", "one row"),
        Omitted("d", "it is not defined for these rows"),
        Omitted("e", "there are no rows"),
    ]


@pytest.mark.parametrize(
    ("better", "float32", "value", "floor", "loss"),
    [
        ("lower", 2.0, 2.2, 1.0, 0.1),
        ("lower", 2.0, 1.8, 1.0, -0.1),
        ("higher", 0.02, 0.01, 0.5, 0.02),  # of what real data have: it is nothing
        ("higher", -100.0, -110.0, None, 0.1),
        ("real", 0.9, 1.2, 1.0, 0.1),
        ("real", 0.9, 1.1, 1.0, 0.0),
        ("real", 0.9, 1.1, None, None),
        ("", 0.9, 1.1, 1.0, None),
        ("lower", None, 1.1, 1.0, None),
        ("lower", 0.0, 1.0, None, math.inf),
        ("lower", 0.0, 0.0, None, 0.0),
    ],
)
def test_quality_loss_by_hand(
    better: str, float32: float | None, value: float, floor: float | None, loss: float | None
) -> None:
    metric = Metric("m", value, floor, better, float32=float32)
    assert metric.quality_loss == (None if loss is None else pytest.approx(loss, abs=1e-12))


@pytest.mark.parametrize(
    ("right", "rows", "says"),
    [
        (80, 100, ""),
        (79, 100, "weak judge: right of 79% of held-out real rows, 80% is wanted"),
        (29, 29, "the judge is untested: 29 held-out real rows, 30 are needed"),
        (0, 0, "the judge is untested: 0 held-out real rows, 30 are needed"),
    ],
)
def test_judge_is_doubtful_by_its_score_on_real_rows(right: int, rows: int, says: str) -> None:
    assert reliability_note(np.arange(rows) < right) == says


@pytest.fixture(scope="module")
def splits(
    sealed: Path, written: Path, joined: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Splits]:
    """An artifact, its training split and its test split, of a kind of data."""
    folder = tmp_path_factory.mktemp("tones")
    tones = sounding(folder)

    def loaded(config: DataConfig, model: ModelConfig) -> tuple[Dataset, Dataset]:
        train, test = (data.whole(data.load(config, model, s)) for s in ("train", "test"))
        return train, test

    def of(kind: str) -> Splits:
        if kind == "audio":
            recorded = DataConfig(source="audio", path=str(folder / "data"))
            return Artifact.open(tones), *loaded(recorded, ModelConfig(shape=SHAPE))
        if kind == "text":
            artifact = Artifact.open(written, verify=False)
            from aigc.models.text_vae import Config

            return artifact, *loaded(DataConfig(source="numbers"), Config())
        if kind == "paired":
            return Artifact.open(joined, verify=False), TRAIN, TEST
        train, test = loaded(DataConfig(), ModelConfig(shape=(1, 8, 8)))
        if kind == "unlabelled":
            train, test = (replace(d, classes=(), labels=d.labels * 0) for d in (train, test))
        return Artifact.open(sealed, verify=False), train, test

    return of


def names(figures: Evaluation) -> set[str]:
    return {m.name for m in figures} | {o.name for o in figures.omitted}


def first(dataset: Dataset, rows: int) -> Dataset:
    return replace(
        dataset, samples=dataset.samples[:rows], labels=dataset.labels[:rows], origin=None
    )


@pytest.mark.process
@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("kind", ["image", "unlabelled", "audio", "text", "paired"])
def test_few_test_rows_leave_the_possible_metrics(
    kind: str, rows: int, splits: Callable[[str], Splits]
) -> None:
    artifact, train, test = splits(kind)
    judge = evaluator_of("image" if kind == "unlabelled" else kind)
    assert judge is not None
    found = judge(artifact, train, first(test, rows), 20, 0)
    assert found.metrics
    assert all(math.isfinite(m.value) for m in found)
    assert all(o.reason for o in found.omitted)
    if kind != "paired":  # what is made of rows that are not there has no names
        assert names(found) == names(judge(artifact, train, test, 20, 0))
    judged = {m.name.partition("/")[0]: m for m in found}
    for name in ("accuracy", "coherence"):
        if name in judged:
            assert "the judge is untested" in judged[name].note
    if rows == 0:
        assert all(m.floor in (None, 1.0, 2.0) for m in found)  # 1 and 2: not of the test split
        assert found.omitted or kind == "audio"


@pytest.mark.process
@pytest.mark.parametrize("rows", [1, 2])
def test_few_training_rows_leave_or_omit_the_distance(
    rows: int, splits: Callable[[str], Splits]
) -> None:
    from aigc.metrics import distance_to

    for kind in ("image", "unlabelled", "audio", "text", "paired"):
        _, train, _ = splits(kind)
        make = distance_to("image" if kind == "unlabelled" else kind)
        assert make is not None
        distance = make(first(train, rows))
        assert (distance is None) == (rows == 1), kind
        assert distance is None or math.isfinite(distance(train.samples[:20])), kind
