"""English words for whole numbers, and back: "seven" is 7, "twenty one" 21.

value("Twenty-one")     # 21
value("007")            # 7
value("cat")            # None
"""

from functools import cache

_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"),
    *("eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")

MAX_VALUE = 9999
"""Largest number with known words."""


def value(text: str) -> int | None:
    """The number written in digits or in words, in any case; None for any other text."""
    if text.isascii() and text.isdigit():
        return int(text) if len(text) <= 9 else None
    words = " ".join(text.casefold().replace("-", " ").split())
    return _by_words().get(words.replace(" hundred and ", " hundred "))


@cache
def _by_words() -> dict[str, int]:
    return {_words(number): number for number in range(MAX_VALUE + 1)}


def _words(number: int) -> str:
    if number < 20:
        return _SMALL[number]
    for size, name in ((1000, " thousand"), (100, " hundred"), (10, "")):
        if number >= size:
            head, rest = divmod(number, size)
            text = _words(head) + name if name else _TENS[head - 2]
            return f"{text} {_words(rest)}" if rest else text
    raise AssertionError(number)
