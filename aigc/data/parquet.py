"""Parquet shards in a folder or an object store (`s3://...`, with s3fs).

A picture column holds encoded pictures as bytes, or as a struct with `bytes`, as Hugging Face
writes it; a label column is called label or of Hugging Face's type ClassLabel, and holds numbers or
names. Splits by the names of files: `train-*.parquet` and `test-*.parquet` or `val*`, or folders
called so; else about a tenth of the rows of every file is the test split.
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import fsspec
import numpy as np

from aigc.config import DataConfig
from aigc.data import CorruptRow, Split
from aigc.data._files import File, cached, fetch, listing
from aigc.data._pictures import MAX_CLASSES, classes_of
from aigc.data._shards import OPEN_SHARDS, Shard, ShardedPictures, covered, of_split, pick
from aigc.data.hf import LABELS


@dataclass(frozen=True, kw_only=True)
class Parquet(ShardedPictures):
    """A shard is a file; an open one has its two columns in memory, pictures encoded."""

    image: str
    label: str | None

    def record(self, shard: Shard, row: int) -> tuple[bytes, Any, str]:
        """See ShardedPictures.record."""
        where = f"row {row} of {shard.file.uri}"
        try:
            table = _table(shard.file, self.image, self.label)
        except Exception as error:  # whatever Arrow makes of a damaged page
            raise CorruptRow(f"{where} cannot be read: {error}") from error
        picture = table[self.image][row].as_py()
        if isinstance(picture, dict):
            picture = picture["bytes"]
        if picture is None:
            raise CorruptRow(f"{where} has no picture")
        return picture, table[self.label][row].as_py() if self.label else None, where


def load(config: DataConfig, shape: tuple[int, ...], split: Split) -> Parquet:
    """The shards below `config.path`. sha256 covers names, sizes and footers, not pixels."""
    files = listing(config.path, (".parquet",), "parquet")
    chosen, named = of_split(files, split)
    with ThreadPoolExecutor(16) as pool:
        footers = dict(zip(files, pool.map(_footer, files), strict=True))
    image, label, names = _columns(chosen[0])
    shards = [
        Shard(file=file, rows=pick(file, footers[file]["rows"], split, named)) for file in chosen
    ]
    return Parquet(
        name=PurePosixPath(config.path.rstrip("/")).stem,
        classes=names or _classes(footers, label),
        shape=shape,
        sha256=covered([(file, footers[file]["sha256"]) for file in chosen]),
        shards=tuple(shard for shard in shards if len(shard.rows)),
        image=image,
        label=label,
    )


def _footer(file: File) -> dict[str, Any]:
    """Row count, a hash, and the largest value that each column's statistics name."""
    return dict(cached("parquet", file.facts(), lambda: _read_footer(file)))


def _read_footer(file: File) -> dict[str, Any]:
    import pyarrow.parquet as pq

    try:
        with fsspec.open(file.uri, "rb") as content:
            metadata = pq.read_metadata(content)
    except Exception as error:
        raise ValueError(f"{file.uri} is no whole parquet file: {error}") from error
    text = json.dumps(metadata.to_dict(), sort_keys=True, default=str)
    highest: dict[str, int] = {}
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            column = metadata.row_group(group).column(number)
            known = column.is_stats_set and column.statistics.has_min_max
            value = column.statistics.max if known else None
            # What is no number, or not known, is taken for too high: the column has to be read.
            value = value if isinstance(value, int) else MAX_CLASSES
            highest[column.path_in_schema] = max(value, highest.get(column.path_in_schema, 0))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"rows": metadata.num_rows, "sha256": digest, "highest": highest}


def _columns(file: File) -> tuple[str, str | None, tuple[str, ...]]:
    """Names of the picture and the label column, and the classes if the schema names them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with fsspec.open(file.uri, "rb") as content:
        schema = pq.read_schema(content)
    document = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = document.get("info", {}).get("features", {})
    images = [
        field.name
        for field in schema
        if pa.types.is_binary(field.type)
        or pa.types.is_large_binary(field.type)
        or (pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
    ]
    if not images:
        raise ValueError(
            f"{file.uri} has no column of pictures (bytes, or a struct with bytes), it has:"
            f" {', '.join(schema.names)}"
        )
    typed = [
        name
        for name, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    ]
    label = next((name for name in (*typed, *LABELS) if name in schema.names), None)
    names = features[label].get("names", ()) if label in typed else ()
    return (
        next((name for name in ("image", "img") if name in images), images[0]),
        label,
        tuple(names),
    )


def _classes(footers: dict[File, dict[str, Any]], label: str | None) -> tuple[str, ...]:
    """From the footers' statistics where they tell, else from the label column alone."""
    if label is None:
        return ()
    highest = [footer["highest"].get(label, -1) for footer in footers.values() if footer["rows"]]
    if all(0 <= value < MAX_CLASSES for value in highest):
        return tuple(str(i) for i in range(max(highest) + 1))
    with ThreadPoolExecutor(8) as pool:
        return classes_of(np.concatenate([*pool.map(lambda file: _labels(file, label), footers)]))


def _labels(file: File, label: str) -> Any:
    import pyarrow.parquet as pq

    with fsspec.open(file.uri, "rb") as content:
        return pq.read_table(content, columns=[label])[label].drop_null().unique().to_numpy()


@lru_cache(maxsize=OPEN_SHARDS)
def _table(file: File, image: str, label: str | None) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [image, *([label] if label else [])]
    return pq.read_table(pa.BufferReader(fetch(file)), columns=columns, use_threads=False)
