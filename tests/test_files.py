"""Files written whole or not at all, and read back line by line."""

import hashlib
import stat
from pathlib import Path

import pytest

from aigc.files import append, append_line, read_json, read_lines, replacing, sha256, write


def test_write_replaces_atomically(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write(path, b"old")
    write(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]
    assert sha256(path) == hashlib.sha256(b"new").hexdigest()


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write(tmp_path / "folder", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_error_in_the_block_keeps_the_old_contents(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write(path, b"old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_concurrent_writers_use_two_temporary_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replacing(path) as first, replacing(path) as second:
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert path.read_bytes() == b"first"


def test_written_file_has_default_mode(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write(tmp_path / "file", b"")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_read_lines_skips_torn_lines_and_other_json(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    assert read_lines(path) == []
    append_line(path, {"samples": 1})
    append(path, b"[2]\n\xff\n" + b'{"samples": 3')
    append_line(path, {"samples": 4})
    assert read_lines(path) == [{"samples": 1}, {"samples": 4}]


def test_read_json_is_none_for_anything_but_an_object(tmp_path: Path) -> None:
    path = tmp_path / "document.json"
    assert read_json(path) is None
    for data, document in ((b"[]", None), (b"{", None), (b"\xff", None), (b'{"a": 1}', {"a": 1})):
        path.write_bytes(data)
        assert read_json(path) == document


def test_failed_write_names_the_path_of_the_caller(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "absent" / "a.png"):
        with pytest.raises(OSError, match=r"a directory|No such file") as caught:
            write(path, b"")
        assert caught.value.filename == str(path)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
