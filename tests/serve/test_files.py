"""Files that cannot be read are named, whichever command meets them."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aigc.commands import sample, verify
from aigc.files import read_text


def test_a_text_is_read_as_utf8(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes("sieben, sept, семь\n".encode())
    assert read_text(path) == "sieben, sept, семь\n"


@pytest.mark.parametrize("data", [b"a\nb\xe9", b"\x89PNG\r\n\x1a\n", b"\xff\xfea\0"])
def test_a_file_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "text"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(f"{path} is no text in UTF-8: line ")):
        read_text(path)


@pytest.mark.parametrize("data", [b"", b"\0" * 50, b"caf\xe9", b"fLaC", b"RIFF\0\0\0\0WAVE"])
def test_files_that_are_no_pictures_or_sounds_are_named(
    tmp_path: Path, translator: str, data: bytes
) -> None:
    path = tmp_path / "given.png"
    path.write_bytes(data)
    flags = ["--signature", "translate", "--out", str(tmp_path / "out"), "--seed", "0"]
    commands: list[Callable[[], Any]] = [
        lambda: verify.command([str(path)]),
        lambda: sample.command([translator, *flags, "--inputs", "image", str(path)]),
        lambda: sample.command([translator, *flags, "--inputs", "audio", str(path)]),
    ]
    for command in commands:
        with pytest.raises(ValueError, match=re.escape(str(path))) as refused:
            command()
        assert "object at" not in str(refused.value)
        assert "\n" not in str(refused.value)
