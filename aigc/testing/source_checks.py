"""Checks of a data source: rows as a model takes them, an order, and splits that stay apart."""

import json
import pickle
from collections.abc import Iterator
from typing import Any
from unittest import SkipTest

import numpy as np
from numpy.typing import NDArray

from aigc import data
from aigc.data import Source
from aigc.testing.contract import Note
from aigc.testing.source_under_test import SourceUnderTest

DTYPES = {
    "image": ("float32", "uint8"),
    "audio": ("float32",),
    "vector": ("float32",),
    "text": ("int64",),
}
"""dtypes of a row by modality."""
SHOWN = 3
"""Faults of one kind that are named; the others are counted."""

SHARED = 0.01
"""Share of the rows to test that may be among those to train on: real data have some twice."""


def opens(subject: SourceUnderTest) -> Iterator[str]:
    """Both splits load for the model, and have rows."""
    try:
        subject.splits.items()
    except (ValueError, OSError) as error:  # which says in a sentence what to do
        yield str(error)
        return
    for split, source in subject.splits.items():
        if len(source) == 0:
            yield f"split {split} has no rows"
        if not isinstance(source.name, str) or not source.name:
            yield f"split {split} has the name {source.name!r}; give a text"
        classes = source.classes
        if not isinstance(classes, tuple) or not all(isinstance(name, str) for name in classes):
            yield f"classes of split {split} are {classes!r}; give a tuple of texts"
        elif len(set(classes)) < len(classes):
            yield f"two classes of split {split} have one name: {classes}"
    first, second = (source.classes for source in subject.splits.values())
    if first != second:
        yield f"the splits have different classes: {first} and {second}"


def rows_fit(subject: SourceUnderTest) -> Iterator[str]:
    """Rows have the shape, the dtype and the range that a model takes."""
    for split, rows in subject.rows.items():
        for modality, shape, values in rows.parts(subject.model):
            faults = []
            for number, value in zip(rows.numbers.tolist(), values, strict=True):
                fault = _row_fault(modality, shape, value)
                if fault:
                    faults.append(f"row {number} of split {split}: its {modality} {fault}")
            yield from faults[:SHOWN]
            if len(faults) > SHOWN:
                yield f"{len(faults) - SHOWN:,} more rows of split {split} do not fit either"
            if not faults and modality in ("image", "audio"):
                yield from _range_faults(split, modality, values)


def _row_fault(modality: str, shape: tuple[int, ...], value: NDArray[Any]) -> str:
    allowed = DTYPES[modality]
    if value.dtype.name not in allowed:
        return f"has the dtype {value.dtype}, not {' or '.join(allowed)}"
    if value.shape != shape:
        return f"has the shape {value.shape}, the model wants {shape}"
    if not np.isfinite(value).all():
        return "holds values that are not finite"
    if modality in ("image", "audio") and value.dtype == np.float32 and abs(value).max() > 1:
        return f"has values in [{value.min():.4g}, {value.max():.4g}]; scale them to [-1, 1]"
    return ""


def _range_faults(split: str, modality: str, values: list[NDArray[Any]]) -> Iterator[str]:
    scaled = data.scaled(np.stack(values))
    low, high = float(scaled.min()), float(scaled.max())
    if modality == "image" and low >= 0:
        yield (
            f"pictures of split {split} lie in [{low:.3g}, {high:.3g}], so black is grey; scale"
            " them to [-1, 1], such as 2 * x - 1"
        )
    elif max(-low, high) < 0.5:
        yield Note(f"{modality} of split {split} uses no more than [{low:.3g}, {high:.3g}]")


def labels_fit(subject: SourceUnderTest) -> Iterator[str]:
    """Labels are class indices, and every class has a row to train on."""
    for split, rows in subject.rows.items():
        count = len(subject.splits[split].classes) or 1
        for number, label in zip(rows.numbers.tolist(), rows.labels, strict=True):
            if not isinstance(label, int | np.integer) or not 0 <= label < count:
                yield (
                    f"row {number} of split {split} has the label {label!r}; it must be a whole"
                    f" number in [0, {count})"
                )
                break
        missing = sorted(set(range(count)) - set(rows.labels))
        if missing and rows.all:
            text = f"no row of split {split} has the label {missing[0]}"
            yield text if split == "train" else Note(text)
        survey = getattr(subject.splits[split], "survey", None)
        known = getattr(survey, "labels", None)
        if known is not None and rows.all and list(known) != rows.labels:
            yield f"the survey of split {split} has other labels than its rows"


def texts_end(subject: SourceUnderTest) -> Iterator[str]:
    """Texts are tokens of the vocabulary, and zeros from their end on."""
    size = subject.model.num_tokens
    if not size:
        raise SkipTest("the model takes no texts")
    for split, rows in subject.rows.items():
        vocabulary = getattr(subject.splits[split], "vocabulary", ())
        if len(vocabulary) != size:
            yield f"split {split} has a vocabulary of {len(vocabulary)}, the model wants {size}"
        for modality, _, values in rows.parts(subject.model):
            if modality != "text":
                continue
            tokens = np.stack(values)
            if tokens.min() < 0 or tokens.max() >= size:
                yield (
                    f"tokens of split {split} are in [{tokens.min()}, {tokens.max()}]; the"
                    f" vocabulary allows [0, {size})"
                )
            if (tokens[:, -1] != 0).any():
                row = int(rows.numbers[(tokens[:, -1] != 0).argmax()])
                yield f"the text of row {row} of split {split} has no end; leave room for a 0"
            if (tokens != 0)[:, 1:][(tokens == 0)[:, :-1]].any():
                yield f"a text of split {split} goes on after its end, 0"


def order_is_a_permutation(subject: SourceUnderTest) -> Iterator[str]:
    """Every epoch has every row once, in an order that seed and epoch alone decide."""
    for split, source in subject.splits.items():
        order = np.asarray(source.order(3, 1))
        if order.dtype != np.int64 or sorted(order) != list(range(len(source))):
            yield (
                f"order(3, 1) of split {split} is no permutation of its {len(source):,} rows as"
                " int64; take aigc.data.permutation(seed, epoch, len(self))"
            )
            continue
        for other in (source, subject.again[split]):
            if not np.array_equal(order, other.order(3, 1)):
                yield f"order(3, 1) of split {split} is another one when it is asked for again"
        if len(source) > SHOWN and np.array_equal(order, source.order(3, 2)):
            yield f"two epochs of split {split} have one order; use seed and epoch"


def reads_again(subject: SourceUnderTest) -> Iterator[str]:
    """A row is the same when it is read again, by a source opened anew or sent to a process."""
    for split, source in subject.splits.items():
        rows = subject.rows[split]
        others: dict[str, Source] = {
            "is read again": source,
            "is read from a source opened anew": subject.again[split],
        }
        try:
            others["is read in a loader process"] = pickle.loads(pickle.dumps(source))
        except Exception as error:
            yield (
                f"split {split} cannot be sent to the processes that read it ({error}); keep no"
                " open files, locks or lambdas in a source"
            )
        for when, other in others.items():
            for at in range(0, len(rows.numbers), max(1, len(rows.numbers) // SHOWN)):
                sample, label = other.read(int(rows.numbers[at]))
                same = np.asarray(sample).tobytes() == rows.samples[at].tobytes()
                if not same or label != rows.labels[at]:
                    yield f"row {rows.numbers[at]} of split {split} is another one when it {when}"
                    break


def fingerprints(subject: SourceUnderTest) -> Iterator[str]:
    """A fingerprint names the data: the same for the same rows, another for the other split."""
    prints = {split: source.fingerprint() for split, source in subject.splits.items()}
    for split, found in prints.items():
        missing = [key for key in ("name", "samples", "classes", "sha256") if key not in found]
        if missing:
            yield f"the fingerprint of split {split} has no {missing[0]!r}"
        if json.loads(json.dumps(found)) != found:
            yield f"the fingerprint of split {split} is not the same after JSON"
        if subject.again[split].fingerprint() != found:
            yield (
                f"the fingerprint of split {split} is another one when it is opened again; a run"
                " could not be resumed"
            )
    if prints["train"].get("sha256") == prints["test"].get("sha256"):
        yield "the splits have one fingerprint; hash what their rows hold"


def splits_apart(subject: SourceUnderTest) -> Iterator[str]:
    """No row of the test split is one to train on."""
    train, test = (
        {
            sample.tobytes(): number
            for sample, number in zip(rows.samples, rows.numbers, strict=True)
        }
        for rows in subject.rows.values()
    )
    shared = train.keys() & test.keys()
    if not shared:
        return
    one = min(shared, key=test.__getitem__)
    text = (
        f"row {test[one]} of split test is row {train[one]} of split train, as are"
        f" {len(shared):,} of {len(test):,} rows: metrics would praise a model for its memory"
    )
    yield text if len(shared) > len(test) * SHARED else Note(text)
