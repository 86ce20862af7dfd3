"""A digit drawn, written and said: a class joins the three, and each split has its own."""

from pathlib import Path

import numpy as np
import pytest

from aigc import data
from aigc.config import DataConfig
from aigc.data import digits, digits3, spoken_digits
from aigc.models import multimodal_vae
from tests.data.tiny import idx

pytestmark = pytest.mark.process

pytest.importorskip("espeakng_loader", reason="the extra `speech` is not installed")

MODEL = multimodal_vae.Config()
CONFIG = DataConfig(source="digits3")


def rows(of: np.ndarray) -> set[bytes]:
    return {row.tobytes() for row in of}


@pytest.mark.parametrize("split", ["train", "test"])
def test_parts_have_the_class_and_split_of_their_row(
    split: data.Split,
) -> None:
    found = data.whole(data.load(CONFIG, MODEL, split))
    images = digits.load(CONFIG, MODEL.shape, split)
    sounds = spoken_digits.load(CONFIG, MODEL.shapes["audio"], split)
    assert len(found) == len(sounds)
    for name, source in (("image", images), ("audio", sounds)):
        label = dict(zip(map(np.ndarray.tobytes, source.samples), source.labels, strict=True))
        own = [label[part.tobytes()] for part in found.samples[name]]
        assert own == found.labels.tolist()
        assert rows(found.samples[name]) == label.keys()
        assert (found.samples[f"mask/{name}"] == 1).all()
    words = ["".join(found.vocabulary[t] for t in text) for text in found.samples["text"]]
    assert words == [found.classes[label] for label in found.labels]


def test_rows_are_combined_by_a_fixed_draw() -> None:
    one, other = (digits3.load(CONFIG, MODEL.shapes, "train") for _ in range(2))
    assert one.fingerprint() == other.fingerprint()
    order = [int(one.read(row)[1]) for row in range(20)]
    assert order == [0] * 20  # by class; an epoch permutes them
    images, sounds = (one.parts[name] for name in ("image", "audio"))
    zeros = sounds[:312]
    assert sorted(zeros) != zeros.tolist()
    assert len(set(zeros.tolist())) == 312
    assert max(np.unique(images[:312], return_counts=True)[1]) <= 3


def test_idx_images_replace_the_digits(tmp_path: Path, mnist10k: Path) -> None:
    config = DataConfig(source="digits3", path=str(mnist10k), memory_mb=0)
    source = data.load(config, MODEL)
    assert len(source) == 9000
    made, label = source.read(8999)
    assert label == 9
    assert made["image"].shape == (1, 28, 28)
    idx(tmp_path, "train", 6)
    with pytest.raises(ValueError, match=r"pairs ten digits, .* has 3 classes"):
        data.load(DataConfig(source="digits3", path=str(tmp_path)), MODEL)
