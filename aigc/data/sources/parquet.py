"""Parquet shards in a folder or an object store (`s3://...`, with s3fs).

A picture column holds encoded pictures as bytes, or as a struct with `bytes`, as Hugging Face
writes it; of several it is the one called image, or that `data.column` names. A label column is of
Hugging Face's type ClassLabel or called label, and holds numbers, names, truth values, decimals,
dates or categories. Splits by the names of files or folders: `train-*.parquet` and
`test-*.parquet` or `val*`; else about a tenth of the rows of every file is the test split.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from aigc.config import DataConfig
from aigc.data import CorruptRow, Split
from aigc.data.cache import cached
from aigc.data.columns import (
    column_of,
    from_json,
    labels_among,
    other_labels,
    picture_among,
    to_json,
)
from aigc.data.content import File, OutOfReach, fetch, opened
from aigc.data.files import listing
from aigc.data.labels import Column
from aigc.data.shards import OPEN_SHARDS, Shard, ShardedPictures, choose, covered
from aigc.data.splits import of_files
from aigc.data.survey import first_of


@dataclass(frozen=True, kw_only=True)
class Parquet(ShardedPictures):
    """A shard is a file; an open one has its pictures in memory, encoded."""

    image: str

    def record(self, shard: Shard, row: int) -> tuple[bytes, str]:
        """See ShardedPictures.record."""
        where = f"row {row} of {shard.file.uri}"
        try:
            table = _table(shard.file, self.image)
        except OutOfReach:
            raise
        except Exception as error:  # whatever Arrow makes of a damaged page
            raise CorruptRow(f"{where} cannot be read: {error}") from error
        picture = table[self.image][row].as_py()
        if isinstance(picture, dict):
            picture = picture["bytes"]
        if picture is None:
            raise CorruptRow(f"{where} has no picture")
        return picture, where


def load(
    config: DataConfig, shape: tuple[int, ...], split: Split, *, conditional: bool = True
) -> Parquet:
    """The shards below `config.path`. sha256 covers names, sizes and footers, not pixels."""
    found = listing(config.path, (".parquet",), "parquet").readable(config.on_error)
    splits = of_files(found.names)
    files = [file for index, file in enumerate(found.files) if splits.used(index)]
    with ThreadPoolExecutor(16) as pool:
        footers = dict(zip(files, pool.map(_footer, files), strict=True))
    noted = [f"{file.uri}: {footers[file]['note']}" for file in files if footers[file]["note"]]
    image, as_before, label, declared = _columns(files, footers, config.column, conditional)
    chosen = choose(
        found,
        splits,
        {file: footers[file]["rows"] for file in files},
        _labels(files, label) if label else {},
        split,
        conditional=conditional,
        declared=declared,
        notes=(*other_labels(label, footers[files[0]]["columns"]), *noted[:1]),
    )
    content = covered([(file, footers[file]["sha256"]) for file in chosen.files])
    return Parquet(
        name=PurePosixPath(config.path.rstrip("/")).stem,
        shape=shape,
        sha256=content if as_before else f"{content}/{image}",
        labels=chosen.labels,
        survey=chosen.survey,
        shards=chosen.shards,
        image=image,
    )


def _footer(file: File) -> dict[str, Any]:
    """Row count, a hash, and the columns: names, those of pictures, and those of classes."""
    return dict(cached("footer2", file.facts(), lambda: _read_footer(file)))


def _read_footer(file: File) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with opened(file) as content:
            metadata = pq.read_metadata(content)
            schema = metadata.schema.to_arrow_schema()
    except Exception as error:
        raise ValueError(f"{file.uri} is no whole parquet file: {error}") from error
    text = json.dumps(metadata.to_dict(), sort_keys=True, default=str)
    features, note = _features((schema.metadata or {}).get(b"huggingface", b"{}"))
    return {
        "rows": metadata.num_rows,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "columns": schema.names,
        "pictures": [
            field.name
            for field in schema
            if pa.types.is_binary(field.type)
            or pa.types.is_large_binary(field.type)
            or (pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
        ],
        "classes": {
            name: feature.get("names") or []
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        },
        "note": note,
    }


def _features(text: bytes) -> tuple[dict[str, Any], str]:
    """The features of Hugging Face's metadata, and a note where these have another form."""
    try:
        document = json.loads(text)
        features = document.get("info", {}).get("features", {})
        if isinstance(features, dict):
            return features, ""
    except (ValueError, AttributeError):
        pass
    return {}, "metadata of Hugging Face are not used: they have no info with features"


def _columns(
    files: Sequence[File], footers: Mapping[File, dict[str, Any]], wanted: str, conditional: bool
) -> tuple[str, bool, str | None, tuple[str, ...]]:
    """The picture column, whether it is that of a run of before, the label column, and the classes
    if the schema names them. Raises ValueError for files that lack a column that others have."""
    first, footer = files[0], footers[files[0]]
    if not footer["pictures"]:
        raise ValueError(
            f"{first.uri} has no column of pictures (bytes, or a struct with bytes), it has:"
            f" {', '.join(footer['columns'])}"
        )
    image, as_before = picture_among(footer["pictures"], wanted, first.uri)
    typed = footer["classes"]
    candidates = [name for name in footer["columns"] if name != image]
    label = labels_among(
        [name for name in typed if name in candidates], candidates, first.uri, conditional
    )
    if not conditional and any(label not in footers[file]["columns"] for file in files):
        label = None
    for file in files:
        for name in (image, label):
            if name is not None and name not in footers[file]["columns"]:
                raise ValueError(
                    f"{file.uri} has no column {name!r} as {first.name} has, it has:"
                    f" {first_of(footers[file]['columns'], 8)}; take the file away, or write it as"
                    " the others"
                )
    return image, as_before, label, tuple(typed.get(label, ()))


def _labels(files: Sequence[File], label: str) -> dict[File, Column]:
    """The label column of each file."""
    with ThreadPoolExecutor(8) as pool:
        columns = pool.map(lambda file: _label_column(file, label), files)
        return dict(zip(files, columns, strict=True))


def _label_column(file: File, label: str) -> Column:
    def read() -> dict[str, Any]:
        import pyarrow.parquet as pq

        try:
            with opened(file) as content:
                values = pq.read_table(content, columns=[label])[label]
        except Exception as error:  # whatever Arrow makes of a damaged page
            raise ValueError(f"column {label} of {file.uri} cannot be read: {error}") from error
        return to_json(column_of(values, label))

    return from_json(cached("labels", [label, *file.facts()], read))


@lru_cache(maxsize=OPEN_SHARDS)
def _table(file: File, image: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pq.read_table(pa.BufferReader(fetch(file)), columns=[image], use_threads=False)
