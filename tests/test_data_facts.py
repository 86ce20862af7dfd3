"""The short report on data: printed by runs, kept by them, carried by artifacts."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from aigc import data, models
from aigc.artifact import Artifact
from aigc.config import DataConfig, ModelConfig
from aigc.data.survey import LeftOut, Survey
from aigc.data_report import facts
from aigc.training.dry_run import describe
from cluster.train import command as train
from tests.data.pictures import write
from tests.data.sounds import recordings

CONFIG = DataConfig(source="folder", path="photos")
LABELS = np.array([0, 0, 1, 1, 1, 3, 3, 3, 3, 3])


@dataclass(frozen=True, kw_only=True)
class Photos:
    """A source that tells of itself: ten pictures of four classes, of which one has no rows."""

    survey: Survey
    name: str = "photos"
    classes: tuple[str, ...] = ("cat", "dog", "eel", "fox")

    def __len__(self) -> int:
        return 10

    def read(self, row: int) -> tuple[NDArray[np.uint8], int]:
        return np.zeros((3, 8, 8), np.uint8), int(LABELS[row])

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        return np.arange(10)

    def fingerprint(self) -> dict[str, Any]:
        return {"name": self.name}


def photos(**changes: Any) -> Photos:
    """With changes of its survey."""
    survey = Survey(
        splits={"train": 10, "val": 3},
        labels=LABELS,
        left_out=(
            LeftOut(reason="files with a suffix that is not read (.heic)", count=7, first=("a",)),
        ),
        notes=("folder test is taken as a class",),
    )
    return Photos(survey=replace(survey, **changes))


def test_facts_come_from_source_and_survey() -> None:
    found = facts.facts(CONFIG, photos())
    assert found == json.loads(json.dumps(found))
    assert found["rows"] == 10
    assert found["splits"] == {"train": 10, "val": 3}
    assert [one["rows"] for one in found["classes"]] == [2, 3, 0, 5]
    assert found["left_out"][0]["count"] == 7
    assert found["values"] is None


def test_facts_of_loaded_data_are_those_of_their_origin() -> None:
    assert facts.facts(CONFIG, data.whole(photos())) == facts.facts(CONFIG, photos())


def test_class_counts_are_unknown_without_labels() -> None:
    found = facts.facts(CONFIG, photos(labels=None))
    assert [one["rows"] for one in found["classes"]] == [None] * 4
    assert "classes: 4 (cat, dog, eel, fox)" in facts.lines(found)


def test_survey_labels_count_classes_without_reading() -> None:
    labels = np.array([3] * 9 + [2])
    found = facts.facts(CONFIG, photos(labels=labels))
    assert [one["rows"] for one in found["classes"]] == [0, 0, 1, 9]


def test_summary_is_a_few_lines() -> None:
    assert facts.lines(facts.facts(CONFIG, photos())) == [
        "data: photos (source folder photos), 10 rows to train on; in the data: train 10, val 3",
        "classes: 4 (cat, dog, eel, fox), 0 to 5 rows each",
        "classes without a row to train on: 1 (eel)",
        "left out: files with a suffix that is not read (.heic): 7 (a, ...)",
        "note: folder test is taken as a class",
    ]


def test_many_notes_are_cut_and_lead_to_the_rest() -> None:
    many = photos(notes=tuple(f"{'long ' * 100}{number}" for number in range(20)))
    said = facts.lines(facts.facts(CONFIG, many))
    assert len(said) == facts.MAX_LINES
    assert said[-1] == "and 17 lines more: aigc data folder photos"
    assert max(map(len, said)) <= facts.MAX_WIDTH


def test_floats_in_memory_show_their_range() -> None:
    ring = models.preset("fc_gan:ring")
    found = facts.facts(ring.data, data.load(ring.data, ring.model))
    low, high = found["values"]
    assert low < -0.5
    assert high > 0.5
    assert any(line.startswith("values: -") for line in facts.lines(found))


def test_run_writes_data_facts_and_its_artifact_carries_them(sealed: Path) -> None:
    kept = json.loads((sealed.parents[1] / "run" / facts.FILE).read_text())
    assert kept["name"] == "digits"
    assert sum(one["rows"] for one in kept["classes"]) == kept["rows"] == 1437
    carried = Artifact.open(str(sealed), verify=False).manifest.training.data
    assert carried["report"] == kept
    assert carried["samples"] == 1437


def test_run_without_data_facts_is_exported(tmp_path: Path) -> None:
    assert facts.read_facts(tmp_path) == {}
    (tmp_path / facts.FILE).write_text("[")
    assert facts.read_facts(tmp_path) == {}


def test_unwritable_folder_loses_only_the_facts_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    facts.write_facts(tmp_path / "file", {})
    assert "is not written" in caplog.text


def test_training_prints_data_facts_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--samples", "64", "--storage", str(tmp_path), "--threads", "1"]
    assert train(["fc_gan:ring", *flags]) == 0
    shown = capsys.readouterr()
    assert "data: ring (source ring), " in shown.err
    assert "data: ring" not in shown.out
    assert len(shown.out.splitlines()) == 1


def test_dry_run_prints_data_facts_without_loading_twice(
    tmp_path: Path,
) -> None:
    held = replace(write("folder", tmp_path), memory_mb=100)
    preset = models.preset("fc_gan:mlp")
    model = replace(preset.model, shape=(3, 64, 64), num_classes=3)
    shown = describe(replace(preset, model=model, data=held))
    assert "classes: 3 (cat, dog, eel), 4 to 5 rows each" in shown
    assert f"{13 * 3 * 64 * 64 / 2**20:.1f} MiB data (13 samples)" in shown
    assert "read when due" not in shown
    due = replace(preset, model=model, data=replace(held, memory_mb=0))
    assert "MiB data (13 samples) are read when due" in describe(due)


def test_facts_of_recordings_tell_the_sound_in_no_row(tmp_path: Path) -> None:
    config = recordings(tmp_path)
    model = ModelConfig(shape=(1, 300))
    found = facts.facts(config, data.load(config, model))
    rows = len(data.load(config, model))
    assert found["sounds"] == {
        "recordings": rows,
        "seconds": pytest.approx(0.075 * rows),
        "row_s": 0.0375,
        "longer": rows,
        "left_out_s": pytest.approx(0.0375 * rows),
        "pieces": False,
    }
    [told] = [line for line in facts.lines(found) if line.startswith("sounds: ")]
    assert "longer than the 0.04 s of a row, so that 50.0% of the sound is in none" in told
    pieces = replace(config, pieces=True)
    [told] = [
        line
        for line in facts.lines(facts.facts(pieces, data.load(pieces, model)))
        if line.startswith("sounds: ")
    ]
    assert told.endswith("in pieces of 0.04 s")
    assert facts.facts(CONFIG, photos())["sounds"] is None
