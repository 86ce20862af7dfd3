"""Sums of gradients over workers in buckets, sent while the backward pass still runs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

BUCKET_BYTES = 25 << 20
"""Least size of a bucket, as in DistributedDataParallel (Li et al. 2020, arXiv:2006.15704, section
4.2): smaller ones wait for latency, larger ones leave less to overlap."""

BeginAllReduce = Callable[[Tensor], Callable[[], None]]
"""Begins to replace a tensor by its sum over all workers; the result waits for it."""


class GradientBuckets:
    """Buffer of a phase's gradients, in the order of its parameters.

        with buckets.sending(earlier):
            torch.autograd.grad(loss, parameters)
        gradients, values = buckets.sums(values)

    A backward pass ends with the first parameters, so a bucket is a run of parameters counted from
    the last one. It is sent as soon as its gradients and all buckets before it are there: every
    worker sends the same buckets in the same order, and a sum does not depend on which gradient
    was ready first.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], begin: BeginAllReduce) -> None:
        self._parameters, self._begin = parameters, begin
        sizes = [parameter.numel() for parameter in parameters]
        self._flat = torch.empty(sum(sizes), dtype=parameters[0].dtype, device=parameters[0].device)
        self._views = [
            part.view_as(parameter)
            for part, parameter in zip(torch.split(self._flat, sizes), parameters, strict=True)
        ]
        spans = _spans([size * self._flat.element_size() for size in sizes], BUCKET_BYTES)
        self._bucket_of = [
            number for number, (a, b) in reversed([*enumerate(spans)]) for _ in range(a, b)
        ]
        ends = [0]
        for size in sizes:
            ends.append(ends[-1] + size)
        self._buckets = [self._flat[ends[a] : ends[b]] for a, b in spans]
        self._lengths = [b - a for a, b in spans]
        self._waits: list[Callable[[], None]] = []

    @contextmanager
    def sending(self, earlier: Sequence[Tensor] = ()) -> Iterator[None]:
        """Send the gradients of the backward pass inside, with those of `earlier` parts added."""
        missing = list(self._lengths)
        self._waits = []

        def take(i: int, gradient: Tensor) -> None:
            self._views[i].copy_(gradient)
            if earlier:
                self._views[i].add_(earlier[i])
            missing[self._bucket_of[i]] -= 1
            while len(self._waits) < len(missing) and not missing[len(self._waits)]:
                self._waits.append(self._begin(self._buckets[len(self._waits)]))

        def hook(i: int) -> Callable[[Tensor], None]:
            return lambda gradient: take(i, gradient)

        handles = [
            parameter.register_hook(hook(i))  # type: ignore[no-untyped-call]
            for i, parameter in enumerate(self._parameters)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def sums(self, values: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        """Gradients and `values` (V,) summed over all workers, when all have arrived.

        The gradients are views of the buffer, valid until the next backward pass.
        """
        waits = [*self._waits, self._begin(values)]
        for wait in waits:
            wait()
        return self._views, values


def _spans(sizes: Sequence[int], least: int) -> list[tuple[int, int]]:
    """[start, stop) of each bucket, from the last parameters to the first: at least `least` bytes,
    but for the last bucket."""
    spans, stop, size = [], len(sizes), 0
    for start in reversed(range(len(sizes))):
        size += sizes[start]
        if size >= least or start == 0:
            spans.append((start, stop))
            stop, size = start, 0
    return spans
