"""Columns of tables: which holds the pictures, and which the labels."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from aigc.data.labels import LABELS, NO_LABEL, Column
from aigc.data.survey import first_of

PICTURES = ("image", "img")
"""Names of a picture column among several, in the order of their preference."""


def picture_among(
    candidates: Sequence[str], wanted: str, where: str, flag: str = "--data.column"
) -> tuple[str, bool]:
    """The column that is wanted, or called image, or the only one; and whether a run of before,
    which took the first of several, read the same one.

    Raises ValueError for a column that is not among the candidates, and for several.
    """
    before = next((name for name in PICTURES if name in candidates), candidates[0])
    if wanted:
        if wanted not in candidates:
            raise ValueError(
                f"{where} has no pictures in {wanted!r}; set {flag} to one of:"
                f" {', '.join(candidates)}"
            )
        return wanted, wanted == before
    named = next((name for name in PICTURES if name in candidates), None)
    if named is None and len(candidates) > 1:
        raise ValueError(
            f"{where} has pictures in {' and in '.join(candidates)}; set {flag} {candidates[0]},"
            " or another of them"
        )
    return named or candidates[0], True


def labels_among(
    typed: Sequence[str], names: Sequence[str], where: str, conditional: bool
) -> str | None:
    """The column of classes by its type or name; None without one.

    Raises ValueError, where `conditional`, for several of which none has a name that tells.
    """
    if len(typed) == 1:
        return typed[0]
    by_name = next((name for name in LABELS if name in (typed or names)), None)
    if by_name is None and typed:
        if conditional:
            raise ValueError(
                f"{where} has several columns of classes ({first_of(typed, 5)}), of which none is"
                " called label; rename one to label, or set --model.num-classes 0"
            )
        return typed[0]
    return by_name


def other_labels(label: str | None, names: Sequence[str]) -> tuple[str, ...]:
    """A note on columns that could have been the labels, too."""
    others = [name for name in LABELS if name in names and name != label]
    told = f"labels are column {label!r}, and nothing is read of {first_of(others)}"
    return (told,) if label and others else ()


def column_of(values: Any, name: str) -> Column:
    """Labels of a column of Arrow's (a ChunkedArray): numbers, names, truth values, decimals, dates
    or categories of these."""
    import pyarrow as pa

    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    if pa.types.is_nested(kind):
        return Column(
            values=(),
            codes=np.full(len(values), NO_LABEL, np.int64),
            unusable=f"column {name!r} holds {kind}, of which none is a class",
        )
    values = values.cast(kind).combine_chunks()
    if not len(values) or pa.types.is_null(kind):
        return Column(values=(), codes=np.full(len(values), NO_LABEL, np.int64))
    encoded = values.dictionary_encode()
    codes = encoded.indices.cast(pa.int64()).fill_null(NO_LABEL).to_numpy(zero_copy_only=False)
    return Column(values=tuple(map(_simple, encoded.dictionary.to_pylist())), codes=codes)


def _simple(value: Any) -> Any:
    """Numbers, truth values and decimals as they are; all else as text."""
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return value if value is None or isinstance(value, (int, float, Decimal)) else str(value)


def to_json(column: Column) -> dict[str, Any]:
    """The value that the cache stores."""
    values = [{"decimal": str(v)} if isinstance(v, Decimal) else v for v in column.values]
    return {"values": values, "codes": column.codes.tolist(), "unusable": column.unusable}


def from_json(document: dict[str, Any]) -> Column:
    """The inverse of to_json."""
    return Column(
        values=tuple(
            Decimal(v["decimal"]) if isinstance(v, dict) else v for v in document["values"]
        ),
        codes=np.array(document["codes"], np.int64),
        unusable=document["unusable"],
    )
