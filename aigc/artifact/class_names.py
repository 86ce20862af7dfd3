"""Classes by name or by number.

    class_index("cat", ("dog", "cat"), 2)        # 1; so are "CAT" and "1"

A text that is the name of one class and the number of another is refused: `name:1` is the class
that is called 1, `index:1` the class whose number is 1. A class that is itself called so wins.
"""

from collections.abc import Sequence
from functools import lru_cache

from aigc.suggest import did_you_mean

MAX_NAMED = 20
"""Most classes listed in a message."""
MAX_SHOWN = 60
"""Characters of a text in a message."""


def class_index(text: str, classes: Sequence[str], num_classes: int) -> int:
    """The class that a text names: exactly, else in any case, else by its number in digits.

    Raises ValueError with the nearest names for a text that names none, and with both readings for
    one that may mean two.
    """
    if exact := _tables(tuple(classes))[0].get(text):
        number = _number(text, num_classes)
        others = {*exact, *([] if number is None else [number])}
        if len(others) == 1:
            return exact[0]
        raise ValueError(_ambiguous(text, sorted(others), classes))
    kind, colon, rest = text.partition(":")
    if colon and kind == "name":
        return _by_name(rest, classes)
    if colon and kind == "index":
        number = _number(rest, num_classes)
        if number is None:
            raise ValueError(f"label must be in [0, {num_classes}), got {text[:MAX_SHOWN]!r}")
        return number
    number = _number(text, num_classes)
    if number is not None:
        return number
    if text.isascii() and text.isdigit():
        raise ValueError(f"label must be in [0, {num_classes}), got {text[:MAX_SHOWN]}")
    return _by_name(text, classes)


def _number(text: str, num_classes: int) -> int | None:
    """The class of a number in ASCII digits; None for other texts, and beyond the classes."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        return None
    return int(text) if int(text) < num_classes else None


def _by_name(text: str, classes: Sequence[str]) -> int:
    """The class of that name, exactly or in any case. Raises ValueError."""
    equal = named(text, classes)
    if len(equal) == 1:
        return equal[0]
    if equal:
        raise ValueError(_ambiguous(text, equal, classes))
    if not classes:
        shown = text[:MAX_SHOWN]
        raise ValueError(f"label must be a number, as the classes have no names, got {shown!r}")
    raise ValueError(f"label must be a class by name or number, {got(text, classes)}")


def named(text: str, classes: Sequence[str]) -> tuple[int, ...]:
    """The classes that are called so: exactly, or if there is none, in any case."""
    exact, folded = _tables(tuple(classes))
    return exact.get(text) or folded.get(text.casefold(), ())


def got(text: str, classes: Sequence[str]) -> str:
    """End of a message about a text that names no class: the nearest names, and the first ones."""
    shown = text[:MAX_SHOWN]
    hint = did_you_mean(shown, classes, most=3, ignore_case=True) or ";"
    more = f" and {len(classes) - MAX_NAMED} more" if len(classes) > MAX_NAMED else ""
    names = ", ".join(name[:MAX_SHOWN] for name in classes[:MAX_NAMED])
    return f"got {shown!r}{hint} there are {names}{more}"


_Table = dict[str, tuple[int, ...]]


@lru_cache(maxsize=256)
def _tables(classes: tuple[str, ...]) -> tuple[_Table, _Table]:
    """Classes by their names as they are, and without case."""
    exact: _Table = {}
    folded: _Table = {}
    for i, name in enumerate(classes):
        exact[name] = (*exact.get(name, ()), i)
        folded[name.casefold()] = (*folded.get(name.casefold(), ()), i)
    return exact, folded


def _ambiguous(text: str, candidates: Sequence[int], classes: Sequence[str]) -> str:
    ways = " or ".join(f"index:{i} ({classes[i][:MAX_SHOWN]!r})" for i in candidates[:MAX_NAMED])
    return f"label {text[:MAX_SHOWN]!r} may mean several classes; say {ways}"
