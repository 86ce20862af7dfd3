"""One file per model: its Config, its Model and its PRESETS. The folder is the registry."""

import difflib
import pkgutil
from collections.abc import Callable
from importlib import import_module
from typing import Protocol, cast

from aigc.config import ModelConfig, TrainConfig
from aigc.model import GenerativeModel


class ModelFile(Protocol):
    """What a file in this folder defines."""

    Config: type[ModelConfig]
    Model: Callable[[ModelConfig], GenerativeModel]
    PRESETS: dict[str, Callable[[], TrainConfig]]
    """Complete runs by name, the default one first."""


def names() -> list[str]:
    """Every model there is."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> ModelFile:
    """The file of a model. Raises ValueError with the nearest name if there is none."""
    if name not in names():
        raise ValueError(f"unknown model {name!r}; {_suggest(name, names())}")
    return cast(ModelFile, import_module(f"{__name__}.{name}"))


def preset(reference: str) -> TrainConfig:
    """`model:preset` -> its run; `model` alone means its first preset."""
    name, _, chosen = reference.partition(":")
    presets = load(name).PRESETS
    chosen = chosen or next(iter(presets))
    if chosen not in presets:
        raise ValueError(
            f"model {name!r} has no preset {chosen!r}; {_suggest(chosen, list(presets))}"
        )
    return presets[chosen]()


def build(config: TrainConfig) -> GenerativeModel:
    """The model of a run, freshly initialised from torch's global generator."""
    return load(config.model_name).Model(config.model)


def _suggest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, 1)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
