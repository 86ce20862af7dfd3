"""`aigc data`: report on a data set, how it is read, and the command that trains on it.

aigc data [SOURCE] PATH [--quick] [--json] [--picture FILE]
"""

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from aigc import data, own_code
from aigc.artifact import image_files
from aigc.config import DataConfig, require
from aigc.data.guess import guess
from aigc.data.once import once
from aigc.data_report.report import MOST, inspect
from aigc.files import expanded, write

USAGE = "aigc data [SOURCE] PATH"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Report on a data set: contents, what cannot be used, and the command that trains on it."""

    where: tyro.conf.Positional[tuple[str, ...]]
    """[SOURCE] PATH: the folder, file or URI of the data, after the source that reads it unless it
    is to be guessed; SOURCE alone if it reads no files."""
    config: Annotated[DataConfig, tyro.conf.arg(name="")] = field(
        default_factory=lambda: DataConfig(source="")
    )
    shape: tuple[int, ...] = ()
    """Shape of a model's samples, such as 3 64 64; by default one that suits the data."""
    quick: bool = False
    """Read only the headers of a thousand rows of each split, and compare no rows."""
    most: int = MOST
    """Largest number of rows of a split, evenly spread, that are decoded and compared."""
    json: bool = False
    """Print the report as JSON."""
    picture: str = ""
    """PNG to write: rows of each class as training will see them."""

    def __post_init__(self) -> None:
        require(self.most > 0, f"most must be > 0, got {self.most}")
        require(
            len(self.shape) < 4 and all(size > 0 for size in self.shape),
            "shape must be (C, H, W), (1, samples) or (features,) with sizes > 0,"
            f" got {self.shape}",
        )


def command(argv: list[str]) -> int:
    """Show what a data set holds, what is wrong with it, and how to train on it."""
    # Errors of sources name the flags of `aigc train`; they work here as well.
    argv = [
        word.replace("--data.", "--", 1).replace("--model.shape", "--shape", 1) for word in argv
    ]
    options = tyro.cli(Options, args=argv, prog="aigc data", description=Options.__doc__)
    with once():
        return _inspect(options)


def _inspect(options: Options) -> int:
    config, guessed = named(options.where, options.config)
    inspected = inspect(
        config, guessed=guessed, shape=options.shape, quick=options.quick, most=options.most
    )
    if options.json:
        print(json.dumps(inspected.report.to_json(), indent=1))
    else:
        from aigc.data_report.table import table

        print(table(inspected.report))
    if options.picture:
        from aigc.data_report.picture import draw_rows

        write(Path(options.picture), image_files.png(draw_rows(inspected)))
        print(f"wrote {options.picture}", file=sys.stderr)
    return 0


def named(where: tuple[str, ...], config: DataConfig) -> tuple[DataConfig, str]:
    """Config of a data set from [SOURCE] PATH, and the reason for a guessed source, else "".

    Raises ValueError if nothing is named, or if the words are ambiguous.
    """
    source, path = config.source, config.path
    if len(where) > 2 or (len(where) == 2 and (source or path)):
        raise ValueError(f"one source and one path are read, got {' '.join(where)!r}; {USAGE}")
    if len(where) == 2:
        source, path = where
    elif where:
        (word,) = where
        known = word in data.names() and not source and not path
        if known and (word in data.PATHLESS or word == "digits3"):
            if Path(word).exists():
                raise ValueError(
                    f"{word!r} is a source that reads no files, and something here is called so;"
                    f" say `aigc data ./{word}` for that, or `aigc data --source {word}`"
                )
            source = word
        elif word.endswith(".py") or (word in own_code.names(own_code.DATA) and not known):
            source = word
        elif known and not Path(word).exists():
            raise ValueError(f"source {word} needs the path of the data; aigc data {word} PATH")
        elif path:
            source = source or word
        else:
            path = word
    if source:
        return replace(config, source=source, path=expanded(path).removeprefix("file://")), ""
    path = expanded(path).removeprefix("file://")
    if not path:
        raise ValueError(f"name the folder, file or URI of the data; {USAGE}")
    guessed = guess(path)
    return replace(config, source=guessed.source, path=path), guessed.because
