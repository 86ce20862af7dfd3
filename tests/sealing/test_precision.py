"""Reduced precision: smaller graphs, equal over batches, whose cost the manifest states."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from aigc.artifact import Artifact, Signature, Store, TensorSpec, image_files, manifest
from aigc.artifact.precision import Calibration, Precision, ReducedPrecision
from aigc.commands import sample, verify
from aigc.commands.evaluate import command as evaluate_command
from aigc.commands.evaluate import evaluate, open_float32
from aigc.commands.export import export
from aigc.commands.import_onnx import command
from aigc.sealing import reduced_graph, seal
from aigc.sealing.artifact_folder import seal_graphs
from aigc.sealing.example_inputs import example
from aigc.sealing.precision import Reduction
from aigc.training.run import Run
from tests.channels import OfChannels
from tests.fixtures.make import RUN, write_run
from tests.sealing.foreign import node, write
from tests.training.small_runs import small

pytestmark = pytest.mark.process

REDUCED: list[ReducedPrecision] = ["float16", "int8", "int8-conv"]


class Restorer(nn.Module):
    """(N, 3, 8, 8) images in [-1, 1], through a convolution, GroupNorm and SiLU, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 24, 3, padding=1), nn.GroupNorm(4, 24), nn.SiLU()),
            *(nn.Conv2d(24, 24, 3, padding=1), nn.SiLU(), nn.Conv2d(24, 3, 3, padding=1)),
            nn.Tanh(),
        )

    def forward(self, image: Tensor) -> Tensor:
        restored: Tensor = self.layers(image)
        return restored


IMAGE = Signature(
    graph="",
    inputs=(
        TensorSpec(name="image", kind="image", dtype="float32", shape=(3, 8, 8), range=(-1, 1)),
    ),
    outputs=(
        TensorSpec(name="clean", kind="image", dtype="float32", shape=(3, 8, 8), range=(-1, 1)),
    ),
)


REAL = {"image": (example(IMAGE, 80)["image"] / 4).clip(-0.2, 0.2).astype(np.float32)}
"""Faint images, as real inputs."""


@pytest.fixture(scope="module")
def restorer(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Artifact]:
    """Artifacts of one module, by precision; those of int8 are made of its float32 graph."""
    store = tmp_path_factory.mktemp("precision")
    torch.manual_seed(0)
    module = Restorer()
    made: dict[str, Artifact] = {}

    def of(precision: Any) -> Artifact:
        if precision not in made:
            uri = seal(
                Path(of("float32").uri) / "run.onnx" if "int8" in precision else module,
                name=f"restorer-{precision}",
                signatures={"run": IMAGE},
                store=store,
                precision=precision,
                calibration=REAL if precision == "int8-conv" else None,
            )
            made[precision] = Artifact.open(uri)  # replays the references
        return made[precision]

    return of


@pytest.mark.parametrize("precision", REDUCED)
def test_rows_are_equal_alone_and_in_a_batch(
    precision: ReducedPrecision, restorer: Callable[[str], Artifact]
) -> None:
    artifact = restorer(precision)
    images = example(IMAGE, 7)["image"]
    whole = artifact.run("run", {"image": images})["clean"]
    alone = [artifact.run("run", {"image": images[i : i + 1]})["clean"] for i in range(7)]
    assert whole.tobytes() == np.concatenate(alone).tobytes()
    assert artifact.manifest.reproducibility["run"].level == "bit"


@pytest.mark.parametrize("precision", REDUCED)
def test_manifest_states_what_precision_costs(
    precision: ReducedPrecision, restorer: Callable[[str], Artifact]
) -> None:
    full, artifact = restorer("float32"), restorer(precision)
    stated = artifact.manifest.precision
    assert isinstance(stated, Precision)
    assert (stated.name, stated.float32_metrics) == (precision, msgspec.UNSET)
    inputs = REAL if precision == "int8-conv" else example(IMAGE, stated.loss["run"].samples)
    images = inputs["image"][: stated.loss["run"].samples]
    a, b = (one.run("run", {"image": images})["clean"] for one in (full, artifact))
    assert stated.loss["run"].max_abs == pytest.approx(np.abs(a - b).max(), abs=2e-5)
    x, y = (one.uint8("run", {"clean": each}) for one, each in ((full, a), (artifact, b)))
    assert stated.loss["run"].uint8_max == np.abs(x.astype(int) - y).max()
    assert stated.loss["run"].uint8_mismatch == pytest.approx((x != y).mean(), abs=1e-3)
    assert 0 < stated.loss["run"].mean_loss < 0.02
    if precision == "float16":  # the float32 graph is proven as ever
        assert artifact.manifest.parity == full.manifest.parity


def test_files_are_smaller_and_float32_says_nothing_of_precision(
    restorer: Callable[[str], Artifact],
) -> None:
    def weights(precision: str) -> int:
        graph = onnx.load(Path(restorer(precision).uri) / "run.onnx").graph
        return sum(onnx.numpy_helper.to_array(one).nbytes for one in graph.initializer)

    full = weights("float32")
    assert weights("float16") == pytest.approx(full / 2, rel=0.02)
    assert weights("int8") < 0.35 * full  # a scale for each channel of small layers
    folder = Path(restorer("float32").uri)
    assert "precision" not in json.loads((folder / "manifest.json").read_text())
    assert "## Precision" not in (folder / "README.md").read_text()
    assert "reduced to `int8`" in (Path(restorer("int8").uri) / "README.md").read_text()


def test_onnx_files_are_reduced_against_their_own_graph(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weight = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)
    file = write(
        tmp_path / "net.onnx",
        [("x", "float32", ["N", 32])],
        [("y", "float32", ["N", 32])],
        [node("MatMul", "x w", "y")],
        {"w": weight},
    )
    store = ["--out", str(tmp_path / "store")]
    assert command([str(file), "--name", "net", "--precision", "int8", *store]) == 0
    artifact = Artifact.open(capsys.readouterr().out.strip())
    assert isinstance(artifact.manifest.precision, Precision)
    assert artifact.manifest.parity == {}
    x = np.eye(32, dtype=np.float32)
    step = np.abs(weight).max(0) / 127  # of each column, the channel of an output
    error = np.abs(artifact.run("run", {"x": x})["y"] - weight)
    assert (error <= step / 2 + 1e-6).all()


def resealed(origin: Path, folder: Path, precision: ReducedPrecision) -> Artifact:
    """An artifact's graphs in another precision."""
    facts = Artifact.open(origin, verify=False).manifest
    for graph in {signature.graph for signature in facts.signatures.values()}:
        shutil.copy(origin / graph, folder)
    reduction = Reduction(precision)
    seal_graphs(facts.signatures, facts, folder, rows=16, reduction=reduction)
    return Artifact.open(folder)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_file_of_reduced_precision_is_verified_on_another_machine(
    elsewhere: bool, tmp_path: Path, sealed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another machine: its numbers differ from the references, and from the file, in places."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    artifact = resealed(sealed, folder, "float16")
    if elsewhere:
        references = dict(np.load(folder / "references" / "sample.npz"))
        references["out/image"] = (references["out/image"] + 2e-4).clip(-1, 1)
        np.savez(folder / "references" / "sample.npz", **references)
        artifact.manifest = manifest.seal(folder, artifact.manifest)
    assert sample.command([str(folder), "-n", "1", "--seed", "7", "--out", str(tmp_path)]) == 0
    file = tmp_path / "tiny-1-seed7-0.png"
    found, provenance = image_files.read_png(file.read_bytes())
    pixels = found.copy()
    pixels[0, 0] += 1 if pixels[0, 0] < 255 else -1
    file.write_bytes(image_files.png(pixels, provenance))
    if elsewhere:
        assert verify.command([str(file), "--artifact", str(folder)]) == 0
        assert "every pixel is within 1 of 255 levels" in capsys.readouterr().err
    else:
        with pytest.raises(ValueError, match="a pixel differs by 1 of 255 levels"):
            verify.command([str(file), "--artifact", str(folder)])


def test_seed_gives_texts_in_reduced_precision(tmp_path: Path, written: Path) -> None:
    artifact = resealed(written, tmp_path, "int8")
    assert isinstance(artifact.manifest.precision, Precision)
    assert artifact.manifest.precision.loss.keys() == artifact.manifest.signatures.keys()
    texts = artifact.sample(seed=0, n=4)["text"]
    assert (texts == artifact.sample(seed=0, n=4, batch=1)["text"]).all()


def test_free_axes_stay_free_in_reduced_precision(tmp_path: Path, free: Path) -> None:
    origin = Artifact.open(free, verify=False)
    artifact = resealed(free, tmp_path, "float16")
    for name, signature in origin.manifest.signatures.items():
        inputs = example(signature, 2, signature.smallest)
        expected, found = origin.run(name, inputs), artifact.run(name, inputs)
        for key, value in expected.items():
            assert found[key].shape == value.shape
            assert np.abs(found[key] - value).max() < 0.02


def test_graphs_that_cannot_be_reduced_are_refused(tmp_path: Path, sealed: Path) -> None:
    with pytest.raises(ValueError, match="no graph has a Conv to quantise; take --precision int8"):
        resealed(sealed, tmp_path, "int8-conv")
    graph = Artifact.open(sealed, verify=False).signature("sample").graph
    reduced = reduced_graph.reduce_graph((sealed / graph).read_bytes(), "float16", [])
    with pytest.raises(ValueError, match="are of reduced precision already; leave out"):
        reduced_graph.reduce_graph(reduced, "int8", [])


def test_precision_that_makes_another_model_is_refused_and_not_published(tmp_path: Path) -> None:
    # A weight beyond the range of float16.
    file = write(
        tmp_path / "huge.onnx",
        [("x", "float32", ["N", 4])],
        [("y", "float32", ["N", 4])],
        [node("Mul", "x big", "large"), node("Mul", "large small", "y")],
        {"big": np.full(4, 1e6, np.float32), "small": np.full(4, 1e-6, np.float32)},
    )
    store = tmp_path / "store"
    with pytest.raises(ValueError, match=r"'y' of signature 'run' is .* from float32 on average"):
        seal(file, name="huge", store=store, precision="float16")
    assert not [*store.rglob("manifest.json")]


def test_quality_is_stated_beside_float32_or_refused(
    tmp_path: Path, session_cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, store = Run.open(str(RUN)), Store(tmp_path)
    with pytest.raises(ValueError, match="max_quality_loss has no effect on float32"):
        export(run, name="full", store=store, max_quality_loss=0.05)
    full = Artifact.open(export(run, name="full", store=store), verify=False)
    uri = export(run, name="half", store=store, precision="float16", max_quality_loss=0.05)
    half = Artifact.open(uri, verify=False)
    for artifact, stated in ((half, half.manifest.metrics), (full, float32_metrics(half))):
        found = {metric.name: round(metric.value, 6) for metric in evaluate(artifact)}
        assert found == {name: stated[name] for name in found}
    name = "frechet/cnn64"
    row = (half.manifest.metrics[name], float32_metrics(half)[name])
    row += (half.manifest.metrics[f"{name}/real"],)
    cells = " | ".join(f"{value:.4g}" for value in row)
    assert f"| {name} | {cells} |" in (Path(uri) / "README.md").read_text()
    quantise = reduced_graph._quantise

    def worse(graph: Any, weight: Any, axis: int) -> Any:
        """Quantised weights that are smaller by a fifth."""
        values = onnx.numpy_helper.to_array(weight)
        weight.CopyFrom(onnx.numpy_helper.from_array(values * 0.8, weight.name))
        return quantise(graph, weight, axis)

    monkeypatch.setattr(reduced_graph, "MIN_VALUES", 8)
    monkeypatch.setattr(reduced_graph, "_quantise", worse)
    with pytest.raises(ValueError, match=r"/cnn64 is .*, in float32 .*: worse by .* \(allowed 0"):
        export(run, name="coarse", store=store, precision="int8", max_quality_loss=0.0)
    assert not (tmp_path / "coarse").exists()


def float32_metrics(artifact: Artifact) -> dict[str, float]:
    precision = artifact.manifest.precision
    assert isinstance(precision, Precision)
    assert not isinstance(precision.float32_metrics, msgspec.UnsetType)
    return precision.float32_metrics


def test_evaluate_compares_an_artifact_with_itself_in_float32(
    tmp_path: Path, sealed: Path, session_cache: None, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = resealed(sealed, tmp_path, "float16")
    uri = str(artifact.uri)
    assert evaluate_command([uri, "--float32", str(sealed), "-n", "100", "--write"]) == 0
    head, judge, *_ = capsys.readouterr().err.splitlines()[1:]
    assert head.split() == [
        "tiny@1",
        "value",
        "95",
        "%",
        "float32",
        "loss",
        "real",
        "vs",
        "real",
        "better",
    ]
    assert judge.split()[3] == "0.0%"  # real data alone, which are the same
    again = Artifact.open(uri)
    assert float32_metrics(again).keys() <= again.manifest.metrics.keys()
    with pytest.raises(ValueError, match=r"tiny@1 is of float32; leave out --float32"):
        evaluate_command([str(sealed), "--float32", uri])


def test_evaluate_refuses_other_weights_as_the_same_in_float32(
    tmp_path: Path, sealed: Path, of_channels: OfChannels
) -> None:
    artifact = resealed(sealed, tmp_path, "float16")
    assert open_float32(artifact, str(sealed)).uri == str(sealed)
    for other in (of_channels(1), tmp_path):
        with pytest.raises(ValueError, match="is not tiny@1 in float32: its graphs are others"):
            open_float32(artifact, str(other))


def test_int8_conv_takes_ranges_from_real_inputs(restorer: Callable[[str], Artifact]) -> None:
    artifact = restorer("int8-conv")
    stated = artifact.manifest.precision
    assert isinstance(stated, Precision)
    assert stated.calibration == {
        "run.onnx": Calibration(signature="run", rows=64, inputs={"image": "recorded"})
    }
    graph = onnx.load(Path(artifact.uri) / "run.onnx").graph
    (quantised,) = (node for node in graph.node if node.input[0] == "image")
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    assert constants[quantised.input[1]] == pytest.approx(0.4 / 255, rel=0.01)  # -0.2 to 0.2


@pytest.mark.parametrize(
    ("calibration", "precision", "says"),
    [
        (None, "int8-conv", "there are none of image of signature 'run'; give some"),
        (REAL, "float16", "calibration is for int8-conv and has no effect on float16"),
        ({"x": REAL["image"]}, "int8-conv", "calibration is of x, inputs are image; name its"),
        ({"image": REAL["image"][:0]}, "int8-conv", "at least 1, got {'image': 0}"),
        ({"image": REAL["image"][..., :4]}, "int8-conv", r"must be float32 of \(N, 3, 8, 8\), got"),
        ({"image": REAL["image"] + 2}, "int8-conv", r"must be in \[-1, 1\], got \[1\.8, 2\.2\]"),
    ],
)
def test_int8_conv_refuses_inputs_that_are_not_real(
    calibration: Any, precision: Any, says: str, restorer: Callable[[str], Artifact], tmp_path: Path
) -> None:
    graph = Path(restorer("float32").uri) / "run.onnx"
    with pytest.raises(ValueError, match=says):
        seal(
            graph,
            name="it",
            signatures={"run": IMAGE},
            store=tmp_path,
            precision=precision,
            calibration=calibration,
        )


def test_import_takes_real_inputs_from_an_npz_file(
    restorer: Callable[[str], Artifact], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = str(Path(restorer("float32").uri) / "run.onnx")
    options = ["--name", "it", "--out", str(tmp_path), "--range", "-1..1"]
    options += ["--precision", "int8-conv", "--calibration"]
    with pytest.raises(ValueError, match=r"--calibration .*run\.onnx must be an \.npz file"):
        command([graph, *options, graph])
    np.savez(tmp_path / "real.npz", **REAL)
    assert command([graph, *options, str(tmp_path / "real.npz")]) == 0
    stated = Artifact.open(capsys.readouterr().out.strip(), verify=False).manifest.precision
    assert isinstance(stated, Precision)
    assert isinstance(stated.calibration, dict)
    assert stated.calibration["transform.onnx"].inputs == {"image": "recorded"}


def test_int8_conv_of_a_run_is_calibrated_on_its_data(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", small("conv_vae:digits", samples=32))
    store = Store(tmp_path / "store")
    uri = export(run, name="vae", store=store, precision="int8-conv")
    stated = Artifact.open(uri).manifest.precision
    assert isinstance(stated, Precision)
    assert not isinstance(stated.calibration, msgspec.UnsetType)
    calibrated = {file: one.inputs for file, one in stated.calibration.items()}
    both = {"image": "data", "label": "data"}
    assert calibrated == {"encoder.onnx": both, "autoencoder.onnx": both}
