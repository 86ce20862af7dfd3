"""Free axes of a foreign graph: dimensions that it names and leaves open, and outputs as functions
of them, found by runs at several sizes.

    facts = at_default(facts, axes)                     # sizes to take the inputs for something
    guesses = with_axes(guesses, free, axes)            # shapes with the axes' names again
    shapes = output_shapes(run, inputs, axes, found)    # {"large": (3, "2*h", "2*w")}
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from aigc.artifact.axes import Axis, Shape, check_axes, describe, shape_at
from aigc.artifact.manifest import ArtifactError, Signature
from aigc.artifact.preprocessing import default_for
from aigc.artifact.signature import TensorSpec
from aigc.sealing.example_inputs import proved_sizes
from aigc.sealing.probe import Probe
from aigc.sealing.tensor_facts import TensorFacts
from aigc.sealing.tensor_guess import Guess

Sizes = Mapping[str, int]

_HINT = "give a multiple, as --axis NAME=MIN..MAX:MULTIPLE"


def at_default(facts: Sequence[TensorFacts], axes: Mapping[str, Axis]) -> list[TensorFacts]:
    """Facts with the default size for each axis.

    Raises ValueError for an axis of no input, or of bounds that do not fit together.
    """
    check_axes(axes, {"": tuple(axes)}, {})
    named = {size for fact in facts for size in (fact.dims or ())[1:]}
    if missing := [name for name in axes if name not in named]:
        known = ", ".join(sorted(size for size in named if isinstance(size, str))) or "none"
        raise ArtifactError(
            f"--axis {missing[0]}: no input has a size of that name; open sizes are: {known}"
        )
    return [
        replace(fact, dims=(*fact.dims[:1], *(_default(size, axes) for size in fact.dims[1:])))
        if fact.dims
        else fact
        for fact in facts
    ]


def _default(size: int | str | None, axes: Mapping[str, Axis]) -> int | str | None:
    return axes[size].default if isinstance(size, str) and size in axes else size


def with_axes(
    guesses: Sequence[Guess], facts: Sequence[TensorFacts], axes: Mapping[str, Axis]
) -> list[Guess]:
    """Guesses of inputs whose shapes name the axes that `facts` leave open."""
    shapes: list[Shape] = [
        tuple(
            size if isinstance(size, str) and size in axes else int(fixed)
            for size, fixed in zip((fact.dims or ())[1:], one.spec.shape, strict=False)
        )
        for one, fact in zip(guesses, facts, strict=True)
    ]
    return [_freed(one, shape) for one, shape in zip(guesses, shapes, strict=True)]


def _freed(guess: Guess, shape: Shape) -> Guess:
    """A guess with a shape that may have free axes. Raises ArtifactError if it is converted."""
    if not any(isinstance(size, str) for size in shape):
        return guess
    if guess.edits:
        raise ArtifactError(
            f"{guess.spec.name!r} of the free shape {describe(shape)} would have to be converted"
            " (channels first, float32); export it so, or give --shape"
        )
    spec = replace(guess.spec, shape=shape)
    if spec.preprocessing:
        spec = replace(spec, preprocessing=default_for(spec.kind, free=True))
    return replace(guess, spec=spec)


def freed_output(guess: Guess, shape: Shape) -> Guess:
    """The guess of an output with a shape of output_shapes()."""
    return _freed(guess, shape)


def output_shapes(
    run: Callable[[Sizes], Probe],
    inputs: Sequence[TensorSpec],
    axes: Mapping[str, Axis],
    found: Probe,
) -> dict[str, Shape]:
    """Shapes of the outputs as functions of the axes; `found` is of the default sizes.

    Raises ArtifactError for sizes that are no simple function of one axis.
    """
    default = {name: axis.default for name, axis in axes.items()}
    moved: dict[str, tuple[int, Probe]] = {}
    for name, axis in axes.items():
        up = axis.default + axis.multiple <= axis.max
        step = axis.multiple if up else -axis.multiple
        moved[name] = step, run({**default, name: axis.default + step})
    shapes = {
        output: tuple(
            _function(
                output,
                size,
                {
                    name: (probe.outputs[output].shape[at] - size) / step
                    for name, (step, probe) in moved.items()
                },
                default,
            )
            for at, size in enumerate(one.shape)
        )
        for output, one in found.outputs.items()
    }
    signature = Signature(graph="", inputs=tuple(inputs), outputs=(), axes=dict(axes))
    for sizes in proved_sizes(signature)[1:2] + proved_sizes(signature)[-1:]:
        probe = run(sizes)
        for output, shape in shapes.items():
            if probe.outputs[output].shape != shape_at(shape, sizes):
                raise ArtifactError(
                    f"output {output!r} has {probe.outputs[output].shape} at {dict(sizes)}, not"
                    f" {describe(shape)}: its sizes are no simple functions of the axes; {_HINT}"
                )
    return shapes


def _function(output: str, size: int, slopes: Mapping[str, float], default: Sizes) -> int | str:
    """One size of an output as an expression of the axis that changes it."""
    by = {name: slope for name, slope in slopes.items() if slope}
    if not by:
        return size
    name, slope = next(iter(by.items()))
    if len(by) > 1 or slope != int(slope) or slope < 1:
        raise ArtifactError(
            f"a size of output {output!r} is no whole multiple of one axis: it changes by {by};"
            f" {_HINT}"
        )
    offset = size - int(slope) * default[name]
    factor = f"{int(slope)}*" if slope > 1 else ""
    return f"{factor}{name}{f'{offset:+d}' if offset else ''}"
