"""Convolutional vocoders and codecs of small sounds, made node by node."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from aigc.artifact import Signature
from aigc.artifact.axes import Axis
from tests.sealing.foreign import node, write
from tests.sealing.test_free_axes import spec

HOP = 16
AXES = {"t": Axis(min=2, max=24, default=8)}
MEL = spec("mel", "vector", 4, "t")
SOUND = spec("sound", "audio", 1, f"{HOP}*t", range=(-1, 1), sample_rate_hz=8000)
SPEAK = Signature(graph="speak.onnx", inputs=(MEL,), outputs=(SOUND,), axes=AXES)


def _up(taken: str) -> onnx.NodeProto:
    window: Any = {"kernel_shape": [32], "strides": [HOP], "pads": [8, 8]}
    return node("ConvTranspose", f"{taken} up", "c", **window)


CONVOLUTIONAL = [_up("b")]
"""32 samples of a frame, which overlap those of its neighbours."""
OVERLAP_ADD = [
    node("Transpose", "b", "frames", perm=[0, 2, 1]),
    node("Conv", "b none window_of_frame", "flat", kernel_shape=[1]),
    node("MatMul", "frames window", "windowed"),
    node("Transpose", "windowed", "columns", perm=[0, 2, 1]),
    node("ConvTranspose", "columns ones", "added", kernel_shape=[64], strides=[HOP], pads=[24, 24]),
    node("ConvTranspose", "flat ones", "weight", kernel_shape=[64], strides=[HOP], pads=[24, 24]),
    node("Div", "added weight", "c"),
]
"""An inverse short-time Fourier transform: 64 samples of a frame, windowed, added and divided by
the sum of the windows."""
GLOBAL = [node("ReduceMean", "b last", "mean"), node("Sub", "b mean", "b2"), _up("b2")]
"""Loudness relative to the mean over all frames."""
PLACED = [
    node("Mul", "b zero", "zeros"),
    node("Add", "zeros hundredth", "steps"),
    node("CumSum", "steps time", "ramp"),
    node("Add", "b ramp", "b2"),
    _up("b2"),
]
"""Frames that know their number, though they see no other."""
RECURRENT = [
    node("Transpose", "b", "rows", perm=[2, 0, 1]),
    node("GRU", "rows gru_w gru_r", "states", hidden_size=8),
    node("Squeeze", "states one_axis", "state"),
    node("Transpose", "state", "b2", perm=[1, 2, 0]),
    _up("b2"),
]
"""Frames that remember those before, less and less."""


def vocoder(
    path: Path,
    between: Sequence[onnx.NodeProto] = CONVOLUTIONAL,
    taken: tuple[str, int] = ("mel", 4),
) -> Path:
    """(N, channels, t) -> (N, 1, 16 t) in -1..1, with nodes from `b` to `c` between.

    `taken`: name and channels of the input.
    """
    rng = np.random.default_rng(0)

    def weights(*shape: int, scale: float = 0.4) -> Any:
        return rng.normal(0, scale, shape).astype(np.float32)

    name, channels = taken
    window = np.hanning(66)[1:-1].astype(np.float32)
    return write(
        path,
        [(name, "float32", ["N", channels, "t"])],
        [("sound", "float32", ["N", 1, None])],
        [
            node("Conv", f"{name} first", "a", kernel_shape=[3], pads=[1, 1]),
            node("Tanh", "a", "b"),
            *between,
            node("Conv", "c last_w", "d", kernel_shape=[5], pads=[2, 2]),
            node("Tanh", "d", "sound"),
        ],
        {
            "first": weights(8, channels, 3),
            "up": weights(8, 1, 32),
            "last_w": weights(1, 1, 5),
            "window": weights(8, 64) * window,
            "ones": np.eye(64, dtype=np.float32)[:, None, :],
            "window_of_frame": window,
            "last": np.int64([2]),
            "zero": np.float32(0),
            "hundredth": np.float32(0.01),
            "time": np.int64(2),
            "gru_w": weights(1, 24, 8),
            "gru_r": weights(1, 24, 8, scale=0.2),
            "one_axis": np.int64([1]),
            "none": np.zeros((64, 8, 1), np.float32),
        },
    )


def codec(path: Path) -> Path:
    """(N, 1, 16 t) -> (N, 4, t): an encoder of sounds."""
    rng = np.random.default_rng(1)
    return write(
        path,
        [("heard", "float32", ["N", 1, "samples"])],
        [("code", "float32", ["N", 4, None])],
        [
            node("Conv", "heard first", "a", kernel_shape=[7], pads=[3, 3]),
            node("Tanh", "a", "b"),
            node("Conv", "b down", "code", kernel_shape=[HOP], strides=[HOP]),
        ],
        {
            "first": rng.normal(0, 0.4, (4, 1, 7)).astype(np.float32),
            "down": rng.normal(0, 0.2, (4, 4, HOP)).astype(np.float32),
        },
    )
