"""The benchmarks' peers train, and a section of the report replaces itself alone."""

import math
from pathlib import Path

import pytest

from tests.bench.peers import examples_loop, torch_loop, vae_loop
from tests.bench.report import write_section


@pytest.mark.parametrize(
    ("loop", "preset"),
    [
        (torch_loop.main, "dcgan:digits"),
        (examples_loop.main, "dcgan:digits"),
        (vae_loop.main, "conv_vae:digits"),
    ],
)
def test_a_peer_trains(loop: object, preset: str) -> None:
    assert callable(loop)
    speed = loop(preset, 4, 1)
    assert math.isfinite(speed)
    assert speed > 0


def test_a_section_replaces_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / "docs" / "benchmarks.md"
    for name, text in (("a", "one"), ("b", "two"), ("a", "three")):
        write_section(path, name, text)
    found = path.read_text()
    assert "one" not in found
    assert found.index("three") < found.index("two")
    assert found.startswith("# Benchmarks")
