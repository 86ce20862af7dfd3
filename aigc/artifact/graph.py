"""Static checks of an ONNX graph, before onnxruntime reads it.

    check_graph("generator.onnx", data, manifest.files).external    # its files with weights

Files that the manifest does not name, operators other than plain numeric ones of ONNX, and sizes
that depend on values that a caller sends are refused. The remaining graphs take as much memory for
any values of a batch as for others, so a trial run shows it. Branches and loops may depend on
values: serving bounds the time and memory of every run.
"""

import re
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from aigc.artifact.manifest import ArtifactError, File
from aigc.artifact.operators import (
    BRANCHING,
    BY_VALUE,
    DOMAINS,
    OPERATORS,
    RANDOM,
    REDUCTION,
    SIZE_INPUTS,
    SIZES,
)
from aigc.artifact.protobuf_wire import (
    BYTES,
    DOUBLES,
    FIXED32,
    FLOATS,
    MANY,
    NUMBERS,
    VARINT,
    Reader,
    WireError,
)

MAX_FIELDS = 2_000_000
"""Most parts of a graph's file; each number in a list counts as one, weights as bytes do too."""
MAX_NODES = 100_000
"""Most operators of a graph, with functions expanded at every call."""
MAX_DEPTH = 8
"""Most levels of graphs within graphs and of functions that call functions."""

_MODEL = {1: VARINT, 2: BYTES, 3: BYTES, 4: BYTES, 5: VARINT, 6: BYTES, 7: BYTES, 8: MANY}
_MODEL |= {14: MANY, 25: MANY}
_GRAPH = {1: MANY, 2: BYTES, 5: MANY, 10: BYTES, 11: MANY, 12: MANY, 13: MANY, 14: MANY, 16: MANY}
_FUNCTION = {1: BYTES, 4: MANY, 5: MANY, 6: MANY, 7: MANY, 8: BYTES, 9: MANY, 10: BYTES}
_FUNCTION |= {11: MANY, 12: MANY, 13: BYTES, 14: MANY}
_NODE = {1: MANY, 2: MANY, 3: BYTES, 4: BYTES, 5: MANY, 6: BYTES, 7: BYTES, 8: BYTES, 9: MANY}
_ATTRIBUTE = {1: BYTES, 2: FIXED32, 3: VARINT, 4: BYTES, 5: BYTES, 6: BYTES, 7: FLOATS}
_ATTRIBUTE |= {8: NUMBERS, 9: MANY, 10: MANY, 11: MANY, 13: BYTES, 20: VARINT, 21: BYTES}
_TENSOR = {1: NUMBERS, 2: VARINT, 4: FLOATS, 5: NUMBERS, 7: NUMBERS, 8: BYTES, 9: BYTES}
_TENSOR |= {10: DOUBLES, 11: NUMBERS, 12: BYTES, 13: MANY, 14: VARINT, 16: MANY}
_VALUE = {1: BYTES, 2: BYTES, 3: BYTES, 4: MANY}
_ENTRY = {1: BYTES, 2: BYTES}

_ITEM_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
"""Bytes of a number, by the types that external weights may have."""
_NUMBER = re.compile(r"[0-9]{1,18}")

_MAX_AXES = 64

_Called = tuple[str, str]
"""Domain and name of a function."""


@dataclass
class _Node:
    op: str = ""
    domain: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    graphs: list["_Graph"] = field(default_factory=list)


@dataclass
class _Graph:
    nodes: list[_Node] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    initializers: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class CheckedGraph:
    """Facts about a graph that passed the checks."""

    external: Mapping[str, str]
    """Files with external weights: {location as the graph writes it: name in the artifact}."""
    is_bounded: bool
    """True if the run time does not depend on the values of the inputs."""


def check_graph(name: str, data: bytes, files: Mapping[str, File]) -> CheckedGraph:
    """Check a graph, whose external weights may be in `files` beside it.

    Raises ArtifactError, with the reason, for a graph that may not be loaded.
    """
    if data[4:8] == b"ORTM":  # onnxruntime's own format, which it recognises by these
        raise ArtifactError(f"graph {name!r} is in a format of onnxruntime's own, not ONNX")
    reading = _Reading(name, files)
    try:
        graph, functions = reading.model(memoryview(data))
    except WireError as error:
        raise ArtifactError(
            f"graph {name!r} is not one that onnxruntime loads: it is no ONNX model: {error}"
        ) from None
    _Dependence(name, functions).of_model(graph)
    return CheckedGraph(external=reading.external, is_bounded=not reading.operators & BRANCHING)


class _Reading:
    """Parser of one file, from bytes to nodes."""

    def __init__(self, name: str, files: Mapping[str, File]) -> None:
        self._name, self._files = name, files
        self.operators: set[str] = set()
        self._reader = Reader(MAX_FIELDS)
        self._nodes = 0
        self.external: dict[str, str] = {}

    def model(self, data: memoryview) -> tuple[_Graph, dict[_Called, _Graph]]:
        graph: _Graph | None = None
        functions: dict[_Called, _Graph] = {}
        for number, value in self._reader.fields(data, _MODEL):
            if number == 7:
                graph = self._graph(value, 0)
            elif number == 25:
                key, body = self._function(value)
                if key in functions or key[0] in DOMAINS:
                    raise WireError(f"it has two functions {key[1]!r}, or one of ONNX's own name")
                functions[key] = body
        if graph is None:
            raise WireError("it has no graph")
        return graph, functions

    def _function(self, data: int | memoryview) -> tuple[_Called, _Graph]:
        name = domain = ""
        body = _Graph()
        for number, value in self._reader.fields(_bytes(data), _FUNCTION):
            if number == 1:
                name = _text(value)
            elif number == 10:
                domain = _text(value)
            elif number == 13:
                _no_overload(value)
            elif number == 4:
                body.inputs.append(_text(value))
            elif number == 5:
                body.outputs.append(_text(value))
            elif number == 7:
                body.nodes.append(self._node(value, 0))
            elif number == 11 and self._attribute(value, 0):
                raise WireError(f"function {name!r} takes a graph")
        return (domain, name), body

    def _graph(self, data: int | memoryview, depth: int) -> _Graph:
        if depth > MAX_DEPTH:
            raise ArtifactError(
                f"graph {self._name!r} has graphs within graphs more than {MAX_DEPTH} deep"
            )
        graph = _Graph()
        for number, value in self._reader.fields(_bytes(data), _GRAPH):
            if number == 1:
                graph.nodes.append(self._node(value, depth))
            elif number == 5:
                graph.initializers.append(self._tensor(value, outside=depth == 0))
            elif number == 11:
                graph.inputs.append(self._named(value))
            elif number == 12:
                graph.outputs.append(self._named(value))
        return graph

    def _named(self, data: int | memoryview) -> str:
        return next((_text(v) for n, v in self._reader.fields(_bytes(data), _VALUE) if n == 1), "")

    def _node(self, data: int | memoryview, depth: int) -> _Node:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise ArtifactError(f"graph {self._name!r} has more than {MAX_NODES:,} operators")
        node = _Node()
        for number, value in self._reader.fields(_bytes(data), _NODE):
            if number == 1:
                node.inputs.append(_text(value))
            elif number == 2:
                node.outputs.append(_text(value))
            elif number == 4:
                node.op = _text(value)
                self.operators.add(node.op)
            elif number == 7:
                node.domain = _text(value)
            elif number == 8:
                _no_overload(value)
            elif number == 5:
                node.graphs += self._attribute(value, depth)
        return node

    def _attribute(self, data: int | memoryview, depth: int) -> list[_Graph]:
        graphs = []
        for number, value in self._reader.fields(_bytes(data), _ATTRIBUTE):
            if number in (6, 11):
                graphs.append(self._graph(value, depth + 1))
            elif number in (5, 10):
                self._tensor(value, outside=False)
        return graphs

    def _tensor(self, data: int | memoryview, *, outside: bool) -> str:
        """Name of a tensor; external weights are looked up in the allowed files."""
        name, kind, size, axes, external = "", 0, 1, 0, False
        entries: list[tuple[str, str]] = []
        for number, value in self._reader.fields(_bytes(data), _TENSOR):
            if number == 1:
                size, axes = size * _number(value), axes + 1
                if axes > _MAX_AXES:
                    raise WireError(f"it has a tensor of more than {_MAX_AXES} axes")
            elif number == 2:
                kind = _number(value)
            elif number == 8:
                name = _text(value)
            elif number == 13:
                entries.append(self._entry(value))
            elif number == 14:
                external = value != 0
        if external or entries:
            if not outside:
                raise ArtifactError(
                    f"graph {self._name!r} has a constant {name!r} outside of its file; only"
                    " initializers of the whole graph may lie elsewhere"
                )
            self._outside(name, size * _ITEM_BYTES.get(kind, 0), entries)
        return name

    def _entry(self, data: int | memoryview) -> tuple[str, str]:
        entries = {n: _text(v) for n, v in self._reader.fields(_bytes(data), _ENTRY)}
        return entries.get(1, ""), entries.get(2, "")

    def _outside(self, tensor: str, size: int, entries: list[tuple[str, str]]) -> None:
        said = dict(entries)
        location = said.get("location", "")
        where = f"graph {self._name!r} keeps {tensor!r} in {location!r}"
        path = PurePosixPath(self._name).parent / location
        if path.as_posix() != f"{path}" or ".." in path.parts or "\\" in location:
            raise ArtifactError(f"{where}, which lies outside of the artifact")
        file = self._files.get(path.as_posix())
        if file is None or not location or PurePosixPath(location).as_posix() != location:
            raise ArtifactError(f"{where}, which is none of the files of the manifest")
        numbers = {key: said.get(key, "0") for key in ("offset", "length")}
        if len(said) != len(entries) or not all(map(_NUMBER.fullmatch, numbers.values())):
            raise ArtifactError(f"{where} at {dict(entries)}, which is no offset and length")
        offset, length = int(numbers["offset"]), int(numbers["length"]) or size
        if not size or length != size or offset + size > file.bytes:
            raise ArtifactError(
                f"{where} from byte {offset} on, {length} bytes for {size}; the file has"
                f" {file.bytes}"
            )
        self.external[location] = path.as_posix()


class _Dependence:
    """Tracks which values depend on the values, and not only the number, of the inputs."""

    def __init__(self, name: str, functions: Mapping[_Called, _Graph]) -> None:
        self._name, self._functions = name, functions
        self._nodes = 0

    def of_model(self, graph: _Graph) -> None:
        self._graph(graph, [True] * len(graph.inputs), ChainMap(), 0)

    def _graph(
        self, graph: _Graph, given: list[bool], outer: ChainMap[str, bool], depth: int
    ) -> list[bool]:
        """One flag per output. Raises ArtifactError for a size that depends on values of a
        caller."""
        if depth > MAX_DEPTH:
            raise ArtifactError(
                f"graph {self._name!r} nests graphs and functions more than {MAX_DEPTH} deep, or"
                " in a circle"
            )
        known = outer.new_child()
        known.update(zip(graph.inputs, given, strict=False))
        known.update(dict.fromkeys(graph.initializers, False))
        known[""] = False
        for node in graph.nodes:
            depends = self._node(node, known, depth)
            known.update((name, depends) for name in node.outputs if name)
        # What is not known comes from a node that stands further behind.
        return [known.get(name, True) for name in graph.outputs]

    def _node(self, node: _Node, known: ChainMap[str, bool], depth: int) -> bool:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise ArtifactError(
                f"graph {self._name!r} has more than {MAX_NODES:,} operators when its functions"
                " are written out"
            )
        inputs = [known.get(name, True) for name in node.inputs]
        body = self._functions.get((node.domain, node.op))
        if body is not None:
            if node.graphs:
                raise ArtifactError(f"graph {self._name!r} hands a graph to function {node.op!r}")
            padded = inputs + [False] * (len(body.inputs) - len(inputs))
            return any(self._graph(body, padded, ChainMap(), depth + 1))
        if node.domain in DOMAINS and node.op in RANDOM:
            raise ArtifactError(
                f"graph {self._name!r} draws random numbers by {node.op!r}, which no seed"
                " determines; make the noise an input of the graph, of kind latent"
            )
        if node.domain not in DOMAINS or node.op not in OPERATORS:
            domain = f" of {node.domain!r}" if node.domain not in DOMAINS else ""
            raise ArtifactError(
                f"graph {self._name!r} has an operator {node.op!r}{domain}; an artifact may have"
                " ONNX's own numeric ones only"
            )
        self._check_sizes(node, inputs)
        within = self._within(node, inputs, known, depth)
        return node.op not in SIZES and (any(inputs) or within)

    def _check_sizes(self, node: _Node, inputs: list[bool]) -> None:
        decide = SIZE_INPUTS.get(node.op, (1,) if node.op.startswith(REDUCTION) else ())
        named = [at for at in decide if at < len(inputs) and inputs[at]]
        if named or (node.op in BY_VALUE and any(inputs)):
            what = node.inputs[named[0]] if named else node.inputs[0]
            raise ArtifactError(
                f"graph {self._name!r}: how much {node.op!r} makes depends on the values"
                f" of {what!r}, which a caller sends; it may depend on the batch's size only"
            )

    def _within(
        self, node: _Node, inputs: list[bool], known: ChainMap[str, bool], depth: int
    ) -> bool:
        """Graphs inside a node: values carried from one round to the next depend on the caller."""
        depends = False
        for graph in node.graphs:
            from_caller = [True] * len(graph.inputs)
            if node.op == "Loop":  # the round's number, and whether there is one
                from_caller[:2] = [any(inputs[:2])] * len(from_caller[:2])
            depends = any(self._graph(graph, from_caller, known, depth + 1)) or depends
        return depends


def _bytes(value: int | memoryview) -> memoryview:
    assert isinstance(value, memoryview)
    return value


def _number(value: int | memoryview) -> int:
    assert isinstance(value, int)
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_bytes(value)).decode(errors="replace")


def _no_overload(value: int | memoryview) -> None:
    if _bytes(value):
        raise WireError("it has an overloaded function")
