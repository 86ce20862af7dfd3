"""Quality by samples: a checkpoint is rated by a measurement of its own state, or not at all."""

import json
from pathlib import Path
from typing import Any

import pytest

from aigc.files import append, append_line
from aigc.training.quality_log import QUALITY, append_quality, own_quality, read_quality
from tests import disks

CHECKPOINT = Path(f"{64:012d}")


@pytest.mark.parametrize(
    ("facts", "known", "expected"),
    [
        ({}, {}, None),
        ({"quality": 3.0}, {}, 3.0),  # as earlier versions wrote it
        ({"quality": 3, "quality_samples": 64}, {}, 3.0),
        ({"quality": 3.0, "quality_samples": 32}, {}, None),
        ({"quality": 3.0, "quality_samples": 32}, {64: 2.0}, 2.0),
        ({"quality": 3.0}, {32: 1.0}, 3.0),
        ({"quality": float("nan")}, {}, None),
        ({"quality": float("-inf"), "quality_samples": 64}, {}, None),
        ({"quality": "good"}, {}, None),
        ({"quality": True, "quality_samples": None}, {}, None),
    ],
)
def test_rating_needs_a_measurement_of_the_checkpoint_s_own_samples(
    facts: dict[str, Any], known: dict[int, float], expected: float | None
) -> None:
    assert own_quality(CHECKPOINT, facts, known) == expected


def test_measured_leaves_out_malformed_lines(tmp_path: Path) -> None:
    assert read_quality(tmp_path) == {}
    append_quality(tmp_path, 32, 9.0)
    bad = [b"[]", b'{"samples": 8}', b'{"samples": "8", "quality": 1.0}', b"\xff", b"null"]
    bad += [b'{"samples": 8, "quality": NaN}', b'{"samples": 8, "quality": Infinity}']
    with (tmp_path / QUALITY).open("ab") as file:
        file.write(b"\n".join([*bad, b'{"samples": 40, "qual']))
    append_quality(tmp_path, 64, 4.0)  # the torn line before it costs itself alone
    assert read_quality(tmp_path) == {32: 9.0, 64: 4.0}


@pytest.mark.parametrize("in_lines", [True, False])
def test_appending_to_a_full_disk_changes_nothing(tmp_path: Path, in_lines: bool) -> None:
    with disks.small_disk(tmp_path / "disk") as disk:
        path = disk / "file"
        append(path, b"first\n")
        filler = disks.fill(disk)
        with pytest.raises(OSError, match="No space left"):
            append(path, b"x" * 10_000, in_lines=in_lines)
        assert path.read_bytes() == b"first\n"
        filler.unlink()
        append(path, b"second\n", in_lines=in_lines)
        assert path.read_bytes() == b"first\nsecond\n"


def test_append_line_ends_a_torn_line_first(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b'{"a": 1}\n{"a": 2')
    append_line(path, {"a": 3})
    *_, torn, last = path.read_bytes().splitlines()
    assert torn == b'{"a": 2'
    assert json.loads(last) == {"a": 3}
