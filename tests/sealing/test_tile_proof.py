"""Tiles of foreign upscalers: the overlap is measured, equality proven, and both can be refused."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from aigc.artifact import Artifact, ArtifactError, Signature
from aigc.artifact.axes import Axis
from aigc.artifact.tiling import Tile, Tiling
from aigc.commands import import_onnx
from aigc.model import Export
from aigc.sealing import seal
from aigc.sealing.artifact_folder import seal_graphs
from aigc.sealing.onnx_export import write_graphs
from aigc.sealing.tile_proof import proven_tile
from tests.sealing.test_free_axes import MANIFEST, Generator, spec
from tests.sealing.upscalers import GLOBAL, PLACED, upscaler

AXES = {
    "height": Axis(min=4, max=24, multiple=2, default=8),
    "width": Axis(min=3, max=20, default=8),
}
IMAGE = spec("lr", "image", 1, "height", "width", range=(0, 1))
LARGE = spec("hr", "image", 1, "2*height", "2*width", range=(0, 1))
ENLARGE = Signature(graph="up.onnx", inputs=(IMAGE,), outputs=(LARGE,), axes=AXES)


def sealed(path: Path, store: Path, **more: Any) -> Artifact:
    uri = seal(path, name="up", store=store, signatures={"enlarge": ENLARGE}, **more)
    return Artifact.open(uri)


@pytest.mark.parametrize(("layers", "height", "width"), [(1, 2, 2), (5, 10, 10)])
def test_the_overlap_is_twice_as_far_as_outputs_see(
    tmp_path: Path, layers: int, height: int, width: int
) -> None:
    artifact = sealed(upscaler(tmp_path / "up.onnx", layers), tmp_path / "store", tile=True)
    tile = artifact.signature("enlarge").tile
    assert tile
    assert tile.overlap == {"height": height, "width": width}
    assert tile.max_abs == 0
    assert all(sizes["height"] > 8 for sizes in tile.sizes)
    assert any(sizes["height"] > 24 and sizes["width"] > 20 for sizes in tile.sizes)


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """An upscaler that sees 3 places, sealed with tiles."""
    folder = tmp_path_factory.mktemp("tiled")
    return sealed(upscaler(folder / "up.onnx"), folder / "store", tile=True)


@pytest.mark.parametrize("size", [(26, 21), (24, 77), (102, 20), (58, 61)])
def test_tiles_equal_the_whole_bit_for_bit_and_not_with_less_overlap(
    tiled: Artifact, size: tuple[int, int]
) -> None:
    artifact = tiled
    signature = artifact.signature("enlarge")
    lr = np.random.default_rng(1).random((3, 1, *size), np.float32)
    whole = artifact._sessions[signature.graph].run(None, {"lr": lr})[0]
    assert artifact.run("enlarge", {"lr": lr})["hr"].tobytes() == whole.tobytes()

    def with_overlap(places: int, batch: int) -> Any:
        tile = Tile(overlap=dict.fromkeys(AXES, places), max_abs=0.0, sizes=())
        tiling = Tiling(AXES, tile, dict(zip(AXES, size, strict=True)))
        run = partial(artifact.run, "enlarge")
        return tiling.run(run, {"lr": lr}, ENLARGE.shapes, batch)["hr"]

    assert with_overlap(6, 1).tobytes() == with_overlap(6, 4).tobytes() == whole.tobytes()
    assert with_overlap(10, 3).tobytes() == whole.tobytes()
    if size != (26, 21):  # whose last tiles are moved back, and overlap by more
        apart = [np.abs(with_overlap(places, 3) - whole).max() for places in (2, 4)]
        assert apart[0] > apart[1] > 0


def test_references_of_tiles_are_replayed_beyond_the_bound_of_each_axis(
    tiled: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tiled.reference_sizes("enlarge")
    for sizes in ({"height": 26, "width": 3}, {"height": 4, "width": 21}):
        assert sizes in found
        inputs, outputs = tiled.references("enlarge", sizes)
        whole = tiled._sessions[tiled.signature("enlarge").graph].run(None, inputs)[0]
        assert np.array_equal(outputs["hr"], whole)
    put = Tiling.assemble

    def shifted(self: Tiling, whole: Any, tiles: Any, shapes: Any, places: Any) -> None:
        put(self, whole, {k: np.roll(v, 1, -1) for k, v in tiles.items()}, shapes, places)

    monkeypatch.setattr(Tiling, "assemble", shifted)
    with pytest.raises(ArtifactError, match="'enlarge', height=26,width=3 is off by"):
        tiled.verify()


@pytest.mark.parametrize("why", GLOBAL)
def test_a_graph_that_sees_everything_has_no_tiles(tmp_path: Path, why: str) -> None:
    path = upscaler(tmp_path / "up.onnx", after_first=GLOBAL[why])
    with pytest.raises(ValueError, match="its outputs see all of height, as far as 24 places"):
        sealed(path, tmp_path / "store", tile=True)


def test_a_manifest_says_nothing_of_tiles_that_nobody_asked_for(tmp_path: Path) -> None:
    uri = sealed(upscaler(tmp_path / "up.onnx", 1), tmp_path / "store").uri
    document = json.loads((Path(uri) / "manifest.json").read_text())
    assert "tile" not in document["signatures"]["enlarge"]


def test_a_graph_of_which_a_place_depends_on_its_row_has_no_tiles(tmp_path: Path) -> None:
    path = upscaler(tmp_path / "up.onnx", after_first=PLACED)
    model = onnx.load(path)
    for name, value in (
        ("zero", np.zeros(1, np.float32)),
        ("hundredth", np.full(1, 0.01, np.float32)),
        ("axis", np.int64(2)),
    ):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    onnx.save(model, path)
    with pytest.raises(ValueError, match=r"depends on where that is, or on the size of the whole"):
        sealed(path, tmp_path / "store", tile=True)


def test_a_bound_below_what_outputs_see_is_named(tmp_path: Path) -> None:
    path = upscaler(tmp_path / "up.onnx", layers=11)
    with pytest.raises(ValueError, match=r"see all of height, .* raise the bound of height"):
        seal(
            path,
            name="up",
            store=tmp_path / "store",
            signatures={
                "enlarge": Signature(
                    graph="up.onnx",
                    inputs=(IMAGE,),
                    outputs=(LARGE,),
                    axes=AXES | {"height": Axis(min=4, max=22, multiple=1, default=8)},
                )
            },
            tile=True,
        )


def test_import_declares_tiles_and_says_what_they_share(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = upscaler(tmp_path / "up.onnx")
    flags = [str(path), "--name", "up", "--out", str(tmp_path / "store"), "--range", "0..1"]
    axes = ["--axis", "height=4..24:2", "width=4..20"]
    assert import_onnx.command([*flags, *axes, "--tile"]) == 0
    said = capsys.readouterr()
    assert "they share 6 of height, 6 of width, and equal the whole" in said.err
    document = json.loads((Path(said.out.strip()) / "manifest.json").read_text())
    assert document["format_version"] == 2
    assert document["signatures"]["transform"]["tile"]["overlap"] == {"height": 6, "width": 6}
    with pytest.raises(ValueError, match="tiles need free axes; give --axis"):
        import_onnx.command([*flags, "--shape", "lr=1x8x8", "--tile"])


class Local(Generator):
    """The generator of test_free_axes without the mean of its style over all places."""

    def forward(self, z: Tensor, style: Tensor) -> Tensor:
        x = torch.relu(self.first(z)) + style[:, :1]
        return torch.tanh(nn.functional.pixel_shuffle(self.last(x), 2))


def drawn_export(module: nn.Module) -> dict[str, Export]:
    axes = {"h": Axis(min=2, max=12, default=4), "w": Axis(min=2, max=9, default=4)}
    signature = Signature(
        graph="sample.onnx",
        inputs=(spec("z", "latent", 4, "h", "w"), spec("style", "latent", 4, "h", "w")),
        outputs=(spec("image", "image", 3, "2*h", "2*w", range=(-1, 1)),),
        axes=axes,
    )
    return {"sample": Export(module=module.eval(), signature=signature, tile=True)}


def test_a_drawn_sample_beyond_the_bounds_continues_the_smaller_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    parts = drawn_export(Local())
    write_graphs(parts, tmp_path)
    seal_graphs({"sample": parts["sample"].signature}, MANIFEST, tmp_path, tiled=["sample"])
    artifact = Artifact.open(tmp_path)
    large = artifact.sample(seed=5, n=2, sizes={"h": 40, "w": 31})["image"]
    assert large.shape == (2, 3, 80, 62)
    alone = artifact.sample(seed=5, first_index=1, sizes={"h": 40, "w": 31})["image"]
    assert alone.tobytes() == large[1:].tobytes()
    small = artifact.sample(seed=5, n=2, sizes={"h": 12, "w": 9})["image"]
    assert np.array_equal(large[..., :20, :14], small[..., :20, :14]), "but for its edge"
    inputs = artifact.draw("sample", 5, [1], sizes={"h": 40, "w": 31})
    whole = artifact._sessions["sample.onnx"].run(None, inputs)[0]
    assert whole.tobytes() == alone.tobytes()


def test_a_module_that_averages_over_all_places_is_refused_at_export(tmp_path: Path) -> None:
    parts = drawn_export(Generator())
    write_graphs(parts, tmp_path)
    with pytest.raises(ValueError, match="signature 'sample' cannot be tiled: its outputs see all"):
        seal_graphs({"sample": parts["sample"].signature}, MANIFEST, tmp_path, tiled=["sample"])


def test_what_gives_no_images_has_no_tiles() -> None:
    sound = spec("sound", "audio", 1, "16*t", range=(-1, 1), sample_rate_hz=8000)
    signature = Signature(
        graph="a.onnx",
        inputs=(spec("mel", "vector", 3, "t"),),
        outputs=(sound,),
        axes={"t": Axis(min=1, max=30, default=8)},
    )
    with pytest.raises(ValueError, match="only images and codes whose height or width is free"):
        proven_tile("speak", signature, lambda feeds: feeds)
