"""Free axes: sizes that a caller chooses, from the manifest to the outputs of a graph."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from aigc.artifact import Artifact, ArtifactError, latents
from aigc.artifact.audio_files import wav
from aigc.artifact.axes import (
    Axis,
    SizeError,
    expression,
    label,
    nearest,
    parse_label,
    shape_at,
    solved,
)
from aigc.artifact.clips import row
from aigc.artifact.manifest import parse
from aigc.artifact.picture import pixels
from aigc.artifact.preprocessing import AUDIO, IMAGE, ImagePreprocessing
from aigc.artifact.sampling_inputs import InputError
from aigc.artifact.session import _check_graph
from aigc.artifact.signature import check_signature
from tests.artifact.test_manifest import Document, resealed

AXES = {"h": Axis(min=2, max=64, multiple=2, default=8), "t": Axis(min=3, max=90, default=4)}
shapes = st.lists(
    st.sampled_from(["h", "8*h", "8*h+3", "t", "256*t-600", "t+1", 3]), min_size=1, max_size=4
).map(tuple)
sizes = st.fixed_dictionaries(
    {"h": st.integers(1, 32).map(lambda n: 2 * n), "t": st.integers(3, 90)}
)


@given(shape=shapes, sizes=sizes)
def test_a_shape_gives_back_the_sizes_that_it_was_made_of(
    shape: tuple[Any, ...], sizes: dict[str, int]
) -> None:
    found = solved(AXES, shape, shape_at(shape, sizes))
    assert found.items() <= sizes.items()
    assert shape_at(shape, {**sizes, **found}) == shape_at(shape, sizes)


@given(found=st.integers(0, 300), up=st.booleans())
def test_the_nearest_size_is_allowed_and_on_the_side_asked_for(found: int, up: bool) -> None:
    (size,) = nearest(AXES, ("3*h+1",), (found,), up=up)
    (at,) = solved(AXES, ("3*h+1",), (size,)).values()
    allowed = [3 * h + 1 for h in range(2, 65, 2)]
    sides = [one for one in allowed if (one >= found if up else one <= found)]
    assert (
        size == (min(sides) if up else max(sides)) if sides else size in (allowed[0], allowed[-1])
    )
    assert at % 2 == 0


@pytest.mark.parametrize("text", ["", "8h", "0*h", "H", "h*8", "h + 1", "h+-1", "99999999999*h"])
def test_an_expression_of_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        expression(text)


@given(sizes=sizes)
def test_sizes_in_a_file_name_are_read_back(sizes: dict[str, int]) -> None:
    assert parse_label(label(sizes)) == sizes


def axis(document: Document, **changes: Any) -> Document:
    document["signatures"]["sample"]["axes"]["h"] |= changes
    return document


def shape(document: Document, which: str, *shape: Any) -> Document:
    document["signatures"]["sample"][which][0]["shape"] = [*shape]
    return document


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: axis(d, max=1 << 40), "must have 1 <= min"),
        (lambda d: axis(d, min=0), "must have 1 <= min"),
        (lambda d: axis(d, default=13), "must have 1 <= min"),
        (lambda d: axis(d, multiple=0), "must have 1 <= min"),
        (lambda d: axis(d, multiple=3), "must be multiples of 3"),
        (lambda d: axis(d, max=1 << 30), "more than 2,147,483,648 values"),
        (lambda d: shape(d, "outputs", 1, "2000000000*h", "2000000000*w"), "more than 2,147"),
        (lambda d: shape(d, "outputs", 1, "99999999999*h", "w"), "is no size"),
        (lambda d: shape(d, "outputs", 1, "256*h-600", "w"), "which is -88 at the smallest h"),
        (lambda d: shape(d, "outputs", 1, "h", "q"), "whose axis is unknown; axes are: h, w"),
        (lambda d: shape(d, "outputs", "h", "h", "w"), "a fixed number of channels"),
        (lambda d: shape(d, "inputs", 4, "h", 6), "axis 'w' is in the shape of no input"),
        (lambda d: shape(d, "inputs", "h", "w", "h", "w"), "at most 3 axes of what is drawn"),
        (lambda d: shape(d, "inputs", 4, True, "w"), "Expected `int | str`, got `bool`"),
        (
            lambda d: d["signatures"]["sample"]["axes"].update(
                latent={"min": 1, "max": 1, "default": 1}
            ),
            "has the name of a tensor",
        ),
        (
            lambda d: d["signatures"]["sample"]["axes"].update(
                seed={"min": 1, "max": 1, "default": 1}
            ),
            "has the name of a tensor or a sampling parameter",
        ),
        (lambda d: d["signatures"]["sample"].pop("axes"), "whose axis is unknown"),
        (lambda d: d.update(format_version=1), "format_version 1 and uses what came with 2"),
        (lambda d: d["signatures"].update({"a@b": d["signatures"]["hum"]}), "an @ in its name"),
    ],
)
def test_a_manifest_of_impossible_axes_is_refused(
    free: Path, change: Callable[[Document], object], reason: str
) -> None:
    document = json.loads((free / "manifest.json").read_text())
    assert document["format_version"] == 2
    with pytest.raises(ArtifactError, match=reason):
        parse(resealed(document, change))


@pytest.fixture(scope="module")
def opened(free: Path) -> Artifact:
    return Artifact.open(free)


def test_references_of_every_size_are_replayed(free: Path, opened: Artifact) -> None:
    assert opened.reference_sizes("hum") == [{"t": 10}, {"t": 1}, {"t": 2}, {"t": 40}]
    seen: list[str] = []
    opened.run, run = lambda name, inputs: seen.append(name) or run(name, inputs), opened.run  # type: ignore
    try:
        opened.verify()
    finally:
        opened.run = run  # type: ignore[method-assign]
    assert seen.count("hum") == 4 * (1 + 3)


@pytest.mark.parametrize(
    ("name", "image", "reason"),
    [
        ("enlarge", (1, 1, 9, 8), r"image: h must be a multiple of 2 in \[4, 16\], got 9"),
        ("enlarge", (1, 1, 18, 8), "h must be a multiple of 2"),
        ("enlarge", (1, 1, 8, 1 << 40), "w must be a multiple of 2"),
        ("enlarge", (1, 8, 8), r"must be \(N, 1, h, w\), got \(N, 8, 8\)"),
        ("enlarge", (1, 2, 8, 8), r"must be \(N, 1, h, w\), got \(N, 2, 8, 8\)"),
    ],
)
def test_sizes_that_the_axes_do_not_allow_never_reach_the_graph(
    opened: Artifact, name: str, image: tuple[int, ...], reason: str
) -> None:
    array = np.broadcast_to(np.float32(0), image)
    with pytest.raises(ValueError, match=reason):
        opened.run(name, {"image": array})


def test_a_sample_of_a_size_is_the_same_alone_and_in_a_batch(opened: Artifact) -> None:
    for sizes in ({"h": 2, "w": 2}, {"h": 5, "w": 11}, {"h": 12, "w": 12}, {}):
        whole = opened.sample(seed=3, n=5, label=7, sizes=sizes)["image"]
        alone = opened.sample(seed=3, first_index=4, label=7, sizes=sizes)["image"]
        h, w = sizes.get("h", 4), sizes.get("w", 6)
        assert whole.shape == (5, 1, 2 * h, 2 * w)
        assert whole[4:].tobytes() == alone.tobytes()


def test_noise_of_a_larger_sample_begins_with_that_of_a_smaller_one() -> None:
    for draw in (latents.normal, latents.uniform):
        whole = draw(5, [2, 9], (4, 7, 6), "p", free=(1, 2))
        part = draw(5, [9], (4, 3, 5), "p", free=(1, 2))
        assert part[0].tobytes() == whole[1, :, :3, :5].tobytes()
        cube = draw(5, [2], (2, 2, 3, 4), "p", free=(1, 2, 3))
        assert draw(5, [2], (2, 1, 2, 3), "p", free=(1, 2, 3)).tobytes() == (
            np.ascontiguousarray(cube[:, :, :1, :2, :3]).tobytes()
        )
        line = draw(5, [2], (3, 8), "p", free=(1,))
        assert draw(5, [2], (3, 4), "p", free=(1,)).tobytes() == (
            np.ascontiguousarray(line[:, :, :4]).tobytes()
        )
        assert len(np.unique(whole)) == whole.size, "no two places share a number"
        assert draw(5, [2], (6,), "p").tobytes() == draw(5, [2], (6, 1), "p", free=(1,)).tobytes()


def test_noise_along_free_axes_has_its_golden_bytes() -> None:
    drawn = latents.normal(7, [1], (1, 2, 2), free=(1, 2)).reshape(-1)
    flat = latents.normal(7, [1], (2,))[0]
    assert drawn[:2].tolist() == flat.tolist(), "the first row is the stream of fixed shapes"
    assert drawn.view(np.uint32).tolist() == [3198957963, 1065742470, 1058828999, 1049335913]


@pytest.mark.parametrize(
    ("sizes", "code"),
    [
        ({"q": 3}, "unknown_axis"),
        ({"h": 13}, "size_out_of_range"),
        ({"h": 0}, "size_out_of_range"),
    ],
)
def test_chosen_sizes_are_checked(opened: Artifact, sizes: dict[str, int], code: str) -> None:
    with pytest.raises(InputError) as raised:
        opened.draw("sample", 0, [0], sizes=sizes)
    assert raised.value.code == code


def test_a_given_input_and_a_chosen_size_must_agree(opened: Artifact) -> None:
    image = {"image": np.zeros((1, 1, 8, 6), np.float32)}
    assert opened.sizes("enlarge", {"w": 6}, image) == {"h": 8, "w": 6}
    with pytest.raises(InputError, match="w is 6 by what is given, so it cannot be 8"):
        opened.draw("enlarge", 0, [0], given=image, sizes={"w": 8})


def test_a_graph_must_be_free_where_the_manifest_is(free: Path, opened: Artifact) -> None:
    signature, session = opened.signature("enlarge"), opened._sessions["enlarge.onnx"]
    _check_graph("enlarge", signature, session)
    (image,), (large,) = signature.inputs, signature.outputs
    fixed = replace(signature, inputs=(replace(image, shape=(1, 8, "w")),))
    tied = replace(signature, inputs=(replace(image, shape=(1, "h", "h")),))
    for wrong in (fixed, replace(signature, outputs=(replace(large, shape=(2, "h", "w")),))):
        with pytest.raises(ArtifactError, match="promises"):
            _check_graph("enlarge", wrong, session)
    _check_graph("enlarge", tied, session)  # fewer axes than the graph has


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("size", [(8, 8), (9, 7), (3, 3), (40, 10), (5, 300)])
def test_a_picture_is_brought_to_the_nearest_allowed_size(fit: Any, size: tuple[int, int]) -> None:
    axes = {name: Axis(min=4, max=16, multiple=2, default=8) for name in ("h", "w")}
    levels = np.arange(size[0] * size[1], dtype=np.uint64).reshape(size) % 200 + 1
    reading = ImagePreprocessing(fit=fit, sizing="nearest")
    found = pixels(Image.fromarray(levels.astype(np.uint8)), (1, "h", "w"), reading, axes)[0]
    solved(axes, ("h", "w"), found.shape)
    if size == (8, 8):
        assert (found == levels).all(), "an allowed size is kept"
    if size == (9, 7) and fit == "crop":
        assert (found == levels[:8, :6]).all(), "nothing is resampled within the bounds"
    if size == (9, 7) and fit == "pad":
        assert sorted(found[found > 0]) == sorted(levels.reshape(-1))
    if size != (8, 8):
        with pytest.raises(ValueError, match=r"its size is .* must be a multiple of 2"):
            pixels(Image.fromarray(levels.astype(np.uint8)), (1, "h", "w"), IMAGE, axes)


def test_a_sound_keeps_its_length_and_is_padded_to_the_next_allowed_one() -> None:
    axes = {"t": Axis(min=2, max=10, default=4)}
    shape = (1, "100*t")
    loud = np.full((333, 1), 9000, np.int16)
    reading = type(AUDIO)(sizing="nearest")
    assert row(wav(loud, 8000), shape, 8000, reading, axes=axes).shape == (1, 400)
    assert row(wav(loud[:10], 8000), shape, 8000, reading, axes=axes).shape == (1, 200)
    assert row(wav(np.tile(loud, (9, 1)), 8000), shape, 8000, reading, axes=axes).shape == (1, 1000)
    with pytest.raises(SizeError, match="100"):
        row(wav(loud, 8000), shape, 8000, AUDIO, axes=axes)


def test_the_examples_of_its_page_run(free: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "free-axes.md").read_text()
    declared, used = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(declared, names)
    check_signature("sample", names["signature"])
    exec(used.replace("artifacts/free", str(free)), names)
