"""ONNX files of torch modules of any project, from example inputs.

export(module, None, (torch.zeros(2, 64),), path)       # inputs named as forward() names them
"""

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from aigc.artifact.manifest import Signature, TensorSpec
from aigc.model import Export
from aigc.sealing.onnx_export import to_onnx

MIN_ROWS = 2
"""Fewest rows of an example: torch takes a size of 1 for a constant."""


def export(
    module: nn.Module, signature: Signature | None, inputs: tuple[Tensor, ...], path: Path
) -> None:
    """Write the graph of a module, with the signature's names, or those of its forward().

    Raises ValueError for a module that is not on the CPU, for example inputs that it does not take,
    and for one that torch cannot export.
    """
    _check(module)
    try:
        if signature is None:
            inputs = tuple(map(_at_least_two, inputs))
            signature = _provisional(module, inputs)
            to_onnx(Export(module=module, signature=signature), path, inputs)
        else:
            to_onnx(Export(module=module, signature=signature), path)
    except torch.onnx.OnnxExporterError as error:
        reason = " ".join(f"{error.__cause__ or error}".split())[:300]
        raise ValueError(
            f"{type(module).__name__} cannot be exported by torch.onnx: {reason}"
        ) from error


@contextmanager
def evaluating(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Modules in eval mode, each part left in the mode that it was in."""
    parts = {part: part.training for module in modules for part in module.modules()}
    for part in parts:
        part.training = False
    try:
        yield
    finally:
        for part, training in parts.items():
            part.training = training


def _check(module: nn.Module) -> None:
    name = type(module).__name__
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type != "cpu":
            raise ValueError(f"{name} is on {tensor.device}; give module.cpu()")
        if tensor.dtype in (torch.float16, torch.bfloat16, torch.float64):
            raise ValueError(f"{name} holds {tensor.dtype}; give module.float()")


def _at_least_two(value: Tensor) -> Tensor:
    if not isinstance(value, Tensor) or value.ndim < 1 or not len(value):
        raise ValueError(
            "example_inputs must be tensors with the batch axis first, got"
            f" {tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__}"
        )
    # A tensor of its own for each input: torch ties those that are one object.
    return torch.cat([value] * MIN_ROWS)[: max(MIN_ROWS, len(value))].clone()


def _provisional(module: nn.Module, inputs: tuple[Tensor, ...]) -> Signature:
    """Names, types and shapes alone. Raises ValueError for inputs or outputs that do not fit."""
    name = type(module).__name__
    parameters = list(inspect.signature(module.forward).parameters.values())
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if not inputs:
        raise ValueError(
            f"{name} needs example_inputs: one tensor for each of {', '.join(named)}, batch axis"
            " first"
        )
    named += [f"input_{i}" for i in range(len(named), len(inputs))]
    try:
        with torch.no_grad():
            outputs = module(*inputs)
    except Exception as error:  # whatever a stranger's module raises
        raise ValueError(f"{name} does not run on example_inputs: {error}") from error
    outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
    if not outputs or not all(isinstance(one, Tensor) for one in outputs):
        kinds = ", ".join(type(one).__name__ for one in outputs)
        raise ValueError(f"{name} must return tensors, got {kinds}; wrap it in a module that does")
    only = len(outputs) == 1
    return Signature(
        graph="",
        inputs=tuple(map(_spec, named, inputs)),
        outputs=tuple(
            _spec("output" if only else f"output_{i}", one) for i, one in enumerate(outputs)
        ),
    )


def _spec(name: str, value: Tensor) -> TensorSpec:
    dtype = "int64" if value.dtype == torch.int64 else "float32"
    return TensorSpec(name=name, kind="vector", dtype=dtype, shape=tuple(value.shape[1:]))  # type: ignore[arg-type]
