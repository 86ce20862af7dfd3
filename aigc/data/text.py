"""Lines of text: a file, or a folder of .txt files, of which the sub-folders are the classes."""

from pathlib import PurePosixPath

import numpy as np

from aigc.artifact.latents import integers
from aigc.config import DataConfig
from aigc.data import Dataset, Split
from aigc.data._files import fetch, listing
from aigc.data._lines import byte_pairs, characters, tokenized

TEST_SHARE = 10
"""One in so many lines is held out."""


def load(config: DataConfig, shape: tuple[int, ...], split: Split) -> Dataset:
    """Distinct lines that are not blank, in order; a tenth of them, by a fixed draw, is the test.

    The vocabulary is that of both splits: characters, or `data.byte_pairs` pieces. A line that two
    classes have is of the first. Raises ValueError for files without lines or not in UTF-8.
    """
    found: dict[str, str] = {}
    for file in listing(config.path, (".txt",), "text"):
        try:
            text = fetch(file).decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{file.name} is not UTF-8 text: {error}") from error
        folder = PurePosixPath(file.name).parent
        for line in text.splitlines():
            if line.strip():
                found.setdefault(line.strip(), folder.as_posix() if folder.name else "")
    lines = list(found)
    if len(lines) < 2:
        raise ValueError(f"{config.path} holds {len(lines)} distinct lines; two are needed")
    names = tuple(sorted({name for name in found.values() if name}))
    if names and "" in found.values():
        raise ValueError(f"{config.path} has lines in sub-folders and beside them: no classes")
    size = config.byte_pairs
    vocabulary = byte_pairs(lines, size) if size else characters(lines)
    order = np.argsort(integers(0, "text", [0], len(lines))[0], kind="stable")
    num_test = max(1, len(lines) // TEST_SHARE)
    chosen = np.sort(order[:num_test] if split == "test" else order[num_test:])
    return Dataset(
        name=PurePosixPath(config.path).stem or "text",
        samples=tokenized(lines, vocabulary, shape, "text")[chosen],
        labels=np.array(
            [names.index(found[lines[row]]) if names else 0 for row in chosen], np.int64
        ),
        classes=names,
        vocabulary=vocabulary.pieces,
    )
