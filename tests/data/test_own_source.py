"""Data sources in files of a user: read whole or row by row, and refused with what is wrong."""

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from aigc import data, models
from aigc.commands.inspect_data import command
from aigc.config import DataConfig, ModelConfig
from aigc.data import Dataset
from aigc.training.dataloader import _Reading
from tests.own_files import READ_WHEN_DUE, SOURCE, write
from tests.training.small_runs import finish, small

POINTS = ModelConfig(shape=(2,))


def opened(path: Path, model: ModelConfig = POINTS, memory_mb: int = 1024) -> data.Source:
    return data.load(DataConfig(source=str(path), memory_mb=memory_mb), model)


def test_a_source_of_rows_is_held_in_memory_or_read_when_due(tmp_path: Path) -> None:
    path = write(tmp_path, READ_WHEN_DUE, "line.py")
    held, lazy = opened(path), opened(path, memory_mb=0)
    assert isinstance(held, Dataset)
    assert not isinstance(lazy, Dataset)
    assert held.fingerprint() == lazy.fingerprint()
    config = replace(small("fc_gan:ring"), data=DataConfig(source=str(path)))
    assert finish(config).keys() == finish(small("fc_gan:ring")).keys()


def test_rows_are_read_in_processes_that_never_saw_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, READ_WHEN_DUE, "line.py")
    reading = pickle.dumps(_Reading(opened(path, memory_mb=0), "", "stop"))
    path.unlink()
    program = "import pickle, sys; print(pickle.load(sys.stdin.buffer)[32])"
    done = subprocess.run([sys.executable, "-c", program], input=reading, capture_output=True)
    assert done.stdout.startswith(b"(array([0.5, 0.5], dtype=float32), 0, None)"), done.stderr


def test_mistakes_of_a_source_are_told(tmp_path: Path) -> None:
    path = write(tmp_path, SOURCE, "line.py")
    with pytest.raises(ValueError, match=r"'line' gives samples of shape \(2,\), the.*shape 2$"):
        opened(path, ModelConfig(shape=(1, 28, 28)))
    with pytest.raises(ValueError, match="num_classes is 3, but data 'line' has no labels"):
        opened(path, ModelConfig(shape=(2,), num_classes=3))
    other = write(tmp_path, "def load(config, shape, split):\n    return [1, 2]\n", "other.py")
    with pytest.raises(
        ValueError, match=r"load\(\) of .*other.py returned list, which has no name"
    ):
        opened(other)
    with pytest.raises(ValueError, match="unknown data source 'digist'; did you mean 'digits'"):
        data.load(DataConfig(source="digist"), models.preset("fc_gan").model)


def test_a_report_is_made_of_a_source_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, SOURCE, "line.py")
    assert command(["./line.py", "--shape", "2"]) == 0
    assert "aigc train fc_gan:ring --data.source ./line.py" in capsys.readouterr().out
