"""Classes by name or by number.

    class_index("cat", ("dog", "cat"), 2)        # 1; so are "CAT" and "1"

A text that is the name of one class and the number of another is refused: `name:1` is the class
that is called 1, `index:1` the class whose number is 1. A class that is itself called so wins.
"""

from collections.abc import Sequence

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
    if text in classes:
        named = [i for i, name in enumerate(classes) if name == text]
        number = _number(text, num_classes)
        others = {*named, *([] if number is None else [number])}
        if len(others) == 1:
            return named[0]
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
    for equal in (
        [i for i, name in enumerate(classes) if name == text],
        [i for i, name in enumerate(classes) if name.casefold() == text.casefold()],
    ):
        if len(equal) == 1:
            return equal[0]
        if equal:
            raise ValueError(_ambiguous(text, equal, classes))
    shown = text[:MAX_SHOWN]
    if not classes:
        raise ValueError(f"label must be a number, as the classes have no names, got {shown!r}")
    hint = did_you_mean(shown, classes, most=3, ignore_case=True) or ";"
    more = f" and {len(classes) - MAX_NAMED} more" if len(classes) > MAX_NAMED else ""
    raise ValueError(
        f"label must be a class by name or number, got {shown!r}{hint} there are"
        f" {', '.join(name[:MAX_SHOWN] for name in classes[:MAX_NAMED])}{more}"
    )


def _ambiguous(text: str, candidates: Sequence[int], classes: Sequence[str]) -> str:
    ways = " or ".join(f"index:{i} ({classes[i][:MAX_SHOWN]!r})" for i in candidates[:MAX_NAMED])
    return f"label {text[:MAX_SHOWN]!r} may mean several classes; say {ways}"
