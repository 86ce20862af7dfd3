"""ONNX graphs of torch modules, with free axes, that of the batch first, and weights inside.

write_graphs(model.exports(), folder)           # one file per graph that a signature names
expected = run_module(export, example(export.signature, 16))
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from aigc.artifact import TensorSpec
from aigc.artifact.axes import Axis, expression, free_positions
from aigc.artifact.sampling_inputs import Arrays
from aigc.model import Export
from aigc.sealing.example_inputs import example, proved_sizes


def write_graphs(exports: Mapping[str, Export], folder: Path) -> None:
    """Write every graph that the signatures name, once each."""
    for part in exports.values():
        path = folder / part.signature.graph
        if not path.exists():
            step = part.signature.step
            to_onnx(exports[step] if step else part, path)


def to_onnx(part: Export, path: Path, inputs: tuple[Tensor, ...] = ()) -> None:
    """Write one graph with a free batch axis, the signature's free axes and its weights inside.

    `inputs`: example inputs of at least two rows; random ones of the signature by default. Raises
    ValueError for a module that cannot be exported with these axes.
    """
    try:
        _to_onnx(part, path, inputs)
    except torch.onnx.errors.OnnxExporterError as error:
        if not part.signature.axes:
            raise
        said = f"{error.__cause__ or error}".strip().partition("\n")[0]
        raise ValueError(
            f"{path.name} cannot be exported with the free axes {', '.join(part.signature.axes)}:"
            f" {said}; compute sizes from the shapes of inputs, and never with Python's numbers"
        ) from error


def _to_onnx(part: Export, path: Path, inputs: tuple[Tensor, ...]) -> None:
    signature = part.signature
    specs = signature.inputs
    if not inputs:
        # Odd sizes that differ from axis to axis: equal ones could be taken for one axis.
        arrays = example(signature, 2, proved_sizes(signature)[-1])
        inputs = tuple(torch.from_numpy(a) for a in arrays.values())
    batch = torch.export.Dim("batch", min=1, max=2**20)
    axes = {name: _dim(name, axis) for name, axis in signature.axes.items()}
    with _quiet():
        program = torch.onnx.export(
            part.module.eval(),
            inputs,
            dynamo=True,
            external_data=False,
            input_names=[spec.name for spec in specs],
            output_names=[spec.name for spec in part.signature.outputs],
            dynamic_shapes=tuple({0: batch, **_dims(spec, axes)} for spec in specs),
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=False)
    _strip(path)


def _dim(name: str, axis: Axis) -> Any:
    """Torch's dimension of an axis; a multiple is one of a hidden dimension."""
    step = axis.multiple
    if step == 1:
        return torch.export.Dim(name, min=axis.min, max=axis.max)
    return step * torch.export.Dim(f"_{name}", min=axis.min // step, max=axis.max // step)


def _dims(spec: TensorSpec, axes: Mapping[str, Any]) -> dict[int, Any]:
    """Torch's dimensions of a tensor's free axes, by position with the batch first."""
    dims = {}
    for at in free_positions(spec.shape):
        one = expression(str(spec.shape[at]))
        dim = axes[one.axis] if one.factor == 1 else one.factor * axes[one.axis]
        dims[1 + at] = dim + one.offset if one.offset else dim
    return dims


def _strip(path: Path) -> None:
    """Remove torch's metadata on the origin of each node, which holds paths of this machine."""
    graph = onnx.load(path)
    for part in (graph.graph, *graph.functions):
        del part.metadata_props[:]
        for item in (*part.node, *part.value_info):
            del item.metadata_props[:]
    onnx.save(graph, path)


def run_module(part: Export, inputs: Arrays) -> Arrays:
    """Outputs of the torch module by name, in eval mode."""
    with torch.no_grad():
        outputs = part.module.eval()(*(torch.from_numpy(value) for value in inputs.values()))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    names = [spec.name for spec in part.signature.outputs]
    return {name: value.numpy() for name, value in zip(names, outputs, strict=True)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch.onnx, which warns about torchvision and its own internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
