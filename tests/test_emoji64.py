"""The split of the emoji pictures that benchmarks train on."""

from pathlib import Path

import pytest
from PIL import Image

from benchmarks.emoji64 import SHARED, Emoji, groups, write


def test_variants_by_tone_sex_direction_and_pixels_are_one_group() -> None:
    """Also by way of each other: a is b by its name, and b is c by its pixels."""
    files = {
        "1f468-1f3fb-200d-1f33e.png": ("man farmer", "blue"),
        "1f469-200d-1f33e.png": ("woman farmer", "black"),
        "1f468-200d-1f33e.png": ("peasant", "white"),  # the code point without its tone
        "1f6b6-200d-27a1-fe0f.png": ("person walking facing right", "yellow"),
        "1f6b6.png": ("person walking", "red"),
        "1f534.png": ("large red circle", "red"),
        "1f7e2.png": ("large green circle", "green"),
    }
    own = groups(
        [
            Emoji(file, name, "", "", Image.new("RGB", (2, 2), color))
            for file, (name, color) in files.items()
        ]
    )
    farmers, walkers = list(files)[:3], list(files)[3:6]
    assert [own[file] for file in farmers] == [min(farmers)] * 3
    assert [own[file] for file in walkers] == [min(walkers)] * 3
    assert own["1f7e2.png"] == "1f7e2.png"


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data/emoji64")
def test_no_picture_is_on_both_sides(tmp_path: Path) -> None:
    """People are split alike in both sets, so that a judge of `all` saw no test picture of them."""
    write(tmp_path / "emoji")
    pixels = {
        (which, split): {
            Image.open(file).tobytes()
            for file in (tmp_path / "emoji" / which / split).rglob("*.png")
        }
        for which in ("all", "people")
        for split in ("train", "test")
    }
    assert pixels["people", "test"] <= pixels["all", "test"]
    assert pixels["people", "train"] <= pixels["all", "train"]
    for which in ("all", "people"):
        train, test = pixels[which, "train"], pixels[which, "test"]
        assert not train & test
        assert len(test) > 0.1 * len(train)
