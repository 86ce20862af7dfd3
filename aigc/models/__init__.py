"""One file per model: its Config, its Model and its PRESETS. The folder is the registry.

Users have models of their own in files and packages, see aigc/own_code.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol, cast

from aigc import own_code
from aigc.config import ModelConfig, TrainConfig
from aigc.files import expanded
from aigc.model import GenerativeModel
from aigc.suggest import alternatives


class ModelFile(Protocol):
    """Members of a file in this folder."""

    Config: type[ModelConfig]
    Model: Callable[[ModelConfig], GenerativeModel]
    PRESETS: dict[str, Callable[[], TrainConfig]]
    """Complete runs by name, the default one first."""


def names() -> list[str]:
    """Names of all models in this folder."""
    return own_code.MODELS.built_in()


def load(reference: str) -> ModelFile:
    """The file of a model: by its name here, or any other reference of aigc/own_code.

    Raises ValueError with the nearest name if there is none, or with what the file lacks.
    """
    return cast(ModelFile, own_code.find(own_code.MODELS, reference).load())


def preset(reference: str) -> TrainConfig:
    """`model:preset` -> its run; `model` alone means its first preset.

    Of a model of a user's, the run's preset and data source have the names that a config keeps.
    """
    name, preset_name = own_code.split(reference)
    place = own_code.find(own_code.MODELS, name)
    presets = cast(ModelFile, place.load()).PRESETS
    preset_name = preset_name or next(iter(presets))
    if preset_name not in presets:
        raise ValueError(
            f"model {name!r} has no preset {preset_name!r}{alternatives(preset_name, presets)}"
        )
    config = presets[preset_name]()
    if place.built_in:
        return config
    if not isinstance(config, TrainConfig):
        raise ValueError(
            f"preset {preset_name!r} of {place.origin} must return an aigc.config.TrainConfig, got"
            f" {type(config).__name__}"
        )
    folder = Path(expanded(name)).parent if own_code.is_path(name) else Path()
    return own_code.settled(replace(config, preset=f"{place.name}:{preset_name}"), folder)


def run_name(config: TrainConfig) -> str:
    """Default name of a run: MODEL-PRESET, of what such a name may be made of."""
    model, preset = own_code.split(config.preset)
    name = f"{model.partition('@')[0]}-{preset}".lower()
    return re.sub(r"[^a-z0-9._-]", "_", name).lstrip("._-")[:64]


def build(config: TrainConfig) -> GenerativeModel:
    """The model of a run, freshly initialised from torch's global generator."""
    return load(config.model_name).Model(config.model)
