"""One thing from another, judged: real rows score their floors, prototypes do not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from aigc.artifact import Artifact, Manifest
from aigc.artifact.folder import read_manifest
from aigc.artifact.image_files import grid, to_uint8
from aigc.artifact.sampling_inputs import ArtifactSpec
from aigc.commands.evaluate import evaluate
from aigc.metrics import Metric, paired
from aigc.metrics.paired import distance, side_by_side
from tests.data.rows import SHAPES
from tests.metrics.paired_rows import TEST, TRAIN

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("session_cache")]

Rows = NDArray[Any]


class Imitated(ArtifactSpec):
    """Gives what `change` makes of the test rows: those that it is given parts of, or the first."""

    def __init__(self, manifest: Manifest, change: Callable[[Rows], Rows]) -> None:
        super().__init__(manifest)
        self.change = change
        self.known = {
            row[name].tobytes(): i
            for name in ("image", "audio")
            for i, row in enumerate(TEST.samples)
        }

    def sample(self, *, seed: int, n: int) -> dict[str, Rows]:
        made = self.change(TEST.samples[:n].copy())
        return {name: made[name] for name in SHAPES}

    def run(self, signature: str, inputs: dict[str, Rows]) -> dict[str, Rows]:
        rows = []
        for i in range(len(inputs["text"])):
            given = [k for k in ("image", "audio") if inputs[f"{k}_given"][i]]
            found = [self.known[inputs[name][i].tobytes()] for name in given]
            # A word alone says the class alone: any row of it.
            rows += found[:1] or [
                2 * (i // 2) + int(inputs["text"][i, 0] == TEST.samples["text"][1, 0])
            ]
        made = self.change(TEST.samples[rows].copy())
        return {f"new_{name}": made[name] for name in SHAPES}


@pytest.fixture(scope="module")
def judged(joined: Path) -> Callable[[Callable[[Rows], Rows]], dict[str, Metric]]:
    manifest = read_manifest(str(joined))

    def of(change: Callable[[Rows], Rows]) -> dict[str, Metric]:
        imitated: Any = Imitated(manifest, change)
        return {m.name: m for m in paired.evaluate(imitated, TRAIN, TEST, 100, 0)}

    return of


Judged = Callable[[Callable[[Rows], Rows]], dict[str, Metric]]


def coherences(found: dict[str, Metric], of: str) -> list[float]:
    return [m.value for name, m in found.items() if name.startswith("coherence") and of in name]


def test_real_rows_score_their_floors(judged: Judged) -> None:
    found = judged(lambda rows: rows)
    pairs = ("image>text", "image>audio", "text>image", "text>audio", "audio>image", "audio>text")
    subsets = ("image+text>audio", "image+audio>text", "text+audio>image")
    names = [name.split("/")[1] for name in found if name.startswith("coherence")]
    assert names == ["joint", *pairs, *subsets]
    assert found["classes/joint"].value == 2
    assert found["valid/joint>text"].value == 1
    for metric in found.values():
        assert metric.floor is not None
        assert metric.value == pytest.approx(metric.floor, rel=1e-3), metric.name


def test_parts_of_another_class_lower_accuracy(judged: Judged) -> None:
    def swapped(rows: Rows) -> Rows:
        rows["image"] = rows["image"][:, :, ::-1]
        return rows

    found = judged(swapped)
    assert coherences(found, ">image") == [0, 0, 0]
    assert coherences(found, "joint") == [0]
    assert coherences(found, ">audio") == [1, 1, 1]


def test_prototypes_are_coherent_but_detected(judged: Judged) -> None:
    def prototypes(rows: Rows) -> Rows:
        bright = rows["image"][:, :, :4].mean((1, 2, 3)) > 0
        for label in (False, True):
            own = TRAIN.samples["image"][TRAIN.labels == label].mean(0)
            rows["image"][bright == label] = own
        return rows

    found = judged(prototypes)
    assert coherences(found, ">image") == [1, 1, 1]
    for source in ("joint", "text", "audio"):
        spread = found[f"diversity/{source}>image"]
        assert spread.floor is not None
        assert spread.value < 0.01 * spread.floor


def test_unknown_word_is_invalid(judged: Judged) -> None:
    def misspelt(rows: Rows) -> Rows:
        rows["text"][::4, 0] = rows["text"][::4, 1]
        return rows

    found = judged(misspelt)
    assert found["valid/joint>text"].value == 0.75
    assert found["coherence/joint"].value == 0.75


def test_generated_parts_score_below_real_ones(joined: Path) -> None:
    imitated: Any = Imitated(read_manifest(str(joined)), lambda rows: rows)
    picture = side_by_side(imitated, TEST, 0)
    real, from_text, from_audio = (picture[start : start + 8] for start in (0, 10, 20))
    # Two test rows of each class, and in place of what is drawn from their sounds they themselves.
    shown = TEST.samples["image"][[0, 2, 1, 3]]
    assert np.array_equal(real, grid(to_uint8(shown, -1, 1), 4))
    assert np.array_equal(from_audio, real)
    of_that_class = TEST.samples["image"][[0, 0, 3, 3]]  # from a word, any row of its class
    assert np.array_equal(from_text, grid(to_uint8(of_that_class, -1, 1), 4))


def test_distance_separates_mismatched_rows_and_noise() -> None:
    to_train = distance(TRAIN)
    assert to_train is not None
    floor = to_train(TEST.samples)
    assert to_train(TRAIN.samples) < 1e-6
    for name in SHAPES:  # each part is as good as before, its row is of another class
        apart = TEST.samples.copy()
        apart[name] = apart[name][np.arange(len(apart)) ^ 1]
        assert to_train(apart) > 5 * floor, name
        noise = TEST.samples.copy()
        flat = np.random.default_rng(0).permuted(noise[name].reshape(24, -1), axis=1)
        noise[name] = flat.reshape(noise[name].shape)
        assert to_train(noise) > 5 * floor, name


def test_distance_uses_complete_rows_only() -> None:
    lacking = TRAIN.samples.copy()
    lacking["mask/audio"][:20], lacking["audio"][:20] = 0, 0
    to_some = distance(replace(TRAIN, samples=lacking))
    assert to_some is not None
    assert to_some(TRAIN.samples[20:]) < 1e-6
    lacking["mask/audio"] = 0
    assert distance(replace(TRAIN, samples=lacking)) is None
    assert distance(replace(TRAIN, classes=())) is None


def test_incomplete_rows_are_left_out(joined: Path) -> None:
    imitated: Any = Imitated(read_manifest(str(joined)), lambda rows: rows)
    lacking = TEST.samples.copy()
    lacking["mask/audio"][::3], lacking["audio"][::3] = 0, 0
    some = replace(TEST, samples=lacking)
    found = {m.name: m.value for m in paired.evaluate(imitated, TRAIN, some, 100, 0)}
    assert {value for name, value in found.items() if name.startswith("coherence")} == {1}
    lacking["mask/audio"] = 0
    with pytest.raises(
        ValueError, match=r"'rows' has no classes, or no row with all of mask/image"
    ):
        paired.evaluate(imitated, some, TEST, 100, 0)
    found_without = paired.evaluate(imitated, TRAIN, some, 24, 0)
    assert {m.name for m in found_without} >= {"coherence/joint", "frechet/joint>image"}
    assert {m.floor for m in found_without if m.name.startswith(("coherence", "frechet"))} == {None}
    assert {o.name for o in found_without.omitted} == {
        f"coherence/{given}"
        for given in ("image", "text", "audio", "image+text", "image+audio", "text+audio")
    }


def test_evaluate_measures_a_paired_artifact(joined: Path) -> None:
    artifact = Artifact.open(joined)
    config = artifact.manifest.training.config
    assert config["data"]["source"] == "paired"
    found = {m.name: m for m in evaluate(artifact, n=2)}
    assert "coherence/text>image/cnn64" in found
    assert found["classes/joint"].floor == 2
