"""TensorBoard events of a run: scalars, pictures and histograms, in one file.

    file = EventFile(folder, samples)
    file.add(samples, [*scalars({"generator/loss": 0.7}), picture("samples", image)])

torch's SummaryWriter hands events to a thread, which a full disk ends. Here the events of a call
are appended at once, all or nothing: the caller gets the error, and the next call starts afresh.
"""

import io
import operator
import os
import socket
import time
from collections.abc import Iterable, Mapping
from itertools import accumulate, repeat, takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.files import append

_GROWING = accumulate(repeat(1.1), operator.mul, initial=1e-12)
_POSITIVE = list(takewhile(lambda edge: edge < 1e20, _GROWING))
EDGES = [*(-edge for edge in reversed(_POSITIVE)), 0.0, *_POSITIVE]
"""Bounds of histograms, as TensorBoard's own writers use them."""


class EventFile:
    """A file of events; events of earlier starts beyond `samples` are hidden by TensorBoard."""

    def __init__(self, folder: Path, samples: int) -> None:
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._path, self._samples = folder / name, samples

    def add(self, samples: int, summaries: Iterable[Any]) -> None:
        """Append summaries of the state after `samples`. Raises OSError."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]

        events = [
            Event(wall_time=time.time(), step=samples, summary=summary) for summary in summaries
        ]
        if not self._path.exists():
            first = [Event(wall_time=time.time(), file_version="brain.Event:2")]
            if self._samples:
                start = SessionLog(status=SessionLog.START)
                first.append(Event(wall_time=time.time(), step=self._samples, session_log=start))
            events = [*first, *events]
        append(self._path, _records(events))


def scalars(values: Mapping[str, float]) -> list[Any]:
    """Summaries of numbers by name."""
    from torch.utils.tensorboard.summary import scalar

    return [scalar(name, value) for name, value in values.items()]  # type: ignore[no-untyped-call]


def picture(name: str, image: NDArray[np.uint8]) -> Any:
    """Summary of an image, (H, W, C) uint8."""
    from torch.utils.tensorboard.summary import image as summary

    return summary(name, image, dataformats="HWC")  # type: ignore[no-untyped-call]


def histogram(name: str, values: NDArray[Any]) -> Any:
    """Summary of the distribution of values of any shape."""
    from torch.utils.tensorboard.summary import histogram as summary

    return summary(name, values, EDGES)  # type: ignore[no-untyped-call]


def _records(events: Iterable[Any]) -> bytes:
    from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    for event in events:
        writer.write(event.SerializeToString())
    return buffer.getvalue()
