"""Export: every model × preset within the parity budget, and nothing published beyond it."""

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor

from aigc import models
from aigc.artifact import Artifact, Manifest, Signature, Store, TensorSpec, latents, preprocessing
from aigc.artifact.image_files import read_png
from aigc.artifact.manifest import ArtifactError, Training, needed_version
from aigc.commands.export import _with_facts, export, write_artifact
from aigc.data_report import facts
from aigc.model import GenerativeModel
from aigc.models import fc_vae
from aigc.sealing import onnx_export, parity
from aigc.sealing.example_inputs import example
from aigc.sealing.parity import PARITY_MAX_ABS, PARITY_UINT8, budget
from aigc.training.run import Run
from tests.fixtures.make import config, write_run
from tests.small_models import smaller

pytestmark = pytest.mark.process

PRESETS = [f"{name}:{preset}" for name in models.names() for preset in models.load(name).PRESETS]
CLASSES = tuple("0123456789")

Exported = Callable[[str], tuple[Path, Manifest]]


@cache
def built(preset: str) -> GenerativeModel:
    """A model whose weights and running statistics are a function of its architecture."""
    torch.manual_seed(0)
    model = models.build(smaller(models.preset(preset))).eval()
    torch.manual_seed(0)
    for name, buffer in model.averaged().named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return model


def first_of_its_kind(preset: str) -> str:
    """The first preset that exports the same modules with the same weights, bit for bit.

    The presets of a model often differ in nothing but the losses of training; what is exported
    is then one and the same function, and one export of it is proof for all.
    """
    return next(other for other in PRESETS if same(built(other), built(preset)))


def same(a: GenerativeModel, b: GenerativeModel) -> bool:
    ours, theirs = a.exports(), b.exports()
    return ours.keys() == theirs.keys() and all(
        ours[name].signature == theirs[name].signature
        and repr(ours[name].module) == repr(theirs[name].module)
        and identical(ours[name].module.state_dict(), theirs[name].module.state_dict())
        for name in ours
    )


def identical(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def manifest(preset: str) -> Manifest:
    """Manifest as export() fills it before it writes a graph."""
    model, _, name = preset.partition(":")
    return Manifest(
        name="it",
        version="1",
        family=built(preset).family,
        model=model,
        preset=name,
        created="2026-01-01T00:00:00+00:00",
        licence="Apache-2.0",
        signatures={},
        reproducibility={},
        parity={},
        training=Training(config={}, samples=0, data={}, wall_seconds=0, workers=0),
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    @cache
    def folder(preset: str) -> tuple[Path, Manifest]:
        path = tmp_path_factory.mktemp("exported")
        return path, write_artifact(built(preset), CLASSES, manifest(preset), path)

    return lambda preset: folder(first_of_its_kind(preset))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_export_within_the_parity_budget(preset: str, exported: Exported) -> None:
    folder, sealed = exported(preset)
    model = built(preset)
    artifact = Artifact.open(folder)
    assert sealed.signatures.keys() == sealed.parity.keys() == model.exports().keys()
    for name, part in model.exports().items():
        proven = sealed.parity[name]
        most, every = budget(sealed.signatures[name])
        sounds = any(out.kind == "audio" for out in part.signature.outputs)
        assert (most, every) == ((1e-4, 1e-3) if sounds else (1e-5, 1e-5))
        assert proven.max_abs <= every
        assert proven.uint8_mismatch <= PARITY_UINT8 == 1e-4
        assert proven.samples >= (100 if part.signature.step else 1000)
        assert proven.batch_sizes == (1, 2, 3, 7, 64)
        inputs, outputs = artifact.references(name)
        with torch.no_grad():
            found = part.module(*(torch.from_numpy(a) for a in inputs.values()))
        found = found if isinstance(found, tuple) else (found,)
        for expected, tensor in zip(outputs.values(), found, strict=True):
            assert len(expected) == 16
            assert np.abs(tensor.numpy() - expected).max() <= every


@pytest.mark.parametrize("preset", PRESETS)
def test_exported_inputs_carry_preprocessing(preset: str, exported: Exported) -> None:
    for signature in exported(preset)[1].signatures.values():
        for spec in signature.inputs:
            default = preprocessing.default_for(spec.kind, free=spec.is_free)
            assert spec.preprocessing == default
            given = spec.kind in ("image", "audio", "text")
            assert (spec.preprocessing is not msgspec.UNSET) == given
        assert all(spec.preprocessing is msgspec.UNSET for spec in signature.outputs)


@pytest.mark.parametrize("preset", ["dcgan:digits", "conv_vae:digits"])
def test_exported_graph_takes_every_batch_size(preset: str, exported: Exported) -> None:
    artifact = Artifact.open(exported(preset)[0], verify=False)
    for name, signature in artifact.manifest.signatures.items():
        inputs = example(signature, 65)
        whole = artifact.run(name, inputs)
        for n in range(1, 66, 1 if name == "sample" else 16):
            part = artifact.run(name, {key: value[:n] for key, value in inputs.items()})
            for key in whole:
                assert part[key].shape == (n, *whole[key].shape[1:])
                assert np.allclose(part[key], whole[key][:n], atol=1e-5)


@pytest.mark.parametrize("preset", ["dcgan:digits", "fc_vae:digits"])
def test_exported_graph_is_valid_and_holds_the_weights(preset: str, exported: Exported) -> None:
    folder, sealed = exported(preset)
    graphs = {signature.graph for signature in sealed.signatures.values()}
    references = {f"references/{name}.npz" for name in sealed.signatures}
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert found == graphs | references | {"manifest.json", "README.md", "samples.png"}
    for graph in graphs:
        loaded = onnx.load(folder / graph, load_external_data=False)
        onnx.checker.check_model(loaded)
        initial = loaded.graph.initializer
        assert sum(np.prod(t.dims) for t in initial) > 1000
        assert all(t.data_location != TensorProto.EXTERNAL for t in initial)
        for path in (Path.cwd(), Path(torch.__file__).parent):
            assert str(path).encode() not in (folder / graph).read_bytes(), "of this machine"


def test_sample_and_decode_of_a_vae_share_one_graph(exported: Exported) -> None:
    folder, sealed = exported("conv_vae:digits")
    graphs = {name: s.graph for name, s in sealed.signatures.items()}
    assert graphs["sample"] == graphs["decode"]
    assert len(set(graphs.values())) == len(list(folder.glob("*.onnx"))) == 3
    assert [name for name, s in sealed.signatures.items() if s.drawable] == ["sample"]
    artifact = Artifact.open(folder, verify=False)
    z, label = latents.normal(3, range(4), (16,)), latents.labels(3, range(4), 10)
    decoded = artifact.run("decode", {"latent": z, "label": label})["image"]
    assert np.array_equal(artifact.sample(seed=3, n=4)["image"], decoded)
    moments = artifact.run("encode", {"image": decoded, "label": label})
    by_hand = artifact.run("decode", {"latent": moments["mu"], "label": label})["image"]
    again = artifact.run("reconstruct", {"image": decoded, "label": label})
    assert np.allclose(again["reconstruction"], by_hand, atol=1e-5)


def test_the_model_card_shows_a_class_per_column(sealed: Path) -> None:
    artifact = Artifact.open(sealed, verify=False)
    assert artifact.manifest.signatures["sample"].inputs[1].classes == CLASSES
    picture, _ = read_png((sealed / "samples.png").read_bytes())
    assert picture.shape == (8 * 10 - 2, 10 * 10 - 2, 1)
    drawn = example(artifact.signature("sample"), 80)["latent"]
    images = artifact.run("sample", {"latent": drawn, "label": np.arange(80) % 10})
    pixels = artifact.uint8("sample", images)
    assert np.abs(picture[10:18, 20:28].astype(int) - pixels[12]).max() <= 1
    text = (sealed / "README.md").read_text()
    for fact in ("tiny@1", "fc_gan:mlp", "128 samples", "digits", "Apache-2.0", "Not evaluated"):
        assert fact in text


@pytest.mark.parametrize("level", ["kept", ""])
def test_inputs_are_as_loud_as_the_sounds_of_training(level: str) -> None:
    part = built("audio_vae:spoken_digits").exports()["encode"]
    data = {"sample_rate_hz": 8000} | ({"level": level} if level else {})
    signature = _with_facts(part.signature, (), (), data)
    [reading] = [spec.preprocessing for spec in signature.inputs if spec.kind == "audio"]
    assert reading == (preprocessing.AUDIO_KEPT if level else preprocessing.AUDIO)
    made = replace(manifest("audio_vae:spoken_digits"), signatures={"encode": signature})
    assert needed_version(made) == (2 if level else 1)


def test_vectors_are_exported_without_a_picture(tmp_path: Path) -> None:
    preset = "fc_gan:ring"
    model = copy.deepcopy(built(preset)).train()
    write_artifact(model, (), manifest(preset), tmp_path)
    assert Artifact.open(tmp_path).sample(seed=0, n=3)["vector"].shape == (3, 2)
    assert not (tmp_path / "samples.png").exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("run") / "run", config())


@pytest.fixture(scope="module")
def graph(run: Run, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The run's generator as ONNX, for tests of what is done with it."""
    path = tmp_path_factory.mktemp("graph") / "generator.onnx"
    onnx_export.to_onnx(run.load_state().ema_model().exports()["sample"], path)
    return path.read_bytes()


Replace = Callable[[bytes], None]


@pytest.fixture
def to_onnx_gives(monkeypatch: pytest.MonkeyPatch) -> Replace:
    """Put a graph in the place of what torch would make, which takes it a second."""

    def replace(graph: bytes) -> None:
        monkeypatch.setattr(onnx_export, "to_onnx", lambda part, path: path.write_bytes(graph))

    return replace


def test_export_takes_the_averaged_weights(
    run: Run, graph: bytes, to_onnx_gives: Replace, tmp_path: Path
) -> None:
    to_onnx_gives(graph)
    artifact = Artifact.open(export(run, name="it", store=Store(tmp_path)))
    z, label = latents.normal(0, range(8), (4,)), latents.labels(0, range(8), 10)
    found = artifact.run("sample", {"latent": z, "label": label})["image"]
    state = run.load_state()

    def of(generator: torch.nn.Module) -> np.ndarray:
        with torch.no_grad():
            return generator.eval()(torch.from_numpy(z), torch.from_numpy(label)).numpy()

    assert np.abs(of(state.ema) - found).max() <= PARITY_MAX_ABS
    assert np.abs(of(state.model.generator) - found).max() > 10 * PARITY_MAX_ABS


def test_manifest_holds_the_training_facts(
    run: Run, graph: bytes, to_onnx_gives: Replace, tmp_path: Path
) -> None:
    to_onnx_gives(graph)
    uri = export(run, name="it", store=Store(tmp_path), licence="MIT")
    made = Artifact.open(uri, verify=False).manifest
    assert (made.name, made.version, made.family) == ("it", "1", "gan")
    assert (made.model, made.preset, made.licence) == ("fc_gan", "mlp", "MIT")
    assert made.training.samples == 128
    assert made.training.config == json.loads(json.dumps(config().to_json()))
    assert made.training.data == run.facts()["data"] | facts.read_facts(run.folder)
    assert "MIT" in (Path(uri) / "README.md").read_text()


def test_export_counts_versions_up_and_refuses_a_taken_one(
    run: Run, graph: bytes, to_onnx_gives: Replace, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    to_onnx_gives(graph)
    assert export(run, name="it", store=store).endswith("/it/1")
    assert export(run, name="it", store=store).endswith("/it/2")
    to_onnx_gives(b"any work would fail")
    with pytest.raises(ArtifactError, match=r"it@1 exists already .* next free one is 3"):
        export(run, name="it", version="1", store=store)
    with pytest.raises(ArtifactError, match="artifact name must be"):
        export(run, name="It!", store=store)
    with pytest.raises(ArtifactError, match="version must be whole numbers"):
        export(run, name="it", version="newest", store=store)


def test_export_refuses_a_run_without_a_checkpoint(tmp_path: Path, run: Run) -> None:
    with pytest.raises(ValueError, match=r"is not a run: it has no config.json"):
        export(Run(tmp_path / "none"), name="it", store=Store(tmp_path))
    shutil.copytree(run.folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(ValueError, match=r"has no whole checkpoint yet; train it first"):
        export(Run(tmp_path / "run"), name="it", store=Store(tmp_path))


def shifted(graph: bytes, by: float) -> bytes:
    """The graph with a constant added to its output."""
    loaded = onnx.load_from_string(graph)
    output = loaded.graph.output[0].name
    for node in loaded.graph.node:
        for i, name in enumerate(node.output):
            if name == output:
                node.output[i] = "before"
    loaded.graph.initializer.append(onnx.numpy_helper.from_array(np.float32([by]), "by"))
    loaded.graph.node.append(onnx.helper.make_node("Add", ["before", "by"], [output]))
    return bytes(loaded.SerializeToString())


@pytest.mark.parametrize("by", [0.0, 5e-6, 1.2e-5, 1.0, float("nan")])
def test_export_beyond_the_parity_budget_publishes_nothing(
    by: float,
    run: Run,
    graph: bytes,
    to_onnx_gives: Replace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    to_onnx_gives(shifted(graph, by))
    monkeypatch.setattr(parity, "PARITY_UINT8", 1.0)  # the other budget, tested below
    store = Store(tmp_path)
    if by <= PARITY_MAX_ABS:
        export(run, name="it", store=store)
        assert store.versions("it") == ["1"]
        return
    with pytest.raises(ValueError, match=r"'sample' is not exported faithfully: max .* is"):
        export(run, name="it", store=store)
    assert store.names() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rows", "off", "says"),
    [
        (1, 9e-4, ""),
        (1, 1.1e-3, r"is 0\.0011 \(allowed 1e-03\)"),
        (20, 9e-5, ""),
        (20, 2e-4, r"of 99 rows in a hundred 0\.0002 \(allowed 1e-04\)"),
    ],
)
def test_parity_of_sounds_allows_few_outliers(rows: int, off: float, says: str) -> None:
    audio = TensorSpec(name="audio", kind="audio", dtype="float32", shape=(1, 8), range=(-1, 1))
    which = TensorSpec(name="latent", kind="latent", dtype="float32", shape=(1,))
    signature = Signature(graph="generator.onnx", inputs=(which,), outputs=(audio,))

    def run(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"audio": np.where(feeds["latent"] < rows, np.float32(off), np.float32(0))[:, None]}

    inputs = {"latent": np.arange(1000, dtype=np.float32)[:, None]}
    expected = {"audio": np.zeros((1000, 1, 1), np.float32)}
    if says:
        with pytest.raises(ValueError, match=says):
            parity.prove_parity("sample", signature, run, inputs, expected)
        return
    proven = parity.prove_parity("sample", signature, run, inputs, expected)
    assert proven.max_abs == pytest.approx(off)


def test_parity_refuses_differing_pixels(
    run: Run,
    graph: bytes,
    to_onnx_gives: Replace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    to_onnx_gives(shifted(graph, 0.001))
    monkeypatch.setattr(parity, "PARITY_MAX_ABS", 0.01)
    with pytest.raises(ValueError, match=r"share of differing pixels 0\.\d+ \(allowed 1e-04\)"):
        export(run, name="it", store=Store(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("differing", "faithful"), [(0, True), (5, True), (6, False)])
def test_few_pixels_of_a_small_size_may_differ(differing: int, faithful: bool) -> None:
    image = TensorSpec(name="x", kind="image", dtype="float32", shape=(3, 8, 8), range=(-1.0, 1.0))
    signature = Signature(graph="g", inputs=(replace(image, name="z"),), outputs=(image,))
    boundary = np.float32((128.5 / 127.5) - 1)  # of the levels 128 and 129
    made = np.full((16, 3, 8, 8), boundary - np.float32(1e-6), np.float32)
    other = made.copy()
    other.ravel()[:differing] += np.float32(2e-6)

    def run(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"x": other[feeds["z"][:, 0, 0, 0].astype(int)]}

    rows = np.arange(16, dtype=np.float32)[:, None, None, None] * np.ones((1, 3, 8, 8), np.float32)
    if faithful:
        proven = parity.prove_parity("it", signature, run, {"z": rows}, {"x": made})
        assert proven.uint8_mismatch == differing / parity.FEW_PIXELS
        return
    with pytest.raises(ValueError, match=r"share of differing pixels 0\.00012 \(allowed 1e-04\)"):
        parity.prove_parity("it", signature, run, {"z": rows}, {"x": made})


def test_export_refuses_nan_weights(
    run: Run, graph: bytes, to_onnx_gives: Replace, tmp_path: Path
) -> None:
    """Torch and graph agree on NaN, which is no agreement."""
    model = run.load_state().ema_model()
    model.generator.layers[-1].bias.data[0] = float("nan")
    to_onnx_gives(shifted(graph, float("nan")))
    with pytest.raises(ValueError, match=r"not exported faithfully: max .* is inf"):
        write_artifact(model, CLASSES, manifest("fc_gan:mlp"), tmp_path)


def wrong_at_batch(graph: bytes, size: int) -> bytes:
    """The graph with 0.001 added to its output in batches of exactly this size."""
    loaded = onnx.load_from_string(shifted(graph, 0.001))
    add = loaded.graph.node[-1]
    first, like = loaded.graph.input[0].name, onnx.numpy_helper.from_array
    loaded.graph.initializer.extend([like(np.int64([0]), "zero"), like(np.int64([size]), "size")])
    nodes = [
        onnx.helper.make_node("Shape", [first], ["shape"]),
        onnx.helper.make_node("Gather", ["shape", "zero"], ["rows"]),
        onnx.helper.make_node("Equal", ["rows", "size"], ["hit"]),
        onnx.helper.make_node("Cast", ["hit"], ["factor"], to=TensorProto.FLOAT),
        onnx.helper.make_node("Mul", ["by", "factor"], ["error"]),
        onnx.helper.make_node("Add", ["before", "error"], list(add.output)),
    ]
    del loaded.graph.node[-1]
    loaded.graph.node.extend(nodes)
    return bytes(loaded.SerializeToString())


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_parity_refuses_an_error_at_one_batch_size(
    size: int, run: Run, graph: bytes, to_onnx_gives: Replace, tmp_path: Path
) -> None:
    to_onnx_gives(wrong_at_batch(graph, size))
    with pytest.raises(ValueError, match=r"'sample' is not exported faithfully"):
        export(run, name="it", store=Store(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_parity_refuses_a_module_that_depends_on_its_batch(tmp_path: Path) -> None:
    """A batch statistic in eval mode: torch and graph agree, but not over batch sizes."""
    torch.manual_seed(0)
    model = fc_vae.Model(fc_vae.Config(shape=(1, 4, 4), latent=2, widths=(8,))).eval()
    plain = copy.deepcopy(model)

    def decode(z: Tensor, label: Tensor | None = None) -> Tensor:
        image = fc_vae.Model.decode(plain, z, label)
        return image - image.mean(0) * 0.1

    model.decode = decode  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"'sample' is not exported faithfully"):
        write_artifact(model, (), manifest("fc_vae:digits"), tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_export_measures_reproducibility(sealed: Path, exported: Exported) -> None:
    for folder in (sealed, exported("dcgan:digits")[0]):
        artifact = Artifact.open(folder, verify=False)
        stated = artifact.manifest.reproducibility["sample"]
        assert (stated.max_abs == 0) == (stated.level == "bit")
        images = artifact.sample(seed=0, n=64)["image"]
        alone = np.concatenate([artifact.sample(seed=0, first_index=i)["image"] for i in range(64)])
        if stated.level == "bit":
            assert np.array_equal(images, alone)
        assert np.abs(images - alone).max() <= 2 * stated.max_abs


def test_parity_of_unbounded_values_is_relative() -> None:
    """Twenty and a bit is as close to twenty as a float32 knows; of a pixel it would not be."""
    rounding = 8 * 2.0**-23
    a, b = np.float32([[20], [-1]]), np.float32([[20.0002], [-1]])
    free = TensorSpec(name="x", kind="vector", dtype="float32", shape=(1,))
    bound = TensorSpec(name="x", kind="vector", dtype="float32", shape=(1,), range=(-1, 1))
    expected = (0.0002 - rounding * 20) / 21
    assert parity.row_errors(a, b, free).max() == pytest.approx(expected, rel=0.01)
    assert parity.row_errors(a, b, bound).max() == pytest.approx(0.0002, rel=0.01)
    # A small value beside large ones is rounded as they are; no other row's matter, nor more.
    a, b = (np.array([[0, 20, -300], [0, 0, 0]], np.float32) for _ in range(2))
    b[:, 0] = 0.00025
    assert parity.row_errors(a, b, free) == pytest.approx([0, 0.00025])
    b[:, 0] = 0.001
    assert parity.row_errors(a, b, free) == pytest.approx([0.001 - rounding * 300, 0.001], rel=1e-3)
    b[0, 1] = np.nan
    assert parity.row_errors(a, b, free)[0] == np.inf


def test_parity_compares_every_batch_size_over_all_samples() -> None:
    """Batches below the largest take rows in turn, of few samples the first of them."""
    signature = Signature(
        graph="g.onnx",
        inputs=(TensorSpec(name="z", kind="latent", dtype="float32", shape=(1,)),),
        outputs=(TensorSpec(name="x", kind="vector", dtype="float32", shape=(1,)),),
    )
    calls: list[NDArray[np.float32]] = []

    def run(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        calls.append(feeds["z"][:, 0])
        return {"x": feeds["z"] + wrong * ((len(feeds["z"]) == 7) & (feeds["z"] % 8 == 3))}

    def prove(samples: int) -> list[list[int]]:
        """Sizes of the batches, and their rows."""
        calls.clear()
        z = np.arange(samples, dtype=np.float32)[:, None]
        assert parity.prove_parity("it", signature, run, {"z": z}, {"x": z}).samples == samples
        return [[len(rows) for rows in calls], [int(row) for rows in calls for row in rows]]

    wrong = 0.0
    sizes, rows = prove(1024)
    assert sizes == [1] * 128 + [2] * 64 + [3] * 42 + [2] + [7] * 18 + [2] + [64] * 16
    assert rows == [*(i for k in range(4) for i in range(k, 1024, 8)), *range(1024)]
    sizes, rows = prove(16)
    assert sizes == [1] * 3 + [2, 2, 1, 3, 3, 1, 7, 7, 1, 16]
    assert rows == [*range(3), *range(5), *range(7), *range(15), *range(16)]
    wrong = 0.1
    with pytest.raises(ValueError, match="not exported faithfully"):
        prove(1024)
