"""One file per model: its Config, its Model and its PRESETS. The folder is the registry."""

import pkgutil
from collections.abc import Callable
from importlib import import_module
from typing import Protocol, cast

from aigc.config import ModelConfig, TrainConfig
from aigc.model import GenerativeModel
from aigc.suggest import alternatives


class ModelFile(Protocol):
    """Members of a file in this folder."""

    Config: type[ModelConfig]
    Model: Callable[[ModelConfig], GenerativeModel]
    PRESETS: dict[str, Callable[[], TrainConfig]]
    """Complete runs by name, the default one first."""


def names() -> list[str]:
    """Names of all models."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> ModelFile:
    """The file of a model. Raises ValueError with the nearest name if there is none."""
    if name not in names():
        raise ValueError(f"unknown model {name!r}{alternatives(name, names())}")
    return cast(ModelFile, import_module(f"{__name__}.{name}"))


def preset(reference: str) -> TrainConfig:
    """`model:preset` -> its run; `model` alone means its first preset."""
    name, _, preset_name = reference.partition(":")
    presets = load(name).PRESETS
    preset_name = preset_name or next(iter(presets))
    if preset_name not in presets:
        raise ValueError(
            f"model {name!r} has no preset {preset_name!r}{alternatives(preset_name, presets)}"
        )
    return presets[preset_name]()


def build(config: TrainConfig) -> GenerativeModel:
    """The model of a run, freshly initialised from torch's global generator."""
    return load(config.model_name).Model(config.model)
