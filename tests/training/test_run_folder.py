"""Small files of a run's folder: the last report, the newest and the best checkpoint."""

import json
from pathlib import Path

import pytest

from aigc.files import sha256
from aigc.training import run_folder
from aigc.training.quality_log import append_quality


def whole(checkpoints: Path, samples: int) -> Path:
    """A checkpoint whose certificate matches, without a model in it."""
    path = checkpoints / f"{samples:012d}"
    path.mkdir(parents=True)
    (path / run_folder.STATE).write_bytes(b"state")
    (path / run_folder.TRAINER).write_text(json.dumps({"samples": samples, "batches": 1}))
    hashes = {name: sha256(path / name) for name in (run_folder.STATE, run_folder.TRAINER)}
    (path / run_folder.CERTIFICATE).write_text(json.dumps(hashes))
    return path


@pytest.mark.parametrize(
    ("text", "samples"),
    [
        (None, None),
        ("", None),
        ('{"samples": 1}\n{"samples": 2}\n', 2),
        ('{"samples": 1}\n{"samp', 1),
        ('{"samples": 1}\n[2]\nnull\n', 1),
        ('{"samples": 1}\n' + "x" * run_folder.LAST_LINE_BYTES, None),
    ],
)
def test_last_report_is_the_last_whole_line(
    tmp_path: Path, text: str | None, samples: int | None
) -> None:
    if text is not None:
        (tmp_path / run_folder.METRICS).write_text(text)
    assert run_folder.last_report(tmp_path).get("samples") == samples


def test_truncate_drops_lines_beyond_the_checkpoint_and_torn_ones(tmp_path: Path) -> None:
    path = tmp_path / run_folder.METRICS
    run_folder.truncate(path, 2)
    assert not path.exists()
    path.write_text('{"samples": 1}\n{"samples": 2}\n{"samples": 3}\n{"sampl')
    run_folder.truncate(path, 2)
    assert path.read_text() == '{"samples": 1}\n{"samples": 2}\n'


def test_newest_passes_over_broken_and_foreign_folders(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = tmp_path / run_folder.CHECKPOINTS
    assert run_folder.newest(checkpoints) is None
    old, torn = whole(checkpoints, 64), whole(checkpoints, 128)
    (torn / run_folder.STATE).write_bytes(b"other")
    (checkpoints / "mine").mkdir()
    (checkpoints / f"{256:012d}").mkdir()  # without any part of a checkpoint
    assert run_folder.checkpoint_folders(checkpoints) == [torn, old]
    assert run_folder.newest(checkpoints) == old
    assert "state.safetensors does not match the certificate" in caplog.text


def test_best_is_the_whole_checkpoint_of_the_lowest_quality(tmp_path: Path) -> None:
    checkpoints = tmp_path / run_folder.CHECKPOINTS
    paths = {samples: whole(checkpoints, samples) for samples in (32, 64, 96)}
    assert run_folder.best(checkpoints) is None
    for samples, quality in ((32, 3.0), (64, 2.0), (96, 1.0)):
        append_quality(tmp_path, samples, quality)
    (paths[96] / run_folder.TRAINER).write_text("{}")
    assert [path for _, path in run_folder.rated(checkpoints)] == [paths[n] for n in (96, 64, 32)]
    assert run_folder.best(checkpoints) == paths[64]
