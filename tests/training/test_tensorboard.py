"""TensorBoard's events, read by TensorBoard: what was written, what was cut back, full disks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc.training.tensorboard import EventFile, histogram, picture, scalars
from tests import disks

pytestmark = pytest.mark.process


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0})
    return found.Reload()


def test_tensorboard_reads_the_event_file(tmp_path: Path) -> None:
    file = EventFile(tmp_path, 0)
    assert list(tmp_path.iterdir()) == [], "a file comes with the first event"
    for samples, loss in ((64, 0.5), (128, 0.25)):
        file.add(samples, scalars({"generator/loss": loss}))
    image = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    file.add(128, [picture("samples", image), histogram("logits", np.linspace(-2, 2, 64))])
    found = read(tmp_path)
    assert [(e.step, e.value) for e in found.Scalars("generator/loss")] == [(64, 0.5), (128, 0.25)]
    (seen,) = found.Images("samples")
    assert (seen.width, seen.height) == (4, 5)
    (spread,) = found.Histograms("logits")
    assert spread.histogram_value.num == 64
    assert len(list(tmp_path.iterdir())) == 1


def test_resume_hides_events_beyond_its_checkpoint(tmp_path: Path) -> None:
    before = EventFile(tmp_path, 0)
    for samples in (64, 128, 192):
        before.add(samples, scalars({"loss": 1.0}))
    EventFile(tmp_path, 128).add(160, scalars({"loss": 2.0}))
    found = [(event.step, event.value) for event in read(tmp_path).Scalars("loss")]
    assert found == [(64, 1.0), (160, 2.0)]


def test_event_file_goes_on_after_a_full_disk(tmp_path: Path) -> None:
    with disks.small_disk(tmp_path / "disk") as disk:
        file = EventFile(disk, 0)
        file.add(64, scalars({"loss": 1.0}))
        filler = disks.fill(disk)
        with pytest.raises(OSError, match="No space left"):
            file.add(128, scalars({f"loss/{i}": 1.0 for i in range(500)}))
        filler.unlink()
        file.add(192, scalars({"loss": 2.0}))
        assert [(event.step, event.value) for event in read(disk).Scalars("loss")] == [
            (64, 1.0),
            (192, 2.0),
        ]
