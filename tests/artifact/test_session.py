"""Opening an artifact: what was altered is refused, what it gives is reproducible."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from aigc.artifact import Artifact, ArtifactError, latents
from aigc.artifact.comparison import REPLAY_TOLERANCE, compare
from aigc.artifact.manifest import digest, parse, seal


@pytest.fixture
def copy(sealed: Path, tmp_path: Path) -> Path:
    """An artifact that may be altered."""
    return Path(shutil.copytree(sealed, tmp_path / "copy"))


@pytest.fixture(scope="module")
def artifact(sealed: Path) -> Artifact:
    return Artifact.open(sealed)


def refused(folder: Path, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        Artifact.open(folder)


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_copy_opens_and_reproduces_its_references(copy: Path) -> None:
    opened = Artifact.open(copy)
    assert opened.id == "tiny@1"
    assert opened.reproducibility["sample"].max_abs <= REPLAY_TOLERANCE


@pytest.mark.parametrize(
    "name", ["generator.onnx", "references/sample.npz", "README.md", "samples.png"]
)
def test_open_refuses_a_flipped_bit_in_any_file(copy: Path, name: str) -> None:
    size = (copy / name).stat().st_size
    for offset in (0, size // 2, size - 1):
        flip(copy / name, offset)
        refused(copy, f"'{name}' was altered")
        flip(copy / name, offset)
    Artifact.open(copy)


def edit(folder: Path, change: Callable[[dict[str, Any]], object], *, sign: bool = True) -> None:
    """Change the manifest; its digest follows as somebody would make it who wants to go unseen."""
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    change(document)
    if sign:
        document["digest"] = digest(document)
    path.write_text(json.dumps(document))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


SECRET = {"sha256": "0" * 64, "bytes": 6}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        *(
            (lambda copy, name=name: (copy / name).unlink(), f"'{name}' of the manifest is missing")
            for name in ("generator.onnx", "references/sample.npz", "README.md")
        ),
        (lambda copy: truncate(copy / "generator.onnx"), "'generator.onnx' was altered"),
        (lambda copy: replace_by_folder(copy / "README.md"), "'README.md'"),
        (
            lambda copy: edit(
                copy,
                lambda d: d["signatures"]["sample"]["outputs"][0].update(range=[0.0, 1.0]),
                sign=False,
            ),
            "its digest does not match",
        ),
        (
            lambda copy: edit(copy, lambda d: d.update(format_version=3)),
            "format_version 3 is unknown, this version reads 1 and 2; upgrade aigc",
        ),
        (lambda copy: truncate(copy / "manifest.json"), "truncated or not JSON"),
        (
            lambda copy: edit(copy, lambda d: d["files"].update({"../secret": SECRET})),
            r"'\.\./secret' of the manifest lies outside the artifact",
        ),
        (
            lambda copy: (copy / "manifest.json").unlink(),
            "no artifact 'copy'|holds no manifest.json",
        ),
    ],
)
def test_open_refuses_a_damaged_folder(
    copy: Path, damage: Callable[[Path], object], message: str
) -> None:
    (copy.parent / "secret").write_text("secret")
    damage(copy)
    refused(copy, message)


def reseal(folder: Path) -> None:
    """Hash everything again, as somebody would who wants to go unseen."""
    seal(folder, parse((folder / "manifest.json").read_bytes()))


def rewrite(folder: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Alter the references and seal the artifact again."""
    path = folder / "references" / "sample.npz"
    with np.load(path) as stored:
        arrays = {name: stored[name].copy() for name in stored.files}
    change(arrays)
    np.savez(path, **arrays)
    reseal(folder)


def test_replay_detects_altered_references_under_a_valid_seal(copy: Path) -> None:
    def nudge(arrays: dict[str, np.ndarray]) -> None:
        arrays["out/image"][3, 0, 2, 2] += 0.001

    rewrite(copy, nudge)
    Artifact.open(copy, verify=False)
    refused(copy, r"does not reproduce its references .*'sample' is off by .* allowed is 1e-04")


def test_reference_off_by_a_rounding_is_within_tolerance(copy: Path) -> None:
    def nudge(arrays: dict[str, np.ndarray]) -> None:
        arrays["out/image"][3, 0, 2, 2] += 1e-5

    rewrite(copy, nudge)
    measured = Artifact.open(copy).reproducibility["sample"]
    assert measured.level in ("uint8", "tolerance")
    assert 0 < measured.max_abs <= 1.1e-5


@pytest.mark.process
@pytest.mark.parametrize("off", [5e-4, 5e-3])
def test_sounds_have_a_wider_tolerance_than_images(
    off: float, joined: Path, tmp_path: Path
) -> None:
    """Few sounds are off by more than most, for finding phases multiplies what rounding does."""
    folder = Path(shutil.copytree(joined, tmp_path / "copy"))

    def nudge(arrays: dict[str, np.ndarray]) -> None:
        arrays["out/audio"][3, 0, 100] += off

    rewrite(folder, nudge)
    if off > 1e-3:
        refused(folder, r"'sample' is off by 0.00.* allowed is 1e-03")
        return
    measured = Artifact.open(folder).reproducibility["sample"]
    assert measured.level == "tolerance"
    assert measured.max_abs > 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("out/image"), "references"),
        (lambda a: a.pop("in/latent"), "references"),
        (lambda a: a.clear(), "references"),
        (lambda a: a.update({"out/image": a["out/image"][:3]}), r"references .*\[3, 16\] rows"),
        (lambda a: a.update({"in/latent": a["in/latent"][:, :1]}), "references"),
        (lambda a: a.update({"in/label": a["in/label"] + 10}), "references"),
        (lambda a: a["out/image"].fill(np.nan), "off by inf"),
        (lambda a: a.update({"in/latent": a["in/latent"].astype(str)}), "references"),
    ],
)
def test_references_that_do_not_fit_the_signature_are_refused(
    copy: Path, change: Callable[[dict[str, np.ndarray]], object], message: str
) -> None:
    rewrite(copy, change)
    refused(copy, message)


def pickled(path: Path) -> None:
    np.savez(path, **{"in/latent": np.array([print], object)})


def fix_batch(path: Path) -> None:
    graph = onnx.load(path)
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(graph, path)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        *(
            ("references/sample.npz", lambda path, data=data: path.write_bytes(data), "references")
            for data in (b"", b"no zip", b"PK\3\4" + b"\0" * 60)
        ),
        ("references/sample.npz", pickled, "references"),
        ("references/sample.npz", Path.unlink, "has no references for signature 'sample'"),
        (
            "generator.onnx",
            lambda path: path.write_bytes(b"no graph"),
            "graph 'generator.onnx' is not one that onnxruntime loads",
        ),
        (
            "generator.onnx",
            fix_batch,
            "the batch axis of input 'latent' of signature 'sample' is fixed",
        ),
    ],
)
def test_open_refuses_damage_under_a_valid_seal(
    copy: Path, name: str, damage: Callable[[Path], object], message: str
) -> None:
    damage(copy / name)
    reseal(copy)
    refused(copy, message)


@pytest.mark.parametrize("change", [{"shape": [5]}, {"name": "noise"}, {"dtype": "int64"}])
def test_signature_missing_in_its_graph_is_refused(copy: Path, change: dict[str, object]) -> None:
    edit(copy, lambda d: d["signatures"]["sample"]["inputs"][0].update(change))
    refused(copy, "signature 'sample' promises inputs .* its graph has")


def test_sample_is_independent_of_its_batch(artifact: Artifact) -> None:
    whole = artifact.sample(seed=5, n=12)["image"]
    assert whole.shape == (12, 1, 8, 8)
    for batch in (1, 5, 64):
        parts = artifact.sample(seed=5, n=12, batch=batch)["image"]
        assert np.allclose(parts, whole, atol=1e-6)
    alone = [artifact.sample(seed=5, first_index=i)["image"][0] for i in range(12)]
    assert np.allclose(np.stack(alone), whole, atol=1e-6)
    assert not np.allclose(whole, artifact.sample(seed=6, n=12)["image"], atol=1e-3)


def test_sample_is_the_graph_of_its_latent_and_label(artifact: Artifact) -> None:
    drawn = {
        "latent": latents.normal(5, range(3), (4,)),
        "label": latents.labels(5, range(3), 10),
    }
    by_hand = artifact.run("sample", drawn)["image"]
    assert np.array_equal(by_hand, artifact.sample(seed=5, n=3)["image"])


def test_single_label_applies_to_every_sample(artifact: Artifact) -> None:
    one = artifact.sample(seed=5, n=4, label=7)["image"]
    assert np.array_equal(one, artifact.sample(seed=5, n=4, label=[7] * 4)["image"])
    assert np.array_equal(one, artifact.sample(seed=5, n=4, label=[7] * 4, batch=3)["image"])
    assert not np.allclose(one, artifact.sample(seed=5, n=4, label=6)["image"])


def test_list_of_labels_applies_per_sample_over_batches(artifact: Artifact) -> None:
    classes = [3, 1, 4, 1, 5, 9]
    alone = [artifact.sample(seed=5, first_index=i, label=c) for i, c in enumerate(classes)]
    expected = np.concatenate([a["image"] for a in alone])
    for batch in (2, 4, 64):
        found = artifact.sample(seed=5, n=6, label=classes, batch=batch)["image"]
        assert np.allclose(found, expected, atol=1e-6)


def test_uint8_gives_pixels(artifact: Artifact) -> None:
    pixels = artifact.uint8("sample", artifact.sample(seed=0, n=2))
    assert (pixels.shape, pixels.dtype) == ((2, 8, 8, 1), np.uint8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: a.sample("smaple", seed=0), "has no signature 'smaple', it has: sample"),
        (lambda a: a.sample(seed=-1), r"seed must be in \[0, 2\^63\), got -1"),
        (lambda a: a.sample(seed=0, n=0), "n must be >= 1, got 0"),
        (lambda a: a.sample(seed=0, n=np.int64(0)), "n must be >= 1, got 0"),
        (lambda a: a.sample(seed=0, n=2.5), "n must be a whole number, got 2.5"),
        (lambda a: a.sample(seed=0, n=np.array([4, 4])), "n must be a whole number"),
        (lambda a: a.sample(seed=0, batch=0), "batch must be >= 1, got 0"),
        (lambda a: a.sample(seed=np.float32(0.5)), "seed must be a whole number"),
        (lambda a: a.sample(seed=0, first_index="one"), "first_index must be .*, got 'one'"),
        (lambda a: a.sample(seed=0, label=np.int64(12)), r"label must be in \[0, 10\), got 12"),
        (lambda a: a.sample(seed=0, first_index=-1), r"index must be in \[0, 2\^63\), got -1"),
        (lambda a: a.sample(seed=0, label=10), r"label must be in \[0, 10\), got 10"),
        (lambda a: a.sample(seed=0, label=-1), r"label must be in \[0, 10\), got -1"),
        (lambda a: a.sample(seed=0, n=3, label=[1, 2]), "one class or n of them: n is 3, got 2"),
        (lambda a: a.run("sample", {}), r"inputs must be \['label', 'latent'\], got \[\]"),
        (
            lambda a: a.run("sample", feeds(latent=np.zeros((2, 5)))),
            r"latent must have shape \(N, 4\) with N >= 1, got \(2, 5\)",
        ),
        (lambda a: a.run("sample", feeds(latent=np.zeros((0, 4)))), "with N >= 1"),
        (lambda a: a.run("sample", feeds(label=np.zeros(3))), r"one batch size, got \[2, 3\]"),
        (lambda a: a.run("sample", feeds(label=[0, 10])), r"label must be in \[0, 10\), got 10"),
    ],
)
def test_sample_refuses_wrong_arguments_with_what_is_allowed(
    artifact: Artifact, call: Callable[[Artifact], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call(artifact)


def feeds(**changes: object) -> dict[str, np.ndarray]:
    given = {"latent": np.zeros((2, 4)), "label": np.zeros(2, np.int64)} | changes
    return {name: np.asarray(value) for name, value in given.items()}


def test_levels_are_ordered_bit_uint8_tolerance(artifact: Artifact) -> None:
    signature = artifact.signature("sample")
    a = artifact.sample(seed=0, n=2)
    a["image"][:] = 0.1  # halfway between no two levels
    close, far, wrong = (a["image"].copy() for _ in range(3))
    close[0, 0, 0, 0] += 1e-6
    far[0, 0, 0, 0] += 0.1
    wrong[0, 0, 0, 0] = np.nan
    found = [compare(signature, a, {"image": b}) for b in (a["image"].copy(), close, far, wrong)]
    assert [r.level for r in found] == ["bit", "uint8", "tolerance", "tolerance"]
    assert found[0].max_abs == 0
    assert found[1].max_abs == pytest.approx(1e-6 / 1.1, rel=0.05)
    assert found[2].max_abs == pytest.approx(0.1 / 1.1, rel=0.01)
    assert found[3].max_abs == float("inf")


def test_artifact_opens_from_an_object_store(sealed: Path) -> None:
    import fsspec

    fs = fsspec.filesystem("memory")
    for path in sealed.rglob("*"):
        if path.is_file():
            fs.pipe_file(f"/opened/{path.relative_to(sealed).as_posix()}", path.read_bytes())
    there = Artifact.open("memory://opened").sample(seed=0, n=2)["image"]
    assert np.array_equal(there, Artifact.open(sealed).sample(seed=0, n=2)["image"])
    fs.rm("/opened", recursive=True)


def test_every_signature_has_sixteen_references(artifact: Artifact) -> None:
    inputs, outputs = artifact.references("sample")
    assert {k: v.shape for k, v in inputs.items()} == {"latent": (16, 4), "label": (16,)}
    assert {k: v.shape for k, v in outputs.items()} == {"image": (16, 1, 8, 8)}


def test_numpy_numbers_are_accepted(artifact: Artifact) -> None:
    expected = artifact.sample(seed=2, n=4, first_index=1, label=3, batch=3)["image"]
    found = artifact.sample(
        seed=np.int64(2),
        n=np.int32(4),
        first_index=np.array(1),
        label=np.uint8(3),
        batch=np.int8(3),
    )
    assert np.array_equal(found["image"], expected)
    floats = artifact.sample(seed=2.0, n=4.0, first_index=1.0, label=np.full(4, 3.0), batch=3)
    assert np.array_equal(floats["image"], expected)
