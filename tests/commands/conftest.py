"""torch's table of operators, built once for all exports of these tests."""

from collections.abc import Iterator
from functools import cache

import pytest


@pytest.fixture(scope="package", autouse=True)
def _operators() -> Iterator[None]:
    """Share the table: torch.onnx builds it anew, in a second, for every graph."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    patch = pytest.MonkeyPatch()
    patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
    yield
    patch.undo()
