"""Rows of several modalities: what is missing is masked, and nothing else is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aigc import data
from aigc.config import DataConfig
from aigc.data import CorruptRow
from aigc.data.sources import paired
from tests.data.rows import PAIRED, SHAPES, WORDS, written


@pytest.mark.parametrize("missing", SHAPES)
def test_missing_parts_are_zeros_under_their_mask(missing: str, tmp_path: Path) -> None:
    whole = data.load(written(tmp_path / "whole"), PAIRED)
    some = data.load(written(tmp_path / "some", missing), PAIRED)
    assert len(whole) == len(some) == 4
    for row in range(4):
        (one, label), (other, same) = whole.read(row), some.read(row)
        assert label == same
        for name in SHAPES:
            assert one[f"mask/{name}"] == 1
            # Rows go by class: the second of the files is the third row.
            gone = name == missing and row == 2
            assert other[f"mask/{name}"] == (not gone)
            assert np.array_equal(other[name], 0 * one[name] if gone else one[name])


def test_files_of_one_stem_form_a_row(tmp_path: Path) -> None:
    source = data.load(written(tmp_path), PAIRED, "test")
    assert source.classes == WORDS
    for row in range(2):
        made, label = source.read(row)
        text = "".join(source.vocabulary[token] for token in made["text"])  # type: ignore[attr-defined]
        assert text == WORDS[label]


def test_rows_are_held_out_by_hash_without_split_folders(tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"{number}.txt").write_text("onetw")
    config = DataConfig(source="paired", path=str(tmp_path))
    model = replace(PAIRED, num_classes=0, text=6)
    train, test = (data.load(config, model, split) for split in ("train", "test"))
    assert len(train) + len(test) == 60
    assert 0 < len(test) < 15


def test_fingerprint_covers_missing_parts(tmp_path: Path) -> None:
    configs = [written(tmp_path / str(n), m) for n, m in enumerate(("", "image", "audio"))]
    prints = {data.load(config, PAIRED).fingerprint()["sha256"] for config in configs}
    slower = replace(configs[0], sample_rate_hz=2000)
    prints.add(data.load(slower, PAIRED).fingerprint()["sha256"])
    assert len(prints) == 4


@pytest.mark.parametrize("suffix", ["png", "wav"])
def test_corrupt_file_is_a_corrupt_row_by_name(suffix: str, tmp_path: Path) -> None:
    config = replace(written(tmp_path), memory_mb=0)
    source = data.load(config, PAIRED)
    (tmp_path / "train" / "one" / f"0.{suffix}").write_bytes(b"broken")
    with pytest.raises(CorruptRow, match=rf"train/one/0.{suffix} is no whole"):
        source.read(0)
    (tmp_path / "train" / "one" / f"0.{suffix}").unlink()
    with pytest.raises(CorruptRow, match=rf"train/one/0.{suffix} cannot be read"):
        source.read(0)


def test_empty_split_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0.txt").write_text("one")
    config = DataConfig(source="paired", path=str(tmp_path))
    model = replace(PAIRED, num_classes=0)
    with pytest.raises(ValueError, match="has no row in its test split; add more rows"):
        data.load(config, model, "test")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["", "\n", "\r\n"], ids=["none", "lf", "crlf"])
def test_texts_lose_byte_order_marks_and_line_ends(encoding: str, end: str, tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.txt").write_bytes(f"on{end}etw{end}".encode(encoding))
    shapes = {"text": (9,)}
    source = paired.load(DataConfig(source="paired", path=str(tmp_path)), shapes, "train")
    assert set(source.vocabulary) == {"", *"onetw", *("\n" if end else "")}


def test_undecodable_text_is_a_corrupt_row_by_name(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.txt").write_text("onetw")
    (tmp_path / "0.txt").write_bytes("été".encode("latin-1"))
    (tmp_path / "1.txt").unlink()
    (tmp_path / "1.txt").symlink_to("/nowhere/1.txt")
    config = DataConfig(source="paired", path=str(tmp_path))
    model = replace(PAIRED, num_classes=0, text=6)
    message = r"\.txt (is not UTF-8 text|cannot be read).*set --data.on-error skip"
    with pytest.raises(CorruptRow, match=message):
        data.load(config, model)
    held = data.load(replace(config, on_error="skip"), model)
    assert isinstance(held, data.Dataset)
    assert 0 < len(held.skipped) <= 2


def test_rows_beside_class_folders_are_refused_by_name(tmp_path: Path) -> None:
    config = written(tmp_path)
    for place in ("train/README.txt", "test/one/deeper/x.txt"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text("one")
    message = r"rows in sub-folders and beside them, such as train/README; put every row"
    with pytest.raises(ValueError, match=message):
        data.load(config, PAIRED)
