"""A foreign ONNX graph -> a graph and a signature that an artifact may have.

    graph = adapt(read_onnx(path), path.name, Hints(), say=print)
    graph.signature, graph.model

Inputs and outputs are taken for what the graph and the hints say they are, its ends are converted
to the tensors of the manifest, and a first run in a process of its own shows that each sample is
the same alone and in a batch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import msgspec
import onnx
import psutil

from aigc.artifact import preprocessing
from aigc.artifact.axes import NO_AXES, Axis, Shape
from aigc.artifact.manifest import ArtifactError, Signature, TensorSpec
from aigc.artifact.sampling_inputs import Arrays
from aigc.artifact.trial import Bounds
from aigc.sealing.example_inputs import example
from aigc.sealing.free_sizes import at_default, freed_output, output_shapes, with_axes
from aigc.sealing.graph_edits import edit_inputs, edit_outputs, free_batch, rows_alone, strip
from aigc.sealing.hints import Hints
from aigc.sealing.probe import APART, Probe, ProbeError, probe
from aigc.sealing.tensor_facts import TensorFacts, input_facts, output_facts
from aigc.sealing.tensor_guess import Guess, guess, tensor_name

MEMORY_SHARE = 0.5
"""Share of the free memory that a first run may use."""
PROBE_S = 300.0
"""Time limit of a first run."""
PROBE_ROWS = 3

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ForeignGraph:
    """A graph that an artifact may have, and what was found out about it."""

    model: onnx.ModelProto
    signature: Signature
    row_seconds: float
    """Time of one sample on one thread."""
    converted: tuple[str, ...] = ()
    """Names of tensors that are others in the graph."""


class Questions(ValueError):
    """Facts that neither the graph nor a hint tells; the message names the flags."""


def adapt(
    model: onnx.ModelProto, file: str, hints: Hints, *, each_alone: bool = False, say: Say
) -> ForeignGraph:
    """Adapt a checked model. `file` is its name in messages and for now in the signature.

    `each_alone`: the graph has no batch axis, and runs on each sample by itself. `say` is called
    with a line for each tensor: what it is taken for, and why. Raises
    ArtifactError for a graph that no artifact may have, Questions for facts that are needed.
    """
    strip(model)
    facts, results = input_facts(model), output_facts(model)
    facts = [_with_shape(fact, hints, has_axis=not each_alone) for fact in facts]
    named, axes = facts, dict(hints.axis)
    if axes and each_alone:
        raise ValueError("--axis needs a graph with a batch axis; leave out --each-alone")
    facts = at_default(facts, axes) if axes else facts
    batch = "rows" if each_alone else _batch_axis(facts, file)
    names = _names([*facts, *results], hints)
    guesses = [
        guess(fact, names[fact.name], _row_shape(fact, batch), hints, is_input=True)
        for fact in facts
    ]
    _check_labels(guesses, file)
    guesses = with_axes(guesses, named, axes) if axes else guesses
    model, guesses, found, how = _batched(model, guesses, batch, file, axes)
    shapes: dict[str, Shape] = {}
    if axes:
        specs = tuple(one.spec for one in guesses)
        shapes = output_shapes(partial(_run_at, model, specs, axes, file), specs, axes, found)
    outputs = []
    for fact, value in zip(results, [value.name for value in model.graph.output], strict=True):
        shape = found.outputs[value].shape
        one = guess(fact, names[fact.name], shape, hints, is_input=False)
        if axes:
            one = freed_output(one, shapes[value])
        outputs.append(replace(one, value=value))
    edit_outputs(model, outputs)
    for one in guesses:
        say(f"input {one.describe()}")
    for one in outputs:
        say(f"output {one.describe()}")
    say(f"batch: {how}")
    if questions := [q for g in (*guesses, *outputs) for q in g.questions]:
        raise Questions(f"{file} does not tell everything; give {' and '.join(questions)}")
    return ForeignGraph(
        model=model,
        signature=Signature(
            graph=file,
            inputs=tuple(g.spec for g in guesses),
            outputs=tuple(g.spec for g in outputs),
            axes=axes,
        ),
        converted=tuple(g.spec.name for g in (*guesses, *outputs) if g.edits),
        row_seconds=found.row_seconds,
    )


def tensor_names(model: onnx.ModelProto) -> Iterator[str]:
    """Names of inputs and outputs, in the graph and in an artifact."""
    for value in (*model.graph.input, *model.graph.output):
        yield from (value.name, tensor_name(value.name, set()))


def _names(facts: Sequence[TensorFacts], hints: Hints) -> dict[str, str]:
    """Names in the manifest by those in the graph."""
    names: dict[str, str] = {}
    for fact in facts:
        wanted = hints.rename.get(fact.name, fact.name)
        names[fact.name] = tensor_name(wanted, set(names.values()))
    return names


def _with_shape(fact: TensorFacts, hints: Hints, *, has_axis: bool) -> TensorFacts:
    """Facts with the sizes that --shape gives to open axes. Raises ValueError for other sizes."""
    said: tuple[int, ...] | None = hints.of("shape", fact.name, tensor_name(fact.name, set()))
    if said is None or (fact.dims is not None and said == fact.dims[has_axis:]):
        return fact
    first: tuple[int | str | None, ...] = ("batch",) if has_axis else ()
    if fact.dims is None:
        return replace(fact, dims=(*first, *said))
    own = fact.dims[has_axis:]
    fits = len(own) == len(said) and all(
        a == b or not isinstance(a, int) for a, b in zip(own, said, strict=True)
    )
    if not fits:
        raise ValueError(f"--shape {fact.name}={'x'.join(map(str, said))}: the graph has {own}")
    return replace(fact, dims=(*fact.dims[:has_axis], *said))


def _batch_axis(facts: Sequence[TensorFacts], file: str) -> str:
    """`free` or `one`. Raises ArtifactError for a graph without a batch axis."""
    for fact in facts:
        if fact.dims is None:
            raise ArtifactError(
                f"{file} says nothing of the shape of input {fact.name!r}; give --shape"
                f" {fact.name}=SIZES of one sample, such as 3x64x64"
            )
        if not fact.dims or (isinstance(fact.dims[0], int) and fact.dims[0] != 1):
            raise ArtifactError(
                f"input {fact.name!r} of {file} has the shape {fact.dims}, without a batch axis"
                " first; export it with a free batch axis, or give --each-alone if it takes one"
                " sample at a time"
            )
    fixed = [fact for fact in facts if fact.dims and fact.dims[0] == 1]
    return "one" if fixed else "free"


def _row_shape(fact: TensorFacts, batch: str) -> tuple[int, ...]:
    """Shape of one sample. Raises ArtifactError for an open size."""
    dims = fact.dims or ()
    shape = dims if batch == "rows" else dims[1:]
    sizes = tuple(size for size in shape if isinstance(size, int))
    if len(sizes) != len(shape):
        raise ArtifactError(
            f"input {fact.name!r} leaves sizes open: {shape}; give --shape {fact.name}=SIZES of one"
            " sample, such as 3x64x64, or --axis NAME=MIN..MAX for each that stays free"
        )
    return sizes


def _check_labels(guesses: Sequence[Guess], file: str) -> None:
    labels = [g.spec.name for g in guesses if g.spec.kind == "label"]
    if len(labels) > 1:
        raise ArtifactError(
            f"{file} has several labels, {', '.join(labels)}; an artifact has one: give --kind"
            f" {labels[1]}=vector for the others"
        )


def with_signature(model: onnx.ModelProto, file: str, signature: Signature) -> ForeignGraph:
    """A checked model whose signature is known. Raises ArtifactError if the graph does not run."""
    strip(model)
    signature = replace(signature, inputs=tuple(map(_with_preprocessing, signature.inputs)))
    feeds = example(signature, PROBE_ROWS)
    found = _run(model, feeds, file)
    _check_apart(found, file)
    return ForeignGraph(model=model, signature=signature, row_seconds=found.row_seconds)


def _with_preprocessing(spec: TensorSpec) -> TensorSpec:
    """An input that says how files are read, by the default if it did not."""
    if spec.preprocessing is not msgspec.UNSET:
        return spec
    free = any(isinstance(size, str) for size in spec.shape)
    return replace(spec, preprocessing=preprocessing.default_for(spec.kind, free=free))


_Found = tuple[onnx.ModelProto, list[Guess], Probe, str]


def _batched(
    model: onnx.ModelProto,
    guesses: list[Guess],
    batch: str,
    file: str,
    axes: Mapping[str, Axis] = NO_AXES,
) -> _Found:
    """The graph with its inputs of the manifest and a free batch axis, as a run shows; the guesses
    after that, the results of the run, and a line on the batch.

    Raises ArtifactError if no form of it runs.
    """
    if batch == "free":
        found = _probed(model, guesses, file, axes)
        _check_apart(found, file)
        return model, guesses, found, "free, each sample is the same alone and in a batch"
    if batch == "one":
        tried = onnx.ModelProto()
        tried.CopyFrom(model)
        free_batch(tried)
        try:
            found = _probed(tried, guesses, file, axes)
            _check_apart(found, file)
            how = "was fixed at 1, and is free now: each sample is the same alone and in a batch"
            return tried, guesses, found, how
        except ArtifactError:
            pass  # its operators name the size, or mix rows
    if axes:
        raise ArtifactError(f"{file} takes one sample, so its axes cannot be free; give --shape")
    has_axis = batch == "one"
    model = rows_alone(_with_sizes(model, guesses, has_axis), has_axis=has_axis)
    values = [value.name for value in model.graph.input]
    guesses = [replace(one, value=name) for one, name in zip(guesses, values, strict=True)]
    found = _probed(model, guesses, file)
    how = "the graph takes one sample, and runs on each by itself: a batch is no faster"
    return model, guesses, found, how


def _with_sizes(model: onnx.ModelProto, guesses: list[Guess], has_axis: bool) -> onnx.ModelProto:
    """The model with the sizes of --shape written into its inputs."""
    values = {value.name: value for value in model.graph.input}
    for one in guesses:
        shape = values[one.value].type.tensor_type.shape
        dims = one.facts.dims or ()
        del shape.dim[:]
        for size in (1, *dims[1:]) if has_axis else dims:
            shape.dim.add(dim_value=int(size or 0))
    return model


def _run_at(
    model: onnx.ModelProto,
    inputs: tuple[TensorSpec, ...],
    axes: Mapping[str, Axis],
    file: str,
    sizes: Mapping[str, int],
) -> Probe:
    """A run at sizes of free axes."""
    signature = Signature(graph="", inputs=inputs, outputs=(), axes=dict(axes))
    found = _run(model, example(signature, PROBE_ROWS, sizes), file)
    _check_apart(found, file)
    return found


def _probed(
    model: onnx.ModelProto,
    guesses: Sequence[Guess],
    file: str,
    axes: Mapping[str, Axis] = NO_AXES,
) -> Probe:
    """Edit the inputs, and run. Raises ArtifactError."""
    edit_inputs(model, guesses)
    # What other values and outputs were said to be may not hold any more.
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    inputs = tuple(one.spec for one in guesses)
    signature = Signature(graph="", inputs=inputs, outputs=(), axes=dict(axes))
    return _run(model, example(signature, PROBE_ROWS), file)


def _run(model: onnx.ModelProto, feeds: Arrays, file: str) -> Probe:
    memory = int(MEMORY_SHARE * psutil.virtual_memory().available)
    bounds = Bounds(memory_bytes=memory, seconds=PROBE_S)
    try:
        return probe(model.SerializeToString(), feeds, bounds)
    except ProbeError as error:
        raise ArtifactError(f"{file}: {error}") from None


def _check_apart(found: Probe, file: str) -> None:
    if found.apart > APART:
        raise ArtifactError(
            f"{file}: a sample differs by {found.apart:.2g} alone and in a batch, so no seed would"
            " determine it; export it after module.eval(), without statistics over the batch"
        )
