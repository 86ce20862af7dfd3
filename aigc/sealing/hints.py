"""Facts about a foreign model's tensors that its graph does not tell: what the caller says of them.

Hints.of_flags({"kind": ["z=latent"], "range": ["-1..1"], "classes": ["y=names.txt"]})
Hints.of_facts({"kind": {"z": "latent"}, "range": (-1, 1), "classes": {"y": 10}})
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

from aigc.artifact.axes import Axis
from aigc.artifact.sound_chunks import MAX_RATE_HZ
from aigc.suggest import alternatives

ImportedKind = Literal["latent", "uniform", "label", "image", "audio", "vector", "setting"]
Layout = Literal["chw", "hwc"]
MAX_CLASS_FILE_BYTES = 1 << 24

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Hints:
    """Facts by name of a tensor; the name "" stands for every tensor that the fact can be of."""

    kind: Mapping[str, ImportedKind] = field(default_factory=dict)
    range: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Values from black to white of an image, of full scale of a sound, or least and most."""
    classes: Mapping[str, int | tuple[str, ...]] = field(default_factory=dict)
    """Number of classes of a label, or their names in order."""
    sample_rate_hz: Mapping[str, int] = field(default_factory=dict)
    layout: Mapping[str, Layout] = field(default_factory=dict)
    """Order of an image's axes."""
    shape: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Shape of one sample, for axes whose size the graph leaves open."""
    default: Mapping[str, float] = field(default_factory=dict)
    """Value of a setting that is not given."""
    rename: Mapping[str, str] = field(default_factory=dict)
    axis: Mapping[str, Axis] = field(default_factory=dict)
    """Free axes by the name that the graph gives to an open size."""

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> "Hints":
        """From values for all tensors, or dicts by name; texts are read as flags are.

        Raises ValueError naming the fact, TypeError for an unknown one.
        """
        if unknown := sorted(set(facts) - set(_READERS)):
            raise TypeError(f"unknown fact {unknown[0]!r}{alternatives(unknown[0], _READERS)}")
        fields: dict[str, Any] = {}
        for fact, value in facts.items():
            read, wanted = _READERS[fact]
            each = value if isinstance(value, Mapping) else {"": value}
            name = "sample_rate_hz" if fact == "sample_rate" else fact
            fields[name] = {key: _read(fact, one, read, wanted) for key, one in each.items()}
        return cls(**fields)

    def of(self, fact: str, name: str, original: str = "") -> Any:
        """A fact about a tensor, by its name, its original name, or for all; None if unsaid."""
        said: Mapping[str, Any] = getattr(self, fact)
        return next((said[key] for key in (name, original, "") if key in said), None)

    def named(self, fact: str, name: str, original: str) -> Any:
        """A fact that was said of this tensor by name; None if unsaid."""
        said: Mapping[str, Any] = getattr(self, fact)
        return said.get(name, said.get(original))

    def check_names(self, known: Iterable[str]) -> None:
        """Raise ValueError if a hint names a tensor that there is not."""
        names = sorted({*known, *self.rename.values()})
        for fact in self.__dataclass_fields__.keys() - {"axis"}:
            for name in getattr(self, fact):
                if name and name not in names:
                    flag = fact.replace("_hz", "").replace("_", "-")
                    raise ValueError(
                        f"{flag} of {name!r}: there is no input or output {name!r}"
                        f"{alternatives(name, names)}"
                    )


def _read(fact: str, value: Any, read: Callable[[Any], T], wanted: str) -> T:
    try:
        return read(value)
    except (ValueError, TypeError, OSError) as error:
        detail = f": {error}" if isinstance(error, _Detail | OSError) else ""
        flag = fact.replace("_", "-")
        raise ValueError(f"{flag} must be {wanted}, got {str(value)[:100]!r}{detail}") from None


class _Detail(ValueError):
    """An error whose message adds to what is wanted."""


def _kind(value: str) -> ImportedKind:
    if value not in get_args(ImportedKind):
        raise ValueError
    return cast(ImportedKind, value)


def _layout(value: str) -> Layout:
    if value not in get_args(Layout):
        raise ValueError
    return cast(Layout, value)


def _range(value: Any) -> tuple[float, float]:
    low, high = value.split("..") if isinstance(value, str) else value
    span = float(low), float(high)
    if not -math.inf < span[0] < span[1] < math.inf:
        raise ValueError
    return span


def _shape(value: Any) -> tuple[int, ...]:
    sizes = value.replace(",", "x").split("x") if isinstance(value, str) else value
    shape = tuple(int(size) for size in sizes)
    if any(size < 1 for size in shape):
        raise ValueError
    return shape


def _axis(value: Any) -> Axis:
    """An Axis, or MIN..MAX, MIN..MAX:MULTIPLE, MIN..MAX:MULTIPLE:DEFAULT."""
    if isinstance(value, Axis):
        return value
    span, *more = value.split(":")
    low, high = map(int, span.split(".."))
    multiple, default = (int(more[0]) if more else 1), (int(more[1]) if more[1:] else low)
    if len(more) > 2:
        raise ValueError
    return Axis(min=low, max=high, multiple=multiple, default=default)


def _rate(value: Any) -> int:
    rate = int(value)
    if not 1 <= rate <= MAX_RATE_HZ:
        raise _Detail(f"rates are 1 to {MAX_RATE_HZ} Hz")
    return rate


def _classes(value: Any) -> int | tuple[str, ...]:
    """A number, names, or a file of them; names are not empty and come once."""
    if isinstance(value, int) or (isinstance(value, str) and value.isdigit()):
        if int(value) < 1:
            raise ValueError
        return int(value)
    names = tuple(value) if not isinstance(value, str | Path) else _lines(Path(value))
    if not names or not all(isinstance(name, str) and name for name in names):
        raise _Detail("it names no class")
    if len(set(names)) < len(names):
        raise _Detail("it names a class twice")
    return names


def _lines(path: Path) -> tuple[str, ...]:
    if path.stat().st_size > MAX_CLASS_FILE_BYTES:
        raise _Detail(f"it is larger than {MAX_CLASS_FILE_BYTES} bytes")
    lines = (line.strip() for line in path.read_text("utf-8").splitlines())
    return tuple(line for line in lines if line)


_READERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "kind": (_kind, "one of latent, uniform, label, image, audio, vector and setting"),
    "range": (_range, "LOW..HIGH such as -1..1 or 0..255"),
    "classes": (_classes, "a number of classes, or a file with a name in each line"),
    "sample_rate": (_rate, "a rate in Hz such as 22050"),
    "layout": (_layout, "chw or hwc"),
    "shape": (_shape, "sizes such as 3x64x64"),
    "default": (float, "a number"),
    "axis": (_axis, "NAME=MIN..MAX, MIN..MAX:MULTIPLE or MIN..MAX:MULTIPLE:DEFAULT"),
    "rename": (str, "a name"),
}
"""By fact: how a value is read, and a description of it."""
