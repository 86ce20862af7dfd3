"""Evaluation: real data scores its floor, metrics go into a sealed artifact, ELBO is a bound."""

import json
from pathlib import Path

import numpy as np
import pytest

from aigc import data
from aigc.artifact import Artifact, Store
from aigc.artifact.codecs import read_png, to_uint8
from aigc.evaluate import Metric, draw, evaluate, table, write
from aigc.export import export
from aigc.models import fc_vae
from aigc.run import Run, work
from aigc.train import Alone
from tests.fixtures.make import config, write_run
from tests.test_train import small

pytestmark = pytest.mark.process


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def test_metrics_are_written_into_the_manifest_and_the_card(tmp_path: Path) -> None:
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
    write(artifact, metrics)
    again = Artifact.open(artifact.uri)
    assert again.manifest.metrics["accuracy/cnn64"] == pytest.approx(metrics[0].value)
    assert again.manifest.metrics["frechet/cnn64/real"] == pytest.approx(metrics[1].floor)
    assert again.manifest.digest != artifact.manifest.digest
    assert "| frechet/cnn64 |" in (Path(again.uri) / "README.md").read_text()
    with pytest.raises(ValueError, match="tiny@1 was evaluated already and versions never change"):
        write(again, metrics)


def test_a_picture_has_real_samples_above_generated_ones(tmp_path: Path) -> None:
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


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", small("fc_gan:ring", samples=32))
    artifact = Artifact.open(export(run, name="ring", store=Store(tmp_path / "store")))
    with pytest.raises(ValueError, match="there is no picture of its samples"):
        draw(artifact, tmp_path / "drawn.png")


def test_a_metric_without_a_floor_is_shown_without_one() -> None:
    assert "elbo/test   -90" in table("x", [Metric("elbo/test", -90.0, None, "higher")])


def test_what_is_made_of_something_else_is_shown_as_a_matrix() -> None:
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


def test_the_elbo_of_an_artifact_is_that_of_its_model(tmp_path: Path) -> None:
    from dataclasses import replace

    import torch

    model = fc_vae.Config(shape=(1, 8, 8), latent=4, num_classes=10, widths=(32,))
    trained = replace(config(), preset="fc_vae:digits", model=model, samples=6400)
    run = Run(tmp_path / "run")
    run.create(trained)
    work(run, trained, data.load(trained.data, trained.model), Alone())
    artifact = Artifact.open(export(run, name="vae", store=Store(tmp_path / "store")))
    (found,) = (m for m in evaluate(artifact, n=100) if m.name == "elbo/test")
    test = data.load(trained.data, trained.model, "test")
    served = run.trained().served()
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


def test_texts_are_judged_beside_ngrams(written: Path) -> None:
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


def test_the_likelihood_of_texts_is_that_of_the_model(written: Path) -> None:
    """By the graphs that are served, step by step, as torch has it of whole sequences."""
    import torch
    from torch.nn import functional as F
    from torch.nn.utils.rnn import pad_packed_sequence

    from aigc.metrics import text
    from aigc.models import text_vae

    artifact = Artifact.open(written, verify=False)
    run = Run.open(written.parent.parent.parent / "run")
    trained, served = run.config(), run.trained().served()
    test = data.load(trained.data, trained.model, "test")
    z = np.random.default_rng(0).normal(size=(len(test), 4)).astype(np.float32)
    found = text.log_likelihood(artifact, z, test, {})
    tokens = torch.from_numpy(test.samples)
    with torch.no_grad():
        known = served.decoder.given(torch.from_numpy(z), None, None)
        lengths = torch.full((len(z),), tokens.shape[1])
        before = F.pad(tokens[:, :-1], (1, 0))
        logits, _ = pad_packed_sequence(served.decoder(known, before, lengths), batch_first=True)
    nats = F.cross_entropy(logits.transpose(1, 2), tokens, reduction="none")
    expected = -(nats * text_vae.written(tokens)).sum(1)
    assert np.allclose(found, expected, rtol=1e-4)
