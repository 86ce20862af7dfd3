"""Lines of text: a file, or a folder of .txt files, of which the sub-folders are the classes.

Files or folders of splits are known by their names: `train.txt`, `wiki.valid.txt`, `test/a.txt`;
without them a tenth of the lines, by a fixed draw, is the test.
"""

from pathlib import PurePosixPath

import numpy as np

from aigc.artifact.latents import integers
from aigc.artifact.preprocessing import TEXT
from aigc.artifact.vocabulary import cleaned
from aigc.config import DataConfig
from aigc.data import Dataset, NoRows, Split, stopping
from aigc.data.content import text_of
from aigc.data.files import left_out, listing
from aigc.data.labels import Column, classified
from aigc.data.lines import byte_pairs, characters, tokenized
from aigc.data.splits import TEST, TRAIN, UNUSED, of_files, rows_of
from aigc.data.survey import Survey

TEST_SHARE = 10
"""One line in TEST_SHARE is held out."""


def load(
    config: DataConfig, shape: tuple[int, ...], split: Split, *, conditional: bool = True
) -> Dataset:
    """Distinct lines of a split that are not blank, in order.

    The vocabulary is that of the training and test lines: characters, or `data.byte_pairs` pieces.
    A line that two classes have is of the first. Raises ValueError for files without lines or not
    in UTF-8, and for a class of another split that training lacks.
    """
    listed = listing(config.path, (".txt",), "text")
    splits = of_files(listed.names, exact_folders=True)
    folder_by_line: dict[tuple[int | None, str], str] = {}
    unreadable: list[str] = []
    for index, file in enumerate(listed.files):
        if not splits.used(index):
            continue
        folder = PurePosixPath(splits.rests[index]).parent
        try:
            text = text_of(file)
        except ValueError as error:
            if config.on_error == "stop":
                raise stopping(str(error)) from error
            unreadable.append(file.name)
            continue
        for line in text.splitlines():
            if line := cleaned(line, TEXT):
                key = splits.code(index), line
                folder_by_line.setdefault(key, folder.as_posix() if folder.name else "")
    if len(folder_by_line) < 2:
        raise ValueError(
            f"{config.path} holds {len(folder_by_line)} distinct lines; two are needed"
        )
    folders = list(folder_by_line.values())
    if any(folders) and "" in folders:
        raise ValueError(f"{config.path} has lines in sub-folders and beside them: no classes")
    if splits.named:
        codes = np.array([code for code, _ in folder_by_line], np.int8)
    else:
        order = np.argsort(integers(0, "text", [0], len(folder_by_line))[0], kind="stable")
        codes = np.full(len(folder_by_line), TRAIN, np.int8)
        codes[order[: max(1, len(folder_by_line) // TEST_SHARE)]] = TEST
    classes = classified(
        Column.of(folders) if any(folders) else None,
        codes,
        splits,
        where=config.path,
        conditional=conditional,
    )
    lines = [line for _, line in folder_by_line]
    kept = [line for line, code in zip(lines, classes.codes, strict=True) if code != UNUSED]
    size = config.byte_pairs
    vocabulary = byte_pairs(kept, size) if size else characters(kept)
    chosen = rows_of(classes.codes, split)
    if not len(chosen):
        raise NoRows(f"{config.path} has no line in its {split} split; add more lines")
    labels = classes.labels.taken(chosen)
    # The longest of all decides whether they fit, so that both splits do or neither.
    tokens = tokenized(kept, vocabulary, shape, "text")
    places = np.cumsum(classes.codes != UNUSED) - 1
    gone = (left_out("files that cannot be read", unreadable),) if unreadable else ()
    return Dataset(
        name=PurePosixPath(config.path).stem or "text",
        samples=tokens[places[chosen]],
        labels=labels.indices,
        classes=labels.classes,
        vocabulary=vocabulary.pieces,
        known=Survey(
            splits=splits.counts(classes.codes),
            labels=labels.surveyed(),
            left_out=(*listed.left_out, *splits.beside(listed.names), *gone),
            notes=(*listed.notes, *splits.notes, *classes.notes),
        ),
    )
