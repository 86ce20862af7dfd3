"""Tiles and chunks: geometry, assembly, and manifests of impossible ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigc.artifact import Artifact, ArtifactError, Signature, TensorSpec
from aigc.artifact.axes import Axis
from aigc.artifact.manifest import parse
from aigc.artifact.references import MAX_PARTS, reference_sizes
from aigc.artifact.sampling_inputs import InputError
from aigc.artifact.tiling import Chunk, Tile, Tiling, spans
from tests.artifact.test_manifest import Document, resealed

CHUNK = {"axis": "t", "context": 2, "max_abs": 0.0, "sizes": []}
TILE = {"overlap": {"h": 4, "w": 6}, "max_abs": 0.0, "sizes": []}


@given(
    multiple=st.sampled_from([1, 2, 8]),
    tile=st.integers(1, 9),
    overlap=st.integers(0, 8),
    total=st.integers(1, 60),
)
def test_tiles_of_one_size_cover_every_place_once_within_the_whole(
    multiple: int, tile: int, overlap: int, total: int
) -> None:
    tile, overlap, total = (n * multiple for n in (tile, min(overlap, tile - 1), total))
    found = spans(total, tile, overlap)
    assert [p for one in found for p in range(one.first, one.last)] == [*range(total)]
    assert {one.stop - one.start for one in found} == {min(tile, total)}
    for one in found:
        assert one.start % multiple == 0
        assert 0 <= one.start <= one.first < one.last <= one.stop <= total
        assert one.start == 0 or one.first - one.start >= overlap // 2
        assert one.stop == total or one.stop - one.last >= overlap // 2


@given(height=st.integers(1, 40), width=st.integers(1, 20), batch=st.integers(1, 9))
def test_any_order_and_batch_of_tiles_puts_every_value_in_its_place(
    height: int, width: int, batch: int
) -> None:
    axes = {"h": Axis(min=1, max=7, default=5), "w": Axis(min=1, max=8, default=5)}
    tile = Tile(overlap={"h": 4, "w": 6}, max_abs=0.0, sizes=())
    tiling = Tiling(axes, tile, {"h": height, "w": width})
    image = np.arange(2 * 3 * height * width).reshape(2, 3, height, width)
    shapes: Any = ({"x": (3, "h", "w"), "k": ()}, {"y": ("h", "2*w", 3)})
    k = np.array([5, 9])

    def double(tiles: Any) -> Any:
        twice = tiles["x"].repeat(2, -1) * tiles["k"][:, None, None, None]
        return {"y": twice.transpose(0, 2, 3, 1)}

    def run(tiles: Any) -> Any:
        assert len(tiles["x"]) <= batch
        return double(tiles)

    expected = double({"x": image, "k": k})["y"]
    assert np.array_equal(tiling.run(run, {"x": image, "k": k}, shapes, batch)["y"], expected)
    places = tiling.places()
    assert len(places) == len(tiling)
    whole: Any = {}
    for place in reversed(places):
        cut = tiling.cut({"x": image[1], "k": k[1]}, shapes[0], [place])
        tiling.assemble(whole, run(cut), shapes[1], [place])
    assert np.array_equal(whole["y"], expected[1])


def with_tile(document: Document, signature: str = "sample", **changes: Any) -> Document:
    document["signatures"][signature]["tile"] = TILE | changes
    return document


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: with_tile(d, overlap={"h": -2}), r"overlap by a multiple of 1 in \[0, 11\]"),
        (lambda d: with_tile(d, overlap={"h": 12}), r"in \[0, 11\], so that 12 go on, got 12"),
        (lambda d: with_tile(d, overlap={"h": 1 << 60}), r"in \[0, 11\]"),
        (lambda d: with_tile(d, overlap={"q": 2}), "'q', which is no axis; axes: h, w"),
        (lambda d: with_tile(d, overlap={}), "at least one axis"),
        (lambda d: with_tile(d, overlap={"h": 2.5}), "Expected `int`"),
        (lambda d: with_tile(d, max_abs=-1.0), "seam error of tiles must be finite"),
        (lambda d: with_tile(d, "enlarge", overlap={"h": 3, "w": 2}), "by a multiple of 2 in"),
        (lambda d: with_tile(d, "hum", overlap={"t": 2}), "has a size with an offset"),
        (
            lambda d: (
                d["signatures"]["sample"]["outputs"][0].update(shape=[1, "2*h", "2*h"]),
                with_tile(d),
            ),
            "has an axis twice",
        ),
        (
            lambda d: (
                d["signatures"]["sample"]["outputs"][0].update(shape=[1, "2*h", 9]),
                with_tile(d),
            ),
            "is not free along h, w",
        ),
        (
            lambda d: (
                d["signatures"]["hum"]["outputs"][0].update(shape=[1, "16*t"]),
                with_tile(d, "hum", overlap={"t": 2}),
            ),
            "gives more than images and codes",
        ),
    ],
)
def test_a_manifest_of_impossible_tiles_is_refused(
    free: Path, change: Callable[[Document], object], reason: str
) -> None:
    document = json.loads((free / "manifest.json").read_text())
    with pytest.raises(ArtifactError, match=reason):
        parse(resealed(document, change))


def with_chunk(document: Document, signature: str = "hum", **changes: Any) -> Document:
    """A manifest whose sounds have chunks, of a length without an offset."""
    document["signatures"]["hum"]["outputs"][0].update(shape=[1, "16*t"])
    document["signatures"][signature]["chunk"] = CHUNK | changes
    return document


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: with_chunk(d, context=20), r"multiple of 1 in \[0, 19\], so that 40 of t go on"),
        (lambda d: with_chunk(d, context=-1), r"in \[0, 19\]"),
        (lambda d: with_chunk(d, axis="h"), "along 'h', and the axes are: t"),
        (lambda d: with_chunk(d, max_abs=-1.0), "error of chunks must be finite"),
        (lambda d: with_chunk(d, "sample"), "the axes are: h, w"),
        (
            lambda d: with_chunk(d)["signatures"]["hum"]["outputs"][0].update(shape=[1, "16*t+8"]),
            "has a size with an offset, so chunks of it do not join",
        ),
        (
            lambda d: with_chunk(d)["signatures"]["hum"]["outputs"][0].update(kind="image"),
            "gives more than sounds and vectors",
        ),
    ],
)
def test_a_manifest_of_impossible_chunks_is_refused(
    free: Path, change: Callable[[Document], object], reason: str
) -> None:
    document = json.loads((free / "manifest.json").read_text())
    parse(resealed(json.loads(json.dumps(document)), with_chunk))
    with pytest.raises(ArtifactError, match=reason):
        parse(resealed(document, change))


@pytest.fixture(scope="module")
def signed_for(free: Path) -> Artifact:
    """The artifact of free sizes, as if it said that `sample` has tiles."""
    document = json.loads((free / "manifest.json").read_text())
    artifact = Artifact.open(free, verify=False)
    manifest = parse(resealed(document, with_tile))
    artifact.manifest.signatures["sample"] = manifest.signatures["sample"]
    return artifact


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({"h": (1 << 16) + 1}, r"in \[2, 65536\]"),
        ({"h": 1 << 16, "w": 1 << 16}, "numbers, of which at most 268,435,456 are allowed"),
    ],
)
def test_sizes_that_are_too_large_for_tiles_are_refused_before_anything_is_drawn(
    signed_for: Artifact, sizes: dict[str, int], reason: str
) -> None:
    with pytest.raises(InputError, match=reason) as raised:
        signed_for.draw("sample", 0, [0], sizes=sizes)
    assert raised.value.code == "size_out_of_range"


def test_samples_of_other_signatures_have_no_tiles(signed_for: Artifact) -> None:
    with pytest.raises(ValueError, match=r"h must be a multiple of 2 in \[4, 16\], got 18"):
        signed_for.run("enlarge", {"image": np.zeros((1, 1, 18, 8), np.float32)})
    whole = signed_for.sample(seed=1, label=3, sizes={"h": 30, "w": 13})["image"]
    assert whole.shape == (1, 1, 60, 26)


def test_references_of_more_parts_than_are_replayed_are_refused() -> None:
    signature = Signature(
        graph="a.onnx",
        inputs=(TensorSpec(name="x", kind="vector", dtype="float32", shape=(1, "t")),),
        outputs=(TensorSpec(name="y", kind="vector", dtype="float32", shape=(1, "t")),),
        axes={"t": Axis(min=1, max=8, default=4)},
        chunk=Chunk(axis="t", context=2, max_abs=0.0, sizes=()),
    )
    most = 8 + 4 * (MAX_PARTS - 1)
    found = reference_sizes("s", signature, [f"references/s@t={most}.npz"])
    assert [*found.values()] == [{"t": most}]
    for size, parts in ((most + 1, "65"), (100_000_000, "24,999,999")):
        with pytest.raises(ArtifactError, match=f"are of {parts} tiles or chunks; at most 64"):
            reference_sizes("s", signature, [f"references/s@t={size}.npz"])
