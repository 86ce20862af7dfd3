"""Hints in messages about an unknown name.

f"unknown model {name!r}{alternatives(name, names())}"  # ...; did you mean 'dcgan'?
"""

import difflib
from collections.abc import Iterable
from itertools import islice

MAX_NAMES = 10_000
"""Known names that are compared."""
MAX_LENGTH = 100
"""Characters of the unknown name that are compared."""


def did_you_mean(
    name: object,
    known: Iterable[str],
    *,
    most: int = 1,
    cutoff: float = 0.6,
    ignore_case: bool = False,
) -> str:
    """ "; did you mean 'x'?" with up to `most` known names; "" if none is close.

    `cutoff` is the least similarity, in [0, 1]; see difflib.get_close_matches.
    """
    names = islice(known, MAX_NAMES)
    by_key = {each.casefold() if ignore_case else each: each for each in names}
    key = str(name).casefold() if ignore_case else str(name)
    close = difflib.get_close_matches(key[:MAX_LENGTH], by_key, most, cutoff)
    return f"; did you mean {' or '.join(repr(by_key[each]) for each in close)}?" if close else ""


def alternatives(name: object, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?", or "; there are: a, b" if no known name is close."""
    names = list(known)
    return did_you_mean(name, names) or f"; there are: {', '.join(names)}"
