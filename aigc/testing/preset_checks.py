"""Checks of a preset: its config, the model that it builds, the phases, and its data."""

import json
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any
from unittest import SkipTest

from torch import Tensor

from aigc import data, models
from aigc.config import TrainConfig
from aigc.model import GenerativeModel
from aigc.testing.contract import Note
from aigc.testing.model_under_test import ROWS, ModelUnderTest, losses, model_batch


def builds(subject: ModelUnderTest) -> Iterator[str]:
    """The preset names itself and builds a model."""
    if subject.config.preset != subject.name:
        yield (
            f"the preset calls itself {subject.config.preset}; give its TrainConfig the preset"
            f" {subject.name}"
        )
    model = subject.model
    if not isinstance(model, GenerativeModel):
        yield f"Model makes a {type(model).__name__}; inherit aigc.model.GenerativeModel"
    if getattr(model, "config", None) != subject.config.model:
        yield "the model does not keep its config; set self.config to what __init__ is given"
    if not re.fullmatch("[a-z][a-z0-9_-]*", str(getattr(model, "family", ""))):
        yield 'the class names no family; set family = "gan", "vae" or another word in lower case'
    known = {field.name for field in fields(subject.config.model)}
    for name in subject.config.model.without_effect().keys() - known:
        yield f"without_effect() names {name!r}, which is no field of the Config"


def config_survives_json(subject: ModelUnderTest) -> Iterator[str]:
    """The config is the same after it was written as JSON and read."""
    document = json.loads(json.dumps(subject.config.to_json()))
    again = TrainConfig.from_json(document, models.load(subject.config.model_name).Config)
    for path, before, after in _differences("", subject.config, again):
        yield (
            f"{path} is {before!r} in the preset and {after!r} after JSON, which a run's"
            " config.json is; use fields of numbers, texts, tuples and dataclasses, as declared"
        )


def _differences(path: str, a: Any, b: Any) -> Iterator[tuple[str, Any, Any]]:
    if is_dataclass(a) and type(a) is type(b):
        for field in fields(a):
            where = f"{path}.{field.name}" if path else field.name
            yield from _differences(where, getattr(a, field.name), getattr(b, field.name))
    elif a != b or type(a) is not type(b):
        yield path, a, b


def phases(subject: ModelUnderTest) -> Iterator[str]:
    """Phases have names of their own, and each parameter is of exactly one of them."""
    found, model = subject.phases, subject.model
    names = [phase.name for phase in found]
    if not found:
        yield "phases() is empty; give a Phase for every optimizer step of a batch"
    if len(set(names)) < len(names):
        yield f"the names of the phases are not unique: {names}; checkpoints know phases by name"
    for phase in found:
        if phase.every < 1:
            yield f"phase {phase.name!r} is due every {phase.every} batches; every must be >= 1"
        if "/" in phase.name or not phase.name:
            yield f"phase {phase.name!r} needs a name without slashes: metrics are PHASE/NAME"
    owners: dict[int, list[str]] = {}
    for phase in found:
        for parameter in phase.module.parameters():
            owners.setdefault(id(parameter), []).append(phase.name)
    for name, parameter in model.named_parameters():
        own = owners.pop(id(parameter), [])
        if not own:
            yield (
                f"no phase owns the parameter {name}, so nothing trains it; take its module into a"
                " phase, or register it as a buffer"
            )
        elif len(own) > 1:
            yield f"the phases {' and '.join(own)} own the same parameter, {name}; only one may"
    if owners:
        yield "a phase has parameters that are not in the model; assign the module to self"
    if [p.name for p in model.phases()] != names:
        yield "phases() gives other phases when it is called again"


def trains_on_its_data(subject: ModelUnderTest) -> Iterator[str]:
    """The preset's data has the model's shape and classes, and losses on its rows are finite."""
    config = subject.config
    path, source = config.data.path, config.data.source
    if not path and source in data.names() and source not in data.PATHLESS:
        raise SkipTest(f"data {source} needs a path: --data.path PATH")
    if path and "://" not in path and not Path(path).expanduser().exists():
        raise SkipTest(f"the preset's data are not here: {path}")
    try:
        opened = data.load(config.data, config.model)
    except ImportError as error:
        raise SkipTest(f"data {source} needs {error.name}, which is not installed") from error
    except (ValueError, OSError) as error:
        yield f"data {source} does not load for this model: {error}"
        return
    samples, labels = data.gather(opened, range(min(ROWS, len(opened))), "stop")
    batch = model_batch(config, samples, labels, subject.model)
    for found in losses(subject.copied(), batch, subject.due[0]):
        if isinstance(found.loss, Tensor) and not found.loss.isfinite().all():
            yield f"the loss of phase {found.phase!r} on rows of data {source} is {found.loss}"
    yield Note(f"data {opened.name}: {len(opened)} rows")
