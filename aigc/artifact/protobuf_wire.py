"""Protobuf's wire format, for untrusted bytes, without a schema compiler.

    for number, value in Reader(fields=1000).fields(data, {1: VARINT, 7: BYTES}):
        ...

Stricter than protobuf itself, which skips unknown fields and merges or replaces repeated ones: both
would let two readers see two messages in the same bytes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

VARINT, FIXED64, BYTES, FIXED32 = "number", "eight bytes", "bytes", "four bytes"
NUMBERS, DOUBLES, FLOATS, MANY = "numbers", "doubles", "floats", "many"
"""Kinds of fields: the first four stand at most once; then repeated ones, packed or not, and
repeated bytes."""

_WIRES = {
    VARINT: (0,),
    FIXED64: (1,),
    BYTES: (2,),
    FIXED32: (5,),
    NUMBERS: (0, 2),
    DOUBLES: (1, 2),
    FLOATS: (5, 2),
    MANY: (2,),
}
_ONCE = (VARINT, FIXED64, BYTES, FIXED32)


class WireError(ValueError):
    """The bytes are not a message of these fields."""


@dataclass
class Reader:
    """Reads messages up to a total number of fields, nested ones included."""

    fields_left: int

    def fields(
        self, data: memoryview, kinds: Mapping[int, str]
    ) -> Iterator[tuple[int, int | memoryview]]:
        """(number, value) of every field of one message; values of fixed size are skipped.

        Packed numbers are yielded one by one. Raises WireError for a field that is not in `kinds`,
        has another wire type, occurs more often than allowed, or ends beyond the message.
        """
        at, size, seen = 0, len(data), 0
        while at < size:
            self.fields_left -= 1
            if self.fields_left < 0:
                raise WireError("it has too many parts")
            tag, at = _varint(data, at)
            number, wire = tag >> 3, tag & 7
            kind = kinds.get(number)
            if kind is None or wire not in _WIRES[kind]:
                raise WireError(f"it has a field {number} of wire type {wire}, which is unknown")
            if kind in _ONCE:
                if seen >> number & 1:
                    raise WireError(f"field {number} stands twice")
                seen |= 1 << number
            if wire == 0:
                value, at = _varint(data, at)
                yield number, value
                continue
            length = {1: 8, 5: 4}.get(wire, 0)
            if wire == 2:
                length, at = _varint(data, at)
            if length > size - at:
                raise WireError("it is cut off")
            part = data[at : at + length]
            at += length
            if wire != 2 or kind in (DOUBLES, FLOATS):
                continue
            if kind == NUMBERS:
                for one in self._packed(part):
                    yield number, one
            else:
                yield number, part

    def _packed(self, data: memoryview) -> Iterator[int]:
        at = 0
        while at < len(data):
            self.fields_left -= 1
            if self.fields_left < 0:
                raise WireError("it has too many parts")
            value, at = _varint(data, at)
            yield value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise WireError("it is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, at
    raise WireError("it has a number of more than 64 bits")
