"""Checks of exports(): signatures that hold, seeds that are kept, graphs that equal the module."""

import copy
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from aigc import models
from aigc.artifact import TensorSpec, autoregressive
from aigc.artifact.axes import Sizes, label
from aigc.artifact.manifest import ArtifactError, Manifest, Training
from aigc.model import Export, GenerativeModel
from aigc.nn.autoregressive import AutoregressiveModule
from aigc.sealing.example_inputs import example, proved_sizes
from aigc.sealing.graph_runner import runner
from aigc.sealing.onnx_export import run_module, write_graphs
from aigc.sealing.parity import PARITY_BATCHES, budget, prove_at_sizes
from aigc.testing.contract import Note
from aigc.testing.model_under_test import ROWS, ModelUnderTest
from aigc.training.quality import generate, main_export, run_export

PARITY_ROWS = 64
"""Rows that torch and onnxruntime are compared on, as far as the largest batch goes."""
PARITY_TEXT_ROWS = 8
LOUD = 10
"""Factor of weights at which a range has to hold still."""


def signatures(subject: ModelUnderTest) -> Iterator[str]:
    """Every signature is whole, and `sample` needs nothing but a seed, a label and settings."""
    exports = subject.exports
    sample = exports.get("sample")
    if sample is None:
        drawn = any(part.signature.drawable for part in exports.values())
        if drawn or not exports:
            yield (
                f"exports() has no 'sample', only {', '.join(exports) or 'nothing'}; add the"
                " signature that turns a latent into a sample"
            )
    elif not sample.signature.drawable:
        needed = [spec.name for spec in sample.signature.given]
        yield (
            f"sample cannot be drawn from a seed: it needs {', '.join(needed)}; give it inputs of"
            " kind latent, uniform, label or setting only"
        )
    try:
        _manifest(subject)
    except ArtifactError as error:
        yield str(error)
    for name, part in exports.items():
        if part.signature.step:
            yield from _step_faults(name, part, exports)


def _manifest(subject: ModelUnderTest) -> Manifest:
    return Manifest(
        name="it",
        version="1",
        family=subject.model.family,
        model=subject.config.model_name,
        preset=subject.config.preset,
        created="",
        licence="",
        signatures={name: part.signature for name, part in subject.exports.items()},
        reproducibility={},
        parity={},
        training=Training(config={}, samples=0, data={}, wall_seconds=0, workers=0),
    )


def _step_faults(name: str, part: Export, exports: dict[str, Export]) -> Iterator[str]:
    """An autoregressive signature runs the module whose graph it names, and can be run at all."""
    step = exports.get(part.signature.step)
    if step is None:
        return  # the manifest has said so
    if not isinstance(part.module, AutoregressiveModule):
        yield f"{name} goes by steps, so its module must be an AutoregressiveModule around the step"
    try:
        autoregressive.check(name, part.signature, step.signature)
    except ArtifactError as error:
        yield str(error)


def outputs_as_promised(subject: ModelUnderTest) -> Iterator[str]:
    """Outputs have the dtype, shape and range of their signature, with weights of any size too.

    Free axes are tried at the sizes at which an export is proven.
    """
    for name, part in subject.exports.items():
        for sizes in proved_sizes(part.signature):
            faults = list(_faults_at(name, part, sizes))
            if faults:
                at = f", at {label(sizes)}" if sizes else ""
                yield from (f"{fault}{at}" for fault in faults)
                break


def _faults_at(name: str, part: Export, sizes: Sizes) -> Iterator[str]:
    inputs = _inputs(part, ROWS, sizes)
    loud = copy.deepcopy(part.module)
    with torch.no_grad():
        for parameter in loud.parameters():
            parameter.mul_(LOUD)
    specs = part.signature.at(sizes).outputs
    for module, with_weights in (
        (part.module, ""),
        (loud, f" with weights {LOUD} times as large"),
    ):
        values = call(Export(module=module, signature=part.signature), inputs)
        if len(values) != len(specs):
            yield f"{name} gives {len(values)} outputs, its signature names {len(specs)}"
            return
        faults = [
            f"{fault}{with_weights}"
            for spec, value in zip(specs, values, strict=True)
            for fault in _output_faults(name, spec, value)
        ]
        if faults:
            yield from faults
            return


def _output_faults(name: str, spec: TensorSpec, value: Tensor) -> Iterator[str]:
    what = f"output {spec.name!r} of {name}"
    if value.dtype != getattr(torch, spec.dtype):
        yield f"{what} has the dtype {value.dtype}, its signature promises {spec.dtype}"
    if tuple(value.shape) != (ROWS, *spec.shape):
        yield (
            f"{what} has the shape {tuple(value.shape)} for {ROWS} rows, its signature promises"
            f" {(ROWS, *spec.shape)}"
        )
    elif spec.range is not None:
        low, high = value.min().item(), value.max().item()
        if not spec.range[0] <= low <= high <= spec.range[1]:
            yield (
                f"the range of {what} is [{low:.4g}, {high:.4g}], its signature promises"
                f" {list(spec.range)}; squash it, by tanh() or clamp()"
            )
    elif not value.isfinite().all():
        yield f"{what} is not finite"


def rows_apart(subject: ModelUnderTest) -> Iterator[str]:
    """An output depends on its own row of the inputs: on that, and on no other row."""
    for name, part in subject.exports.items():
        inputs = _inputs(part, ROWS)
        together = call(part, inputs)
        if not any((value[0] != value[1]).any() for value in together):
            yield f"{name} ignores its input: two rows have the same output"
        # Rounding in another batch is bounded as rounding in another runtime is.
        atol = budget(part.signature)[1]
        for row in range(ROWS):
            alone = call(part, [value[row : row + 1] for value in inputs])
            worst = max(
                _distance(a[row : row + 1], b) for a, b in zip(together, alone, strict=True)
            )
            if worst > atol:
                yield (
                    f"a row of {name} depends on the rest of its batch: alone it is off by"
                    f" {worst:.2g}; look for a mean over axis 0, or BatchNorm without eval()"
                )
                break


def _distance(a: Tensor, b: Tensor) -> float:
    """Largest |a - b|, relative to 1 + |b|."""
    a, b = a.double(), b.double()
    worst = ((a - b).abs() / (1 + b.abs())).max().item()
    return float("inf") if worst != worst else worst


def graphs_shared(subject: ModelUnderTest) -> Iterator[str]:
    """Exports that name one graph compute the same, since it is one file."""
    first: dict[str, tuple[str, list[Tensor]]] = {}
    for name, part in subject.exports.items():
        signature = part.signature
        if signature.step:
            step = subject.exports[signature.step]
            if signature.graph != step.signature.graph:
                yield f"{name} goes by steps of {signature.step}, and must name its graph"
            continue
        values = call(part, [torch.ones_like(value) for value in _inputs(part, ROWS)])
        other, expected = first.setdefault(signature.graph, (name, values))
        same = len(expected) == len(values) and all(map(torch.equal, expected, values))
        if not same:
            yield (
                f"{other} and {name} name one graph, {signature.graph}, and compute different"
                " things; give each a file of its own"
            )


def seeds_kept(subject: ModelUnderTest) -> Iterator[str]:
    """A seed gives the same samples again, and others at other indices."""
    model = subject.copied().eval()
    _, part = main_export(model)
    once, again = samples(model, range(ROWS)), samples(model, range(ROWS))
    for name in once:
        if not torch.equal(once[name], again[name]):
            yield (
                f"two samples of one seed differ in {name!r}; take what sample draws from an input"
                " of kind latent or uniform"
            )
            return
    other = samples(model, range(ROWS, 2 * ROWS))
    if part.signature.seeded and all(torch.equal(once[name], other[name]) for name in once):
        yield "samples of other indices are the same ones: sample does not use its latent"


def state_is_whole(subject: ModelUnderTest) -> Iterator[str]:
    """A fresh model with the state of another, and a deep copy, compute the same bits."""
    model = subject.copied()
    torch.manual_seed(99)
    fresh = models.build(subject.config)
    fresh.load_state_dict(model.state_dict())
    copied = copy.deepcopy(model)
    shared = {id(p) for p in model.parameters()} & {id(p) for p in copied.parameters()}
    if shared:
        yield "a deep copy of the model shares parameters with it; do not override __deepcopy__"
    outputs = []
    for m in (model, copied, fresh):
        _, part = main_export(m.eval())
        outputs.append(call(part, _inputs(part, ROWS)))
    for i, text in ((1, "a deep copy of the model computes something else"), (2, _LOST)):
        if not all(map(torch.equal, outputs[0], outputs[i])):
            yield text


_LOST = (
    "another model with the same state_dict() computes something else: part of the state is not in"
    " it; register it as a parameter or a buffer"
)


def parity(subject: ModelUnderTest) -> Iterator[str]:
    """Every signature is exported to ONNX, and onnxruntime computes the same at several sizes."""
    exports = copy.deepcopy(subject.exports)
    with tempfile.TemporaryDirectory(prefix="aigc-check-") as temporary:
        folder = Path(temporary)
        write_graphs(exports, folder)
        for name, part in exports.items():
            signature = part.signature
            step = exports[signature.step].signature if signature.step else None
            run = runner((folder / signature.graph).read_bytes(), signature, step)(1)
            most = PARITY_TEXT_ROWS if step else PARITY_ROWS
            try:
                prove_at_sizes(name, signature, run, partial(run_module, part), most)
            except ValueError as error:
                yield str(error)
    yield Note(f"{', '.join(exports)} equal at batch sizes {', '.join(map(str, PARITY_BATCHES))}")


def samples(model: GenerativeModel, indices: range) -> dict[str, Tensor]:
    """Samples of seed 0 of a model in eval mode, by output; each index has a class of its own.

    Of a model without samples, the outputs of random inputs.
    """
    _, part = main_export(model)
    if part.signature.drawable:
        made = generate(model, indices, torch.arange(len(indices)))
    else:
        drawn = example(part.signature, indices.stop)
        rows = {name: value[indices.start :] for name, value in drawn.items()}
        made = run_export(part, next(model.parameters()), rows)
    return {name: torch.from_numpy(value) for name, value in made.items()}


def call(part: Export, inputs: list[Tensor]) -> list[Tensor]:
    """Outputs of an export's module."""
    with torch.no_grad():
        outputs = part.module(*inputs)
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


def _inputs(part: Export, n: int, sizes: Sizes | None = None) -> list[Tensor]:
    return [torch.from_numpy(value) for value in example(part.signature, n, sizes).values()]
