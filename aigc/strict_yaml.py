"""Strict and bounded reader of YAML and JSON from untrusted sources.

    for document in documents(decode(data)):     # manifests, as kubectl reads them
    options = document(decode(data))             # a file of options, without ambiguous values

A plain YAML parser silently takes the last of two equal keys, expands aliases without bound, and
reads `no`, `010` and `1:30` differently from what people mean. Here a repeated key, an alias that
contains itself and everything beyond a bound are refused, with the line.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import StringIO
from itertools import islice
from typing import Any

import yaml

from aigc.yaml_scalars import other_reading, parse_plain, parse_tagged

MAX_BYTES = 16 << 20
"""Largest text that is read."""
MAX_DEPTH = 100
"""Deepest nesting of mappings and lists."""
MAX_NODES = 500_000
"""Most values in a text."""
MAX_ALIASED = 100_000
"""Most values from aliases, of which a few lines can stand for billions."""

_NODES_PER_DOCUMENT = 10
"""Values that every document counts for, beside its own."""
_MERGE = "<<"
_TAG = "tag:yaml.org,2002:"
_MERGE_KEY = ("<<",)
_NO_KEY = ("no key",)
_TEMPLATE = "if this is a template, render it first, as `helm template` does"
_SEPARATOR = re.compile(r"^---(?=\s|\Z)", re.MULTILINE)
_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{},:]')


class Unreadable(ValueError):
    """A document that cannot be read; the message has the line and the reason."""


def decode(data: bytes) -> str:
    """Text of a file in UTF-8, or in UTF-16 with a byte order mark.

    Raises ValueError, with the line, beyond MAX_BYTES or for bytes that are not text.
    """
    if len(data) > MAX_BYTES:
        raise Unreadable(f"more than {MAX_BYTES >> 20} MiB; nothing of that size is read")
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        if wide:
            raise Unreadable("begins as UTF-16, and is none; save it as UTF-8") from None
        line = data.count(b"\n", 0, error.start) + 1
        raise Unreadable(
            f"byte {data[error.start]:#04x} in line {line} is not UTF-8; save it as UTF-8"
        ) from None
    # Concatenated files have byte order marks inside.
    return re.sub("^\ufeff", "", text, flags=re.MULTILINE)


def document(text: str) -> Any:
    """The only document of a text; None for an empty one.

    Scalars that versions of YAML read differently are refused. Raises ValueError.
    """
    value: Any = None
    for number, each in enumerate(read(text, unclear=False)):
        if isinstance(each, Unreadable):
            raise each
        if number:
            raise Unreadable("one document is expected, and there are several (---)")
        value = each
    return value


def documents(text: str) -> Iterator[Any]:
    """Documents of a text. Raises ValueError at the first that cannot be read."""
    for each in read(text):
        if isinstance(each, Unreadable):
            raise each
        yield each


def read(text: str, *, unclear: bool = True) -> Iterator[Any]:
    """Documents of a text: None for an empty one, an Unreadable for a broken one.

    `unclear`: read `yes`, `010` and the like as kubectl does; refused if False.
    """
    bounds = _Bounds()
    if text.lstrip()[:1] in ("{", "["):
        values = list(_json(text, bounds))
        # A text that begins like JSON may still be YAML: {kind: Pod}.
        if not isinstance(values[0], _NoJson):
            yield from values
            return
        bounds = _Bounds()
    for first_line, part in _parts(text):
        try:
            bounds.count(first_line, _NODES_PER_DOCUMENT)
            yield from _yaml(part, first_line, bounds, unclear)
        except Unreadable as error:
            yield error
        except yaml.YAMLError as error:
            yield Unreadable(f"no YAML: {_reason(error, first_line, part)}")
        if bounds.exceeded:
            return


@dataclass(kw_only=True)
class _Bounds:
    """Count of the values read of a text."""

    nodes: int = 0
    aliased: int = 0
    exceeded: bool = False

    def count(self, line: int, nodes: int = 1, *, aliased: bool = False) -> None:
        self.nodes += nodes
        if aliased:
            self.aliased += nodes
        if self.aliased > MAX_ALIASED:
            self._refuse(
                f"the aliases up to line {line} stand for more than {MAX_ALIASED:,} values"
            )
        if self.nodes > MAX_NODES:
            self._refuse(f"more than {MAX_NODES:,} values up to line {line}")

    def depth(self, line: int, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise Unreadable(f"line {line} is nested more than {MAX_DEPTH} deep")

    def _refuse(self, reason: str) -> None:
        self.exceeded = True
        raise Unreadable(f"{reason}; nothing of that size is read")


def _parts(text: str) -> Iterator[tuple[int, str]]:
    """(number of first line, text) of each part between lines of `---`, split as kubectl does."""
    starts = [match.start() for match in _SEPARATOR.finditer(text)]
    begun, line = 0, 1
    for end in [*starts, len(text)]:
        part = text[begun:end]
        if end < len(text) and _is_preface(part):
            continue
        yield line, part
        line += part.count("\n")
        begun = end


def _is_preface(part: str) -> bool:
    """True for comments and directives only, which belong to the document after them."""
    return all(line.lstrip()[:1] in ("", "#", "%") for line in StringIO(part))


def _reason(error: yaml.YAMLError, first_line: int, part: str) -> str:
    """Reason of an error, with the line in the whole text."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    if mark is None:
        return f"{' '.join(str(reason).split())} (in the document at line {first_line})"
    message = f"{reason} in line {first_line + mark.line}, column {mark.column + 1}"
    line = next(islice(StringIO(part), mark.line, None), "")
    if "\t" in line[: len(line) - len(line.lstrip())]:
        message += ": a tab indents it, and YAML wants spaces"
    elif "{{" in part:
        message += f"; {_TEMPLATE}"
    return message


@dataclass(kw_only=True)
class _Frame:
    """A mapping or list that is still open."""

    value: dict[str, Any] | list[Any]
    line: int
    anchor: str | None
    began_at: int
    """Number of nodes counted before it."""
    key: Any = _NO_KEY
    height: int = 1
    """Levels of its values, plus its own."""
    own: set[str] = field(default_factory=set)
    merged: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Anchored:
    """A value with an anchor; its size counts aliases inside it as expanded."""

    value: Any
    nodes: int
    height: int


def _yaml(part: str, first_line: int, bounds: _Bounds, unclear: bool) -> Iterator[Any]:
    """Documents of a part, built from the parser's events without recursion."""
    build = _Builder(first_line=first_line, bounds=bounds, unclear=unclear)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for event in yaml.parse(part, loader):
        if isinstance(event, yaml.DocumentStartEvent):
            build.begin()
        elif isinstance(event, yaml.DocumentEndEvent):
            yield build.result
        else:
            build.take(event)


class _Builder:
    """Builds values from parser events."""

    def __init__(self, *, first_line: int, bounds: _Bounds, unclear: bool) -> None:
        self._first_line, self._bounds, self._unclear = first_line, bounds, unclear
        self.begin()

    def begin(self) -> None:
        """Begin a document, without the anchors of the last one."""
        self.result: Any = None
        self._open: list[_Frame] = []
        self._anchors: dict[str, _Anchored | None] = {}

    def take(self, event: yaml.Event) -> None:
        """Take the next event. Raises Unreadable."""
        if not isinstance(event, yaml.NodeEvent):
            if isinstance(event, yaml.CollectionEndEvent):
                self._end()
            return
        line = self._first_line + event.start_mark.line
        if isinstance(event, yaml.AliasEvent):
            self._alias(event.anchor, line)
            return
        self._bounds.count(line)
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event, line)
            if event.anchor is not None:
                self._anchors[event.anchor] = _Anchored(value=value, nodes=1, height=0)
            self._add(value, line, 0)
            return
        self._bounds.depth(line, len(self._open) + 1)
        mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", f"{_TAG}{'map' if mapping else 'seq'}"):
            raise Unreadable(f"line {line}: the tag {event.tag} has no meaning here")
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        began_at = self._bounds.nodes - 1
        value = {} if mapping else []
        self._open.append(_Frame(value=value, line=line, anchor=event.anchor, began_at=began_at))

    def _alias(self, anchor: str, line: int) -> None:
        if anchor not in self._anchors:
            raise Unreadable(f"line {line}: no anchor &{anchor} stands before *{anchor}")
        named = self._anchors[anchor]
        if named is None:
            raise Unreadable(
                f"line {line}: *{anchor} stands within &{anchor}: it would have no end"
            )
        self._bounds.count(line, named.nodes, aliased=True)
        self._bounds.depth(line, len(self._open) + named.height)
        self._add(named.value, line, named.height)

    def _end(self) -> None:
        frame = self._open.pop()
        value = frame.value
        if isinstance(value, dict):
            # Its own keys take precedence, then the first merged mapping.
            for below in reversed(frame.merged):
                for key, each in below.items():
                    if key not in frame.own:
                        value[key] = each
        if frame.anchor is not None:
            nodes = self._bounds.nodes - frame.began_at
            self._anchors[frame.anchor] = _Anchored(value=value, nodes=nodes, height=frame.height)
        self._add(value, frame.line, frame.height)

    def _add(self, value: Any, line: int, height: int) -> None:
        if not self._open:
            self.result = value
            return
        frame = self._open[-1]
        frame.height = max(frame.height, height + 1)
        if isinstance(frame.value, list):
            frame.value.append(value)
        elif frame.key is _NO_KEY:
            frame.key = value if value is _MERGE_KEY else self._key(value, frame, line)
        else:
            key, frame.key = frame.key, _NO_KEY
            if key is _MERGE_KEY:
                self._merge(value, frame, line)
            else:
                frame.value[key] = value

    def _key(self, value: Any, frame: _Frame, line: int) -> str:
        """A key as text, as in JSON."""
        if value is None or not isinstance(value, str | int | float):
            message = f"line {line}: a key must be text, got {value!r:.60}"
            if isinstance(value, dict):  # {{ .Values.name }}
                message += f"; {_TEMPLATE}"
            raise Unreadable(message)
        key = value if isinstance(value, str) else json.dumps(value)
        if key in frame.own:
            raise Unreadable(
                f"key {key!r} stands twice in the mapping at line {frame.line}, again in"
                f" line {line}"
            )
        frame.own.add(key)
        return key

    def _merge(self, value: Any, frame: _Frame, line: int) -> None:
        below = value if isinstance(value, list) else [value]
        if not all(isinstance(each, dict) for each in below):
            raise Unreadable(f"line {line}: << takes a mapping or several, got {value!r:.60}")
        frame.merged += below

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> Any:
        text, tag = event.value, event.tag
        if tag is not None and tag != "!":
            try:
                return parse_tagged(text, tag.removeprefix(_TAG))
            except ValueError:
                message = f"line {line}: the tag {tag} has no meaning for {text!r:.60}"
                raise Unreadable(message) from None
        if tag == "!" or not event.implicit[0]:
            return text
        if text == _MERGE and self._at_key:
            return _MERGE_KEY
        if not self._unclear and (also := other_reading(text)):
            raise Unreadable(
                f"line {line}: {text} is {also} to some readers of YAML and not to others; quote"
                " it, or write what is meant"
            )
        return parse_plain(text)

    @property
    def _at_key(self) -> bool:
        frame = self._open[-1] if self._open else None
        return frame is not None and isinstance(frame.value, dict) and frame.key is _NO_KEY


class _NoJson(Unreadable):
    """The text is another language, or broken."""


def _json(text: str, bounds: _Bounds) -> Iterator[Any]:
    """Consecutive JSON documents, as `kubectl get -o json` and jq write them."""
    try:
        _count_json(text, bounds)
    except Unreadable as error:  # if it is JSON at all, the bounds of YAML refuse it too
        yield _NoJson(str(error))
        return
    strict, lenient = json.JSONDecoder(object_pairs_hook=_once), json.JSONDecoder()
    at = 0
    while at < len(text):
        if text[at].isspace() or _SEPARATOR.match(text, at):
            at += 1 if text[at].isspace() else 3
            continue
        try:
            value, at = strict.raw_decode(text, at)
        except Unreadable as error:
            line = text.count("\n", 0, at) + 1
            value = Unreadable(f"{error} (in the document at line {line})")
            _, at = lenient.raw_decode(text, at)
        except ValueError as error:
            yield _NoJson(f"no JSON: {error}")
            return
        yield value


def _count_json(text: str, bounds: _Bounds) -> None:
    depth = 0
    for match in _JSON_TOKEN.finditer(text):
        token = match[0][0]
        if token in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                bounds.depth(text.count("\n", 0, match.start()) + 1, depth)
        elif token in "]}":
            depth -= 1
        if token in ",:[{":
            bounds.nodes += 1
            if bounds.nodes > MAX_NODES:
                bounds.count(text.count("\n", 0, match.start()) + 1)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key, value in pairs:
        if key in mapping:
            raise Unreadable(f"key {key!r} stands twice in a mapping")
        mapping[key] = value
    return mapping
