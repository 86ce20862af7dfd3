"""Integers written as 12.0 or 1e1, which JSON Schema allows.

    whole(12.0)                                 # 12
    decode(b'{"n": 12.0}', SampleRequest)       # the strict decoder refuses it

Used only after the strict decoder has refused a body, so that others cost nothing. From 2^53 on a
float does not denote a single integer: it stays a float, and is refused.
"""

import re
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

T = TypeVar("T")

EXACT = float(1 << 53)
"""Below it every integral float denotes a single integer."""


def whole(value: Any) -> Any:
    """An integral float as an int; any other value, lists included, as it is."""
    if type(value) is float and value.is_integer() and -EXACT < value < EXACT:
        return int(value)
    return value


def is_float_for_integer(error: Exception) -> bool:
    """True for the error of a decoder that expects an integer and gets a float."""
    return "`int" in str(error) and str(error).partition(" - at ")[0].endswith("got `float`")


def decode(body: bytes | memoryview, kind: type[T]) -> T:
    """JSON -> a value of a type. Raises msgspec.DecodeError or RecursionError."""
    return msgspec.convert(_with_whole(msgspec.json.decode(body), _type_info(kind)), kind)


def decode_form(fields: dict[str, Any], kind: type[T]) -> T:
    """decode() for a form, whose numbers are texts. Raises msgspec.ValidationError."""
    return msgspec.convert(_with_whole(fields, _type_info(kind), _number), kind)


def _number(text: Any) -> Any:
    """A numeric text as a number, an int if possible; any other value as it is."""
    if isinstance(text, str) and _NUMBER.fullmatch(text):
        return whole(msgspec.json.decode(text))
    return text


_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,99})(?:\.[0-9]{1,99})?(?:[eE][+-]?[0-9]{1,2})?")


_type_info: Callable[[Any], inspect.Type] = cache(inspect.type_info)


Number = Callable[[Any], Any]


def _with_whole(value: Any, kind: inspect.Type, number: Number = whole) -> Any:
    """The value, `number` applied wherever its type has an integer and no float."""
    if isinstance(kind, inspect.Metadata):
        return _with_whole(value, kind.type, number)
    if isinstance(kind, inspect.IntType):
        return number(value)
    if isinstance(kind, inspect.RawType):
        return msgspec.Raw(msgspec.json.encode(value))
    if isinstance(kind, inspect.UnionType):
        if not any(isinstance(one, inspect.FloatType) for one in kind.types):
            for one in kind.types:
                value = _with_whole(value, one, number)
    elif isinstance(kind, inspect.StructType) and isinstance(value, dict):
        types = {field.encode_name: field.type for field in kind.fields}
        return {
            name: _with_whole(one, types[name], number) if name in types else one
            for name, one in value.items()
        }
    elif isinstance(kind, inspect.TupleType) and isinstance(value, list):
        if len(value) == len(kind.item_types):
            pairs = zip(value, kind.item_types, strict=True)
            return [_with_whole(one, of, number) for one, of in pairs]
    elif isinstance(kind, inspect.CollectionType) and isinstance(value, list):
        return [_with_whole(one, kind.item_type, number) for one in value]
    return value
