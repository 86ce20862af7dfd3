"""A model's config fitted to data other than its preset's: what the data tell need not be said.

    config, derived = fitted(config, before=preset.data, given={"model.latent"})

The shape of pictures, sounds and vectors, the layers that a larger picture needs, the number of
classes, the vocabulary, the source that reads the files and a sample rate below the preset's follow
from the data, unless they are given.
"""

import shlex
from collections import Counter
from collections.abc import Collection
from dataclasses import fields, replace
from typing import Any

from aigc import data
from aigc.config import DataConfig, ModelConfig, TrainConfig, require
from aigc.data.examined import Examined, examine, spread
from aigc.data.guess import guess
from aigc.data.once import once
from aigc.data.opened import open_splits, suited
from aigc.data_report import suggestion
from aigc.files import expanded

ROWS = 1000
"""Rows whose headers are read."""
_MODEL = (
    *("shape", "num_classes", "auxiliary", "vocabulary", "tokens", "samples"),
    *("widths", "generator_widths", "generator_strides", "discriminator_widths"),
)
"""Fields of models that data can tell."""


def fitted(
    config: TrainConfig, before: DataConfig, given: Collection[str]
) -> tuple[TrainConfig, list[str]]:
    """A config whose model fits its data, and the flags that would have said the same.

    before: the data that the model is made for. given: fields, flattened by dots, that are not
    changed. Raises ValueError as a source does, and where the model draws something else.
    """
    if not _is_other(config.data, before):
        return config, []
    with once():
        return _fitted(config, given)


def fitted_as(
    config: TrainConfig, run: TrainConfig, before: DataConfig, given: Collection[str]
) -> TrainConfig:
    """A config with what was derived when a run was begun, without looking at the data again."""
    if not _is_other(config.data, before):
        return config
    own = {name: getattr(run.data, name) for name in ("source", "sample_rate_hz")}
    model = {name: getattr(run.model, name) for name in _MODEL if hasattr(run.model, name)}
    return replace(
        config,
        data=_with(config.data, "data", own, given),
        model=_with(config.model, "model", model, given),
    )


def _is_other(config: DataConfig, before: DataConfig) -> bool:
    return (config.source, config.path) != (before.source, before.path)


def _with(config: Any, prefix: str, values: dict[str, Any], given: Collection[str]) -> Any:
    """A dataclass with other values in those of its fields that are not given."""
    known = {field.name for field in fields(config)}
    changes = {k: v for k, v in values.items() if k in known and f"{prefix}.{k}" not in given}
    return replace(config, **changes)


def _fitted(config: TrainConfig, given: Collection[str]) -> tuple[TrainConfig, list[str]]:
    read = config.data
    if read.source not in data.names():  # code of a user's gives what it gives
        return config, []
    pathless = read.path and read.source in data.PATHLESS
    require(
        not pathless or "data.source" not in given,
        f"--data.path {read.path} has no effect: data source {read.source} reads no files; say what"
        " reads it, such as --data.source folder, or leave one out",
    )
    if pathless:
        path = expanded(read.path).removeprefix("file://")
        read = replace(read, source=guess(path).source, path=path)
    if not read.path and read.source not in data.PATHLESS:
        return replace(config, data=read), []  # it says itself what it lacks
    wants = {"model.shape", "model.num_classes", "model.vocabulary"} & {
        f"model.{field.name}" for field in fields(config.model)
    }
    if wants <= set(given):
        derived = replace(read, path=config.data.path)
        return replace(config, data=read), [*suggestion.flags("data", config.data, derived)]
    opened = open_splits(read, (), hashed=False)
    train = opened.sources["train"]
    looked = examine(train, spread(len(train), ROWS), "headers", whole=False)
    read = _with(read, "data", {"sample_rate_hz": _rate(looked, read)}, given)
    shapes = suited(read, train, looked, ())
    _check_modality(config, read, shapes)
    wanted = suggestion.Wanted(
        shapes=shapes,
        num_classes=len(train.classes) if opened.conditional and config.model.num_classes else 0,
        num_tokens=len(getattr(train, "vocabulary", ())),
    )
    wanting = dict(suggestion.changes(config.model, wanted))
    sizes = config.model.sizes_for(wanting["shape"])
    if not {f"model.{name}" for name in sizes} & set(given):  # some alone would not fit the rest
        wanting |= sizes
    model: ModelConfig = _with(config.model, "model", wanting, given)
    derived = replace(read, path=config.data.path)
    return replace(config, data=read, model=model), [
        *suggestion.flags("data", config.data, derived),
        *suggestion.flags("model", config.model, model),
    ]


def _rate(looked: Examined, read: DataConfig) -> int:
    """The commonest rate of recordings where it is below the preset's, which resampling would not
    add anything to."""
    rates: Counter[int] = Counter()
    for (rate, _), count in looked.sounds.items():
        rates[rate] += count
    commonest = max(rates, key=lambda rate: rates[rate], default=read.sample_rate_hz)
    return max(1000, min(commonest, read.sample_rate_hz))


def _check_modality(
    config: TrainConfig, read: DataConfig, shapes: dict[str, tuple[int, ...]]
) -> None:
    there = next(iter(shapes)) if len(shapes) == 1 else "paired"
    if there == config.model.modality:
        return
    fits = suggestion.PRESETS.get(there, ())
    where = read.path or read.source
    require(
        False,
        f"{config.preset} draws {config.model.modality}, and {where!r} holds {there}; take"
        f" {' or '.join(fits) or 'other data'} (`aigc data {shlex.quote(where)}` shows them)",
    )
