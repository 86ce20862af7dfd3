"""Sealing of models as artifacts: ONNX export, parity, reproducibility and reference samples.

from aigc.sealing import seal

seal("upscaler.onnx", name="upscaler", licence="MIT", range="0..1")     # of any project
seal(generator, name="faces", licence="MIT", example_inputs=(z,))       # a torch module
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aigc.sealing.imported import seal

__all__ = ["seal"]


def __getattr__(name: str) -> Any:
    """`seal`, loaded when it is used: what runs in processes of its own does not need it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from aigc.sealing.imported import seal

    return seal
