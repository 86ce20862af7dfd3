"""The command that trains on a data set: a preset, and the flags that fit it to the data."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from aigc import models
from aigc.config import DataConfig, ModelConfig, TrainConfig
from aigc.data import PATHLESS


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Properties of data that a model has to fit."""

    shapes: dict[str, tuple[int, ...]]
    """Shapes of a row by modality: one, or image, text and audio."""
    num_classes: int
    num_tokens: int = 0
    """Size of the vocabulary of texts."""


PRESETS = {
    "image": ("dcgan:digits", "dcgan:pictures64", "fc_gan:mlp"),
    "audio": ("spectrogram_gan:spoken_digits",),
    "text": ("text_vae:numbers",),
    "vector": ("fc_gan:ring",),
    "paired": ("multimodal_vae:digits3",),
}
"""Presets to start from, by modality, the best first."""


def preset_of(data: DataConfig) -> TrainConfig | None:
    """Preset made for a source that reads no files; None for other sources."""
    if data.path or data.source not in (*PATHLESS, "digits3"):
        return None
    first = [reference for some in PRESETS.values() for reference in some]
    rest = [f"{name}:{preset}" for name in models.names() for preset in models.load(name).PRESETS]
    runs = map(models.preset, (*first, *rest))
    return next((run for run in runs if run.data.source == data.source), None)


def suggested(data: DataConfig, wanted: Wanted) -> TrainConfig | None:
    """A run whose model fits the data; None if no model does."""
    modality = next(iter(wanted.shapes)) if len(wanted.shapes) == 1 else "paired"
    for reference in sorted(PRESETS.get(modality, ()), key=lambda name: _too_small(name, wanted)):
        preset = models.preset(reference)
        fit = dict(changes(preset.model, wanted))
        try:
            return replace(preset, model=replace(preset.model, **fit), data=data)
        except ValueError:
            continue
    return None


def _too_small(reference: str, wanted: Wanted) -> bool:
    """True for a preset whose networks have too few layers for the data."""
    model = models.preset(reference).model
    return bool(model.sizes_for(wanted.shapes.get("image", ())))


def changes(model: ModelConfig, wanted: Wanted) -> Iterator[tuple[str, Any]]:
    """Fields of a model's config and the values that they need."""
    first = wanted.shapes.get("image") or next(iter(wanted.shapes.values()))
    known = {field.name for field in fields(model)}
    yield "shape", first
    # A model of several modalities is conditioned on the others, not on labels.
    yield "num_classes", wanted.num_classes if len(wanted.shapes) == 1 else 0
    if "auxiliary" in known and not wanted.num_classes:
        yield "auxiliary", 0.0
    if "vocabulary" in known:
        yield "vocabulary", wanted.num_tokens
    if len(wanted.shapes) > 1:
        yield "tokens", wanted.shapes["text"][0]
        yield "samples", wanted.shapes["audio"][1]


def train_command(run: TrainConfig) -> str:
    """The shell command for a run: its preset, and flags for what differs from it, quoted."""
    preset = models.preset(run.preset)
    words = ["aigc", "train", run.preset]
    words += flags("model", preset.model, run.model)
    words += flags("data", preset.data, run.data)
    words += flags("", replace(preset, model=run.model, data=run.data), run)
    return shlex.join(words)


def flags(prefix: str, old: Any, new: Any) -> Iterator[str]:
    """Words of the command line for the fields of a dataclass that differ."""
    for field in fields(new):
        value = getattr(new, field.name)
        if value == getattr(old, field.name):
            continue
        name = f"--{f'{prefix}.' if prefix else ''}{field.name}".replace("_", "-")
        if isinstance(value, bool):
            yield name if value else f"--{f'{prefix}.' if prefix else ''}no-{field.name}"
        elif isinstance(value, (tuple, list)):
            yield from (name, *map(str, value))
        else:
            yield from (f"{name}={value}",) if str(value).startswith("-") else (name, str(value))
