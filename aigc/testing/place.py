"""The line of code that something happened at: of the code under test, not of what runs it."""

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

_FOLDERS = (Path(torch.__file__).parent, Path(__file__).parent)
"""Folders of code that only carries out what the code under test says."""


@dataclass(frozen=True)
class Place:
    """A line of a function."""

    file: str
    """Name of the file, without folders."""
    line: int
    function: str
    code: str = ""
    """The line itself, as far as it is known."""

    def __str__(self) -> str:
        code = f": `{self.code[:80]}`" if self.code else ""
        return f"{self.file}:{self.line} in {self.function}{code}"


UNKNOWN = Place("?", 0, "?")


def caller() -> Place:
    """Innermost line that is running now, torch's and this package's apart."""
    return _innermost(traceback.extract_stack(), None)


def place_of(error: BaseException, file: str | None) -> Place:
    """Line that raised: the innermost one in `file`, else the innermost of the code under test."""
    return _innermost(traceback.extract_tb(error.__traceback__), file)


def _innermost(frames: Sequence[traceback.FrameSummary], file: str | None) -> Place:
    own = [frame for frame in frames if frame.filename == file]
    for frame in reversed(own or frames):
        if own or not any(folder in Path(frame.filename).parents for folder in _FOLDERS):
            name = Path(frame.filename).name
            return Place(name, frame.lineno or 0, frame.name, (frame.line or "").strip())
    return UNKNOWN
