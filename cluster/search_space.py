"""Fields of a config that `aigc tune` searches over, and random points in them.

space = [Dimension.parse("batch=32,64,128", config),
         Dimension.parse("model.latent=int:8..64", config),
         Dimension.parse("model.generator_optimizer.learning_rate=log:1e-5..1e-2", config)]
points(space, 16, seed=0)    # [{}, {"batch": 64, ...}, ...]: the first one changes nothing
"""

import json
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from aigc import recipe
from aigc.config import TrainConfig, require
from aigc.suggest import alternatives

OWN = {
    "samples": "--samples is the budget of a trial",
    "preset": "a search is over one preset",
    "evaluate_interval": "the search itself says when quality is measured",
    "quality": "trials must be measured alike; --quality sets it for all of them",
    **dict.fromkeys(("until", "patience"), "the search ends trials itself"),
    "threads": "--threads sets it for all trials",
    **dict.fromkeys(
        ("grid_interval", "keep_checkpoints"), "trials make no grids and keep one checkpoint"
    ),
    **dict.fromkeys(
        ("data", "model.shape", "model.num_classes"), "trials must be measured on the same data"
    ),
}
"""Fields that are not searched over, with the reason."""
ATTEMPTS = 100
"""Draws per trial after which a space counts as used up."""
FORMS = "log:1e-5..1e-2, int:8..64, 0.1..0.9, or values such as 32,64,128"

_RANGE = re.compile(r"(?:(log|int|logint):)?([^,]+?)\.\.([^,]+)")


@dataclass(frozen=True)
class Dimension:
    """A field and the values that it may take: `values`, or a range from `low` to `high`."""

    field: str
    """Path of the field, by dots."""
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    logarithmic: bool = False
    integer: bool = False

    @classmethod
    def parse(cls, text: str, config: TrainConfig) -> "Dimension":
        """FIELD=log:A..B, FIELD=int:A..B, FIELD=A..B or FIELD=A,B,C.

        Raises ValueError for an unknown field, and for values that the config refuses.
        """
        name, equals, values = text.partition("=")
        name, values = name.strip().replace("-", "_"), values.strip()
        require(bool(equals and values), f"--over must be FIELD={FORMS}; got {text!r}")
        old = _value(config, name)
        reason = OWN.get("data" if name.startswith("data.") else name)
        require(reason is None, f"--over {name}: it cannot be searched over; {reason}")
        found = _RANGE.fullmatch(values)
        dimension = (
            cls._of_range(name, values, found, old)
            if found
            else cls(name, tuple(_parsed(value, old) for value in values.split(",")))
        )
        require(
            len(set(map(repr, dimension.values))) == len(dimension.values),
            f"--over {text}: a value stands twice",
        )
        for value in dimension.values or (dimension.low, dimension.high):
            try:
                changed(config, {name: int(value) if dimension.integer else value})
            except ValueError as error:
                raise ValueError(f"--over {text}: {error}") from None
        return dimension

    @classmethod
    def _of_range(cls, name: str, values: str, found: re.Match[str], old: Any) -> "Dimension":
        try:
            low, high = float(found[2]), float(found[3])
        except ValueError:
            raise ValueError(
                f"--over {name}={values}: a range goes from a number to a number, as {FORMS}"
            ) from None
        require(
            math.isfinite(low) and math.isfinite(high) and low < high,
            f"--over {name}={values}: a range goes from a lower to a higher number",
        )
        kind = found[1] or ""
        logarithmic = kind.startswith("log")
        integer = kind.endswith("int") or (isinstance(old, int) and not isinstance(old, bool))
        require(not logarithmic or low > 0, f"--over {name}={values}: a log range begins above 0")
        require(
            not integer or (low.is_integer() and high.is_integer()),
            f"--over {name}={values}: {name} takes whole numbers",
        )
        return cls(name, (), low, high, logarithmic, integer)

    def draw(self, generator: random.Random) -> Any:
        """A random value."""
        if self.values:
            return generator.choice(self.values)
        if self.logarithmic:
            value = math.exp(generator.uniform(math.log(self.low), math.log(self.high)))
        elif self.integer:
            return generator.randint(int(self.low), int(self.high))
        else:
            value = generator.uniform(self.low, self.high)
        value = min(max(value, self.low), self.high)
        return round(value) if self.integer else float(f"{value:.3g}")


def points(space: Sequence[Dimension], count: int, seed: int) -> list[dict[str, Any]]:
    """Up to `count` different points; the first is {}, the config as it is. Fewer if the space has
    no more."""
    generator = random.Random(seed)
    found: list[dict[str, Any]] = [{}]
    known: set[str] = set()
    for _ in range(ATTEMPTS * count):
        if len(found) >= count:
            break
        point = {dimension.field: dimension.draw(generator) for dimension in space}
        if repr(point) not in known:
            known.add(repr(point))
            found.append(point)
    return found


def changed(config: TrainConfig, point: Mapping[str, Any]) -> TrainConfig:
    """The config at a point. Raises ValueError."""
    changes: dict[str, Any] = {}
    for name, value in point.items():
        *path, last = name.split(".")
        place = changes
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return recipe.changed(config, changes)


def settled(config: TrainConfig, point: Mapping[str, Any]) -> dict[str, Any]:
    """A point as a search keeps it: references of its model are pinned to what they lead to."""
    at = changed(config, point)
    at = replace(at, model=at.model.settled())
    return {
        name: _value(at, name) if name.startswith("model.") and isinstance(value, str) else value
        for name, value in point.items()
    }


def without_effect(config: TrainConfig, over: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Warnings about fields of the model that do nothing at any of the points that set them."""
    reasons: dict[str, list[str]] = {}
    for point in over:
        found = changed(config, point).model.without_effect()
        for name in point:
            reasons.setdefault(name, []).append(found.get(name.removeprefix("model."), ""))
    for name, why in reasons.items():
        if name.startswith("model.") and all(why):
            yield f"--over {name} has no effect: {' or '.join(dict.fromkeys(why))}"


def _value(config: TrainConfig, name: str) -> Any:
    """Value of a field. Raises ValueError, with a hint, for a name that is none."""
    value: Any = config
    for part in name.split("."):
        known = [field.name for field in fields(value)] if is_dataclass(value) else []
        if part not in known:
            raise ValueError(
                f"--over {name}: there is no such field{alternatives(name, _names(config))}"
                if _close(name, config)
                else f"--over {name}: there is no such field; `aigc train {config.preset} --help`"
                " lists them"
            )
        value = getattr(value, part)
    require(not is_dataclass(value), f"--over {name}: it has fields of its own; name one of them")
    return value


def _names(config: Any, prefix: str = "") -> Iterator[str]:
    for field in fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        yield from _names(value, f"{name}.") if is_dataclass(value) else (name,)


def _close(name: str, config: TrainConfig) -> bool:
    return "did you mean" in alternatives(name, _names(config))


def _parsed(text: str, old: Any) -> Any:
    """A value: of a field with several, its parts are separated by spaces."""
    text = text.strip()
    if isinstance(old, tuple):
        return [_parsed(part, "") for part in text.split()]
    with suppress(ValueError):
        return json.loads(text)
    return text
