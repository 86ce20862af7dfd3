"""ONNX graphs of torch modules, with a free batch axis and their weights inside.

write_graphs(model.exports(), folder)           # one file per graph that a signature names
expected = run_module(export, example(export.signature, 16))
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from torch import Tensor

from aigc.artifact.sampling_inputs import Arrays
from aigc.model import Export
from aigc.sealing.example_inputs import example


def write_graphs(exports: Mapping[str, Export], folder: Path) -> None:
    """Write every graph that the signatures name, once each."""
    for part in exports.values():
        path = folder / part.signature.graph
        if not path.exists():
            step = part.signature.step
            to_onnx(exports[step] if step else part, path)


def to_onnx(part: Export, path: Path, inputs: tuple[Tensor, ...] = ()) -> None:
    """Write one graph with a free batch axis and its weights inside.

    `inputs`: example inputs of at least two rows; random ones of the signature by default.
    """
    specs = part.signature.inputs
    inputs = inputs or tuple(torch.from_numpy(a) for a in example(part.signature, 2).values())
    batch = torch.export.Dim("batch", min=1, max=2**20)
    with _quiet():
        program = torch.onnx.export(
            part.module.eval(),
            inputs,
            dynamo=True,
            external_data=False,
            input_names=[spec.name for spec in specs],
            output_names=[spec.name for spec in part.signature.outputs],
            dynamic_shapes=tuple({0: batch} for _ in specs),
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=False)
    _strip(path)


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
