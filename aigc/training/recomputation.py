"""Activation checkpointing: parts of a network are computed again in the backward pass."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recompute_activations(network: nn.Module) -> int:
    """Have the parts of a network keep only their inputs for the backward pass (Chen et al. 2016,
    arXiv:1604.06174); returns the number of parts.

    Parts are the items of an nn.ModuleList, pieces of about the square root of its length of an
    nn.Sequential, and otherwise the outermost modules below the network that have modules of their
    own. Losses, gradients and buffers are the same bits as without: random numbers and buffers
    (statistics of BatchNorm, vectors of spectral norms) are those of the first time.
    """
    parts = list(_parts(network))
    for part in parts:
        _recompute(part)
    return len(parts)


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """Modules whose forward is recomputed as a whole; that of a Sequential in pieces."""
    if isinstance(module, nn.Sequential):
        yield module
    elif isinstance(module, nn.ModuleList):
        yield from module
    else:
        for child in _children(module):
            if _is_divisible(child):
                yield from _parts(child)
            elif _children(child):
                yield child


def _children(module: nn.Module) -> list[nn.Module]:
    """Modules of a module, but for those that compute its weights."""
    return [child for name, child in module.named_children() if name != "parametrizations"]


def _is_divisible(module: nn.Module) -> bool:
    own = isinstance(module, nn.Sequential | nn.ModuleList)
    return own or any(map(_is_divisible, _children(module)))


def _recompute(module: nn.Module) -> None:
    """Replace forward by one that keeps its inputs only, where a backward pass may follow."""
    plain = module.forward
    if isinstance(module, nn.Sequential):
        size = math.isqrt(len(module) - 1) + 1 if len(module) > 1 else 1
        pieces = [list(module)[at : at + size] for at in range(0, len(module), size)]
    else:
        pieces = [[module]]

    def forward(*inputs: Any, **named: Any) -> Any:
        if not (module.training and torch.is_grad_enabled()):
            return plain(*inputs, **named)
        if not isinstance(module, nn.Sequential):
            return _checkpoint(pieces[0], plain, *inputs, **named)
        (x,) = inputs
        for piece in pieces:
            x = _checkpoint(piece, _chain(piece), x)
        return x

    module.forward = forward


def _chain(modules: list[nn.Module]) -> Any:
    def chain(x: Any) -> Any:
        for module in modules:
            x = module(x)
        return x

    return chain


def _checkpoint(modules: list[nn.Module], function: Any, *inputs: Any, **named: Any) -> Any:
    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _FirstBuffers(modules)

    return checkpoint(function, *inputs, use_reentrant=False, context_fn=contexts, **named)


class _FirstBuffers:
    """Puts the buffers of now in their places while a part is computed again.

    Other tensors take their places, since one that was changed could not be used in a backward
    pass. A gradient of gradients enters more than once.
    """

    def __init__(self, modules: list[nn.Module]) -> None:
        self._first = [
            (owner, name, buffer.clone())
            for module in modules
            for owner in module.modules()
            for name, buffer in owner._buffers.items()
            if buffer is not None
        ]
        self._now: list[Tensor | None] = []

    def __enter__(self) -> None:
        self._now = [owner._buffers[name] for owner, name, _ in self._first]
        for owner, name, buffer in self._first:
            owner._buffers[name] = buffer.clone()

    def __exit__(self, *exception: object) -> None:
        for (owner, name, _), current in zip(self._first, self._now, strict=True):
            owner._buffers[name] = current
