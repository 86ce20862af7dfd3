"""Evaluation: real data scores its floor, metrics go into a sealed artifact, ELBO is a bound."""

import json
import re
import shutil
import struct
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from aigc import data
from aigc.artifact import Artifact, Signature, Store, TensorSpec
from aigc.artifact.image_files import png, read_png, to_uint8
from aigc.artifact.precision import Precision, PrecisionLoss
from aigc.commands.evaluate import (
    Options,
    command,
    draw,
    evaluate,
    evaluate_on,
    with_metrics,
    write_metrics,
)
from aigc.commands.export import export
from aigc.commands.metrics_table import table
from aigc.commands.real_data import real_data
from aigc.metrics import Metric, Omitted
from aigc.models import fc_vae
from aigc.training.run import Run
from tests import manifests
from tests.channels import OfChannels
from tests.fixtures.make import config, write_run
from tests.training.small_runs import small

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("session_cache")]


def test_evaluate_writes_metrics_into_manifest_and_card(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", config())
    artifact = Artifact.open(export(run, name="tiny", store=Store(tmp_path / "store")))
    metrics = evaluate(artifact, n=200)
    judge, *metrics = metrics
    assert judge.name == "judge/cnn64"
    assert judge.value > 0.97
    assert [m.name for m in metrics] == [
        "accuracy/cnn64",
        "frechet/cnn64",
        "recall/cnn64",
        "precision/cnn64",
    ]
    assert metrics[0].floor is not None
    assert metrics[0].floor > 0.97 > metrics[0].value  # 128 samples train no GAN
    assert all(m.name in table("tiny", metrics) for m in metrics)
    write_metrics(artifact, metrics)
    again = Artifact.open(artifact.uri)
    assert again.manifest.metrics["accuracy/cnn64"] == pytest.approx(metrics[0].value)
    assert again.manifest.metrics["frechet/cnn64/real"] == pytest.approx(metrics[1].floor)
    assert again.manifest.digest != artifact.manifest.digest
    assert "| frechet/cnn64 |" in (Path(again.uri) / "README.md").read_text()
    with pytest.raises(ValueError, match="tiny@1 was evaluated already and versions never change"):
        write_metrics(again, metrics)


def test_draw_puts_real_samples_above_generated_ones(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", config())
    artifact = Artifact.open(export(run, name="tiny", store=Store(tmp_path / "store")))
    draw(artifact, tmp_path / "drawn.png", seed=3)
    drawn, _ = read_png((tmp_path / "drawn.png").read_bytes())
    assert drawn.shape == (2 * 8 + 2, 10 * 10 - 2, 1)
    made = artifact.sample(seed=3, n=10, label=list(range(10)))["image"]
    test = data.whole(data.load(config().data, config().model, "test"))
    for label in range(10):
        x = slice(10 * label, 10 * label + 8)
        assert (drawn[10:, x] == to_uint8(made, -1, 1)[label]).all()
        real = test.samples[np.flatnonzero(test.labels == label)[:1]]
        assert (drawn[:8, x] == to_uint8(data.scaled(real), -1, 1)[0]).all()


def test_draw_refuses_samples_without_a_picture(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", small("fc_gan:ring", samples=32))
    artifact = Artifact.open(export(run, name="ring", store=Store(tmp_path / "store")))
    with pytest.raises(ValueError, match="there is no picture of its samples"):
        draw(artifact, tmp_path / "drawn.png")


def noise(path: Path, labels: bool = False, rows: int = 100, tests: int = 40) -> str:
    """Noise as 8 x 8 images of one channel, with labels that mean nothing or without any."""
    random = np.random.default_rng(0)
    arrays = {}
    for split, size in (("train", rows), ("test", tests)):
        if size:
            images = random.uniform(-1, 1, (size, 1, 8, 8))
            arrays[f"{split}_images"] = images.astype(np.float32)
        if labels:
            arrays[f"{split}_labels"] = random.permutation(size) % 10
    np.savez(path, **arrays)
    return str(path)


def test_real_data_are_named_and_compared_with_the_training_data(
    of_channels: OfChannels, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = str(of_channels(1))
    assert command([where, "-n", "50"]) == 0
    own = Artifact.open(where).manifest.training.config["data"]["path"]
    line, *rest = capsys.readouterr().err.splitlines()
    assert line == (
        f"judged against data 'data' at {own}: 40 rows of its test split, judges trained on 200"
        " rows of its training split (train 200, test 40)"
    )
    assert "not the data" not in "".join(rest)
    other = noise(tmp_path / "other.npz")
    assert command([where, "-n", "50", "--data", other]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert f"at {other}: 40 rows of its test split" in lines[0]
    assert lines[1].startswith("these are not the data that it was trained on: 100 training rows")
    assert "there were 200 with" in lines[1]


def test_real_data_read_floats_as_training_did(sealed: Path, tmp_path: Path) -> None:
    """For artifacts of trainings that did not need --data.range yet."""
    images = np.random.default_rng(0).random((100, 1, 8, 8), np.float32)
    arrays = {"train_images": images, "test_images": images[:40]}
    labels = {"train_labels": np.arange(100) % 10, "test_labels": np.arange(40) % 10}
    np.savez(tmp_path / "unit.npz", **arrays, **labels)
    artifact = Artifact.open(sealed)
    artifact.manifest.training.config["data"] |= {"source": "npz"}
    real = real_data(artifact, str(tmp_path / "unit.npz"))
    assert np.array_equal(real.train.samples, images)


def test_weak_classifier_is_noted_beside_its_metrics(
    sealed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(sealed, copy)
    artifact = Artifact.open(copy)
    config = artifact.manifest.training.config
    config["data"] |= {"source": "npz", "path": noise(tmp_path / "noise.npz", labels=True)}
    figures = evaluate(artifact, n=50)
    assert [m.name for m in figures if "judge" in m.note and "right of" in m.note] == [
        m.name for m in figures
    ]
    printed = table("tiny", figures.metrics, figures.omitted)
    assert printed.count("held-out real rows, 80% is wanted") == len(figures.metrics)
    write_metrics(artifact, figures)
    metrics = Artifact.open(copy).manifest.metrics
    assert metrics.keys() >= {m.name for m in figures}
    assert all(isinstance(value, float) for value in metrics.values())


def test_table_lists_omitted_metrics_last() -> None:
    metrics = [Metric("frechet/x", 2.0, None, "lower", "untested")]
    lines = table("x", metrics, [Omitted("precision/x", "too few")]).splitlines()
    assert lines[1].split() == ["frechet/x", "2", "lower", "untested"]
    assert lines[2] == "precision/x   left out: too few"
    of_pairs = [Metric("coherence/image>text/exact", 0.5, 1.0, "higher", "weak")]
    assert table("x", of_pairs).splitlines()[-1] == "coherence/image>text/exact: weak"


def trained_on(folder: Path, classes: int | None = None, **changes: str) -> Artifact:
    """An artifact that names other data as those of its training."""
    artifact = Artifact.open(folder, verify=False)
    config = json.loads(json.dumps(artifact.manifest.training.config))
    config["data"] |= changes
    if classes is not None:
        config["model"]["num_classes"] = classes
    training = replace(artifact.manifest.training, config=config)
    artifact.manifest = replace(artifact.manifest, training=training)
    return artifact


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"path": "nowhere"}, "'nowhere' is none"),
        ({"path": ""}, "'' is none"),
        ({"source": "digits", "path": ""}, "has 10 classes"),
        ({"source": "numbers", "path": ""}, "gives texts"),
        ({"source": "digits3", "path": ""}, "in a row"),
    ],
)
@pytest.mark.parametrize("classes", [0, 4])
def test_data_errors_name_no_flags_of_other_commands(
    change: dict[str, str], says: str, classes: int, of_channels: OfChannels, tmp_path: Path
) -> None:
    artifact = trained_on(of_channels(1), classes, **{"source": "folder"} | change)
    if (classes, change["path"], says) == (0, "", "has 10 classes"):
        return  # labels are ignored
    with pytest.raises(ValueError, match=says) as raised:
        evaluate(artifact)
    known = {f"--{field.name}" for field in fields(Options)}
    assert set(re.findall(r"--[a-z.-]+", str(raised.value))) <= known


def test_corrupt_rows_are_reported_without_flags_of_train(
    of_channels: OfChannels, tmp_path: Path
) -> None:
    for name in ("train/a", "train/b", "test/c"):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"no picture")
    artifact = trained_on(of_channels(1), source="folder", path=str(tmp_path))
    with pytest.raises(
        ValueError, match=r"no whole picture.*; give data like those .* --data PATH"
    ):
        evaluate(artifact)


def test_evaluate_refuses_bad_options_before_training_a_classifier(
    of_channels: OfChannels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Calling it would raise another error.
    monkeypatch.setattr("aigc.commands.evaluate.evaluate_on", None)
    with pytest.raises(ValueError, match="there is no picture of its samples; leave out --picture"):
        command([str(of_channels(5)), "--picture", str(tmp_path / "drawn.png")])
    with pytest.raises(ValueError, match=r"the folder .*/nowhere is not there; create it first"):
        command([str(of_channels(4)), "--picture", str(tmp_path / "nowhere" / "drawn.png")])
    with pytest.raises(SystemExit, match="2"):
        command([str(of_channels(4)), "-n", "0"])


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_evaluate_takes_images_without_labels(
    channels: int, of_channels: OfChannels, tmp_path: Path
) -> None:
    artifact = Artifact.open(of_channels(channels))
    found = {m.name.partition("/")[0]: m for m in evaluate(artifact, n=np.int64(100))}
    assert found.keys() >= {"frechet", "recall", "precision"}
    assert found["frechet"].floor is not None
    assert found["frechet"].value > 2 * found["frechet"].floor  # 128 samples train no GAN
    if channels < 5:
        draw(artifact, tmp_path / "drawn.png")
        drawn, _ = read_png((tmp_path / "drawn.png").read_bytes())
        assert drawn.shape == (2 * 8 + 2, 10 * 10 - 2, channels)


def test_evaluate_works_without_cache_and_test_rows(
    of_channels: OfChannels,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    empty = noise(tmp_path / "few.npz", rows=6, tests=0)
    monkeypatch.setenv("XDG_CACHE_HOME", empty)  # a file
    assert command([str(of_channels(1)), "-n", "50", "--data", empty]) == 0
    told = capsys.readouterr().err
    assert "0 rows of its test split" in told
    assert re.search(r"^frechet/\w+ +\d", told, re.MULTILINE)
    assert re.search(r"^recall/\w+ +left out: nearest neighbours need", told, re.MULTILINE)


def without_tests(source: str, folder: Path) -> str:
    """A data set of a few rows for training, of which none is held out."""
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8), np.uint8)
    if source == "npz":
        np.savez(folder / "data.npz", train_images=images)
        return str(folder / "data.npz")
    if source == "idx":
        for name, array in (("images-idx3", images), ("labels-idx1", np.zeros(6, np.uint8))):
            head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (folder / f"train-{name}-ubyte").write_bytes(head + array.tobytes())
        return str(folder)
    for number, image in enumerate(images):
        (folder / f"picture{number}.png").write_bytes(png(image[..., None]))
    return str(folder)


@pytest.mark.parametrize("source", ["npz", "idx", "folder"])
def test_evaluate_omits_metrics_that_need_test_rows(
    source: str, of_channels: OfChannels, tmp_path: Path
) -> None:
    path = without_tests(source, tmp_path / "data")
    artifact = trained_on(of_channels(1), source=source, path=path)
    real = real_data(artifact)
    assert len(real.test) == 0
    assert len(real.train) == 6
    figures = evaluate_on(artifact, real, 20, 0)
    assert [m.name.partition("/")[0] for m in figures] == ["frechet", "precision"]
    assert [o.name.partition("/")[0] for o in figures.omitted] == ["judge", "recall"]


def test_metrics_of_float32_go_with_those_beside_which_they_were_measured() -> None:
    loss = PrecisionLoss(max_abs=0.01, mean_loss=0, uint8_mismatch=0, uint8_max=1, samples=1)
    precision = Precision(name="float16", loss={"sample": loss})
    image = TensorSpec(name="image", kind="image", dtype="float32", shape=(1, 4, 4), range=(-1, 1))
    sample = Signature(graph="sample.onnx", inputs=(), outputs=(image,))
    manifest = manifests.manifest({"sample": sample}, precision=precision)
    metrics = [Metric("frechet/x", 2.2, None, "lower", float32=2.0)]
    both = with_metrics(manifest, metrics)
    assert both.precision == replace(precision, float32_metrics={"frechet/x": 2.0})
    again = with_metrics(both, [replace(metrics[0], value=3.0, float32=None)])
    assert again.metrics == {"frechet/x": 3.0}
    assert again.precision == precision


def test_table_leaves_a_missing_floor_empty() -> None:
    assert "elbo/test   -90" in table("x", [Metric("elbo/test", -90.0, None, "higher")])


def test_table_shows_every_metric_beside_float32() -> None:
    metrics = [
        Metric("frechet/x", 2.2, 1.0, "lower", float32=2.0),
        Metric("coherence/image>text/exact", 0.5, 1.0, "higher", "weak", float32=0.6),
        Metric("hits/4gram", 0.1, None, ""),
    ]
    head, *lines = table("x", metrics).splitlines()
    assert head.split()[1:4] == ["value", "float32", "loss"]
    assert lines[0].split() == ["frechet/x", "2.2", "2", "10.0%", "1", "lower"]
    assert lines[1].split()[1:] == ["0.5", "0.6", "10.0%", "1", "higher", "weak"]
    assert lines[2].split() == ["hits/4gram", "0.1"]


def test_table_shows_conversions_as_a_matrix() -> None:
    metrics = [
        Metric("coherence/joint", 0.9, 1.0, "higher"),
        Metric("coherence/image>text/exact", 0.8, 1.0, "higher"),
        Metric("coherence/text>image/cnn64", 0.7, 0.99, "higher"),
        Metric("coherence/image+text>audio/cnn64", 0.6, 0.98, "higher"),
    ]
    lines = [line.rstrip() for line in table("x", metrics).split("\n")]
    rows = [line.split() for line in lines[3:]]
    assert lines[1].split() == ["coherence/joint", "0.9", "1", "higher"]
    assert rows[0] == ["coherence", "(higher),", "from", "text/exact", "image/cnn64", "audio/cnn64"]
    assert rows[1:] == [
        ["image", "0.8"],
        ["text", "0.7"],
        ["image+text", "0.6"],
        ["real", "data", "1", "0.99", "0.98"],
    ]
    # Each below its own head.
    assert lines[5].index("0.7") == lines[3].index("image/cnn64")
    assert lines[6].index("0.6") == lines[3].index("audio/cnn64")


def test_elbo_of_an_artifact_equals_the_model_s(tmp_path: Path) -> None:
    import torch

    model = fc_vae.Config(shape=(1, 8, 8), latent=4, num_classes=10, widths=(32,))
    trained = replace(config(), preset="fc_vae:digits", model=model, samples=6400)
    run = write_run(tmp_path / "run", trained)
    artifact = Artifact.open(export(run, name="vae", store=Store(tmp_path / "store")))
    (found,) = (m for m in evaluate(artifact, n=100) if m.name == "elbo/test")
    test = data.load(trained.data, trained.model, "test")
    served = run.load_state().ema_model()
    torch.manual_seed(0)
    with torch.no_grad():
        x, label = torch.from_numpy(test.samples), torch.from_numpy(test.labels)
        draws = [
            (likelihood - kl).mean().item()
            for likelihood, kl, _, _ in (
                served.elbo(x, label, torch.randn(len(x), 4)) for _ in range(20)
            )
        ]
    assert abs(found.value - np.mean(draws)) < 5 * np.std(draws)
    assert json.dumps(found.value)


def test_evaluate_compares_texts_with_ngrams(written: Path) -> None:
    artifact = Artifact.open(written, verify=False)
    metrics = {m.name: m for m in evaluate(artifact, n=100)}
    assert {"valid", "unique/100", "novel", "hits", "hits/4gram", "kl"} <= metrics.keys()
    # Almost every pair of words has been seen in training; what an untrained model writes has not.
    copied = metrics["overlap/8gram"]
    assert copied.floor is not None
    assert copied.value < 0.9 < copied.floor <= 1
    assert metrics["valid"].floor == 1
    assert metrics["valid"].value < metrics["valid/6gram"].value  # 3,200 samples train no VAE
    assert metrics["active_units"].value <= 4
    assert metrics["bits_per_char"].value > metrics["bits_per_char/6gram"].value


def test_texts_of_a_source_of_one_s_own_are_evaluated_without_its_code(written: Path) -> None:
    real = real_data(Artifact.open(written, verify=False))
    names = [m.name for m in evaluate_on(trained_on(written, source="mine-1a2b"), real, 20, 0)]
    assert "valid" not in names
    assert "novel" in names


def test_likelihood_of_texts_equals_the_model_s(written: Path) -> None:
    """By the graphs that are served, step by step, as torch has it of whole sequences."""
    import torch
    from torch.nn import functional as F
    from torch.nn.utils.rnn import pad_packed_sequence

    from aigc.metrics import text
    from aigc.models import text_vae

    artifact = Artifact.open(written, verify=False)
    run = Run.open(written.parent.parent.parent / "run")
    trained, served = run.config(), run.load_state().ema_model()
    test = data.load(trained.data, trained.model, "test")
    z = np.random.default_rng(0).normal(size=(len(test), 4)).astype(np.float32)
    found = text.log_likelihood(artifact, z, test, {})
    tokens = torch.from_numpy(test.samples)
    with torch.no_grad():
        known = served.decoder.context(torch.from_numpy(z), None, None)
        lengths = torch.full((len(z),), tokens.shape[1])
        before = F.pad(tokens[:, :-1], (1, 0))
        logits, _ = pad_packed_sequence(served.decoder(known, before, lengths), batch_first=True)
    nats = F.cross_entropy(logits.transpose(1, 2), tokens, reduction="none")
    expected = -(nats * text_vae.written(tokens)).sum(1)
    assert np.allclose(found, expected, rtol=1e-4)
