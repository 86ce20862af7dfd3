"""Scalars of YAML: unquoted ones, whose type depends on their form, and tagged ones."""

import math
import re
from typing import Any

_BOOLS = {"true": True, "false": False}
_OLD_BOOLS = {"yes": True, "on": True, "no": False, "off": False}
_NULLS = ("", "~", "null", "Null", "NULL")
_INT = re.compile(r"[-+]?[0-9]+")
_PREFIXED = re.compile(r"[-+]?0(?:b[01_]+|o[0-7_]+|x[0-9a-fA-F_]+)")
_OLD_OCTAL = re.compile(r"[-+]?0[0-7_]+")
_UNDERSCORES = re.compile(r"[-+]?[0-9][0-9_]*")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9]+(?::[0-5]?[0-9])+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_TAGGED = {"int": int, "float": int | float, "bool": bool, "null": type(None)}
_SPECIAL = {
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **{
        f"{sign}{word}": number
        for word in (".inf", ".Inf", ".INF")
        for sign, number in (("", math.inf), ("+", math.inf), ("-", -math.inf))
    },
}


def parse_plain(text: str) -> Any:
    """Value of an unquoted scalar as kubectl reads it: YAML 1.2 with booleans and octals of 1.1.

    Dates and sexagesimals are text.
    """
    if text in _NULLS:
        return None
    for words in (_BOOLS, _OLD_BOOLS):
        if text.lower() in words and text in (text.lower(), text.title(), text.upper()):
            return words[text.lower()]
    if text in _SPECIAL:
        return _SPECIAL[text]
    if len(text) > 64 or text[0] not in "+-.0123456789":
        return text
    if _OLD_OCTAL.fullmatch(text):
        return int(text.replace("_", ""), 8)
    if _PREFIXED.fullmatch(text):
        return int(text.replace("_", ""), 0)
    if _INT.fullmatch(text) or _UNDERSCORES.fullmatch(text):
        return int(text.replace("_", ""))
    return float(text) if _FLOAT.fullmatch(text) else text


def parse_tagged(text: str, kind: str) -> Any:
    """Value of a scalar tagged str, int, float, bool or null. Raises ValueError for another tag or
    a value of another type."""
    if kind == "str":
        return text
    value = parse_plain(text)
    if kind not in _TAGGED or not isinstance(value, _TAGGED[kind]):
        raise ValueError
    return value


def other_reading(text: str) -> str:
    """Value that only some readers of YAML give an unquoted scalar; "" where all agree."""
    if text.lower() in _OLD_BOOLS and text in (text.lower(), text.title(), text.upper()):
        return str(_OLD_BOOLS[text.lower()]).lower()
    if len(text) > 64:
        return ""
    if _OLD_OCTAL.fullmatch(text):
        digits = text.replace("_", "")
        return "" if int(digits) == int(digits, 8) else str(int(digits, 8))
    if _SEXAGESIMAL.fullmatch(text):
        return str(_base_60(text))
    if "_" in text and _UNDERSCORES.fullmatch(text):
        return text.replace("_", "")
    return ""


def _base_60(text: str) -> int:
    number = 0
    for digits in text.lstrip("+-").split(":"):
        number = number * 60 + int(digits)
    return -number if text.startswith("-") else number
