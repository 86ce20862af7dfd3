"""Lines of files become rows of tokens that decode to the same lines."""

import importlib.util
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aigc import models
from aigc.artifact import Artifact, Store
from aigc.artifact.vocabulary import Vocabulary
from aigc.commands.evaluate import evaluate
from aigc.commands.export import export
from aigc.config import DataConfig
from aigc.data import Dataset
from aigc.data.lines import byte_pairs
from aigc.data.sources import text
from aigc.metrics import text as metrics_text
from aigc.models import text_vae
from tests.fixtures import make

TEXTS = [f"the cat {verb} the {what}" for verb in ("saw", "ate") for what in ("mat", "hat", "ä")]
FOODS = ("a crème 🥐", "an œuf", "soup 🍲", "👩‍🍳 pie")
tokenizers = pytest.mark.skipif(
    importlib.util.find_spec("tokenizers") is None, reason="the package tokenizers is not installed"
)


def load(path: Path, split: str = "train", length: int = 24, **options: int) -> Dataset:
    config = DataConfig(source="text", path=str(path), **options)  # type: ignore[arg-type]
    return text.load(config, (length,), split)  # type: ignore[arg-type]


def decoded(dataset: Dataset) -> list[str]:
    return Vocabulary(dataset.vocabulary).texts(dataset.samples)


def test_splits_hold_the_distinct_lines(tmp_path: Path) -> None:
    path = tmp_path / "cats.txt"
    path.write_text("\n".join([*TEXTS, "", "  ", f" {TEXTS[0]} "]))
    train, test = load(path), load(path, "test")
    assert train.name == "cats"
    assert train.vocabulary == test.vocabulary
    assert sorted(decoded(train) + decoded(test)) == sorted(TEXTS)
    assert len(test) == 1
    assert train.fingerprint()["vocabulary"] == list(train.vocabulary)


def test_sub_folders_are_classes(tmp_path: Path) -> None:
    for name, texts in (("ate", TEXTS[3:]), ("saw", TEXTS[:3])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lines.txt").write_text("\n".join(texts))
    train = load(tmp_path)
    assert train.classes == ("ate", "saw")
    for label, line in zip(train.labels, decoded(train), strict=True):
        assert f"cat {train.classes[label]}" in line
    (tmp_path / "beside.txt").write_text("a line")
    with pytest.raises(ValueError, match="in sub-folders and beside them"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "length", "message"),
    [
        (b"one line\none line\n", 24, "holds 1 distinct lines; two are needed"),
        (b"caf\xe9\nno\n", 24, "cats.txt is not UTF-8 text"),
        (b"12345\n1\n", 5, "set --model.shape 6"),
    ],
)
def test_text_config_errors_name_the_fix(
    content: bytes, length: int, message: str, tmp_path: Path
) -> None:
    (tmp_path / "cats.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load(tmp_path, length=length)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_lines_lose_byte_order_marks_and_line_ends(encoding: str, end: str, tmp_path: Path) -> None:
    (tmp_path / "cats.txt").write_bytes(end.join([*TEXTS, ""]).encode(encoding))
    train, test = load(tmp_path), load(tmp_path, "test")
    assert sorted(decoded(train) + decoded(test)) == sorted(TEXTS)


@tokenizers
def test_byte_pairs_shorten_texts_within_words(tmp_path: Path) -> None:
    path = tmp_path / "cats.txt"
    path.write_text("\n".join(TEXTS))
    train = load(path, byte_pairs=24)
    assert len(train.vocabulary) == 24
    assert " the" in train.vocabulary
    assert all(" " not in piece[1:] for piece in train.vocabulary)
    assert sorted(decoded(train) + decoded(load(path, "test", byte_pairs=24))) == sorted(TEXTS)
    assert (train.samples != 0).sum() < (load(path).samples != 0).sum() / 2
    with pytest.raises(ValueError, match="raise the size of the vocabulary"):
        byte_pairs(TEXTS, 5)


@pytest.mark.process
@tokenizers
def test_byte_pairs_travel_in_the_artifact(tmp_path: Path) -> None:
    """From a file of lines to samples, with characters of one to four bytes."""
    lines = [f"the café {verb} {what}" for verb in ("served", "naïvely ate") for what in FOODS]
    path = tmp_path / "cafés.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    source = DataConfig(source="text", path=str(path), byte_pairs=48)
    model = text_vae.Config(
        shape=(16,), vocabulary=48, latent=4, width=16, encoder_widths=(8, 8), blur=0.8
    )
    preset = models.preset("text_vae:numbers")
    run = replace(make.config(), preset=preset.preset, model=model, data=source, samples=640)
    artifact = Artifact.open(
        export(make.write_run(tmp_path / "run", run), name="cafes", store=Store(tmp_path / "store"))
    )
    vocabulary = artifact.vocabulary()
    assert len(vocabulary) == 48
    assert "the" in vocabulary.pieces
    assert {"é", "ï", "🥐", "👩", "\u200d", "🍳"} <= set("".join(vocabulary.pieces))
    tokens = vocabulary.rows(lines, 16)
    assert artifact.texts("sample", {"text": tokens}) == lines
    assert artifact.run("encode", {"text": tokens})["mu"].shape == (len(lines), 4)
    samples = artifact.texts("sample", artifact.sample(seed=0, n=20, settings={"temperature": 1}))
    assert len(set(samples)) > 10
    assert set("".join(samples)) <= set("".join(lines))
    metrics = {m.name: m.value for m in evaluate(artifact, n=20)}
    assert metrics["kl"] == pytest.approx(-4 * math.log(0.8), abs=1e-3)  # of what is sampled
    test = load(path, "test", 16, byte_pairs=48)
    z = np.ones((len(test), 4), np.float32)
    told = [metrics_text.log_likelihood(artifact, z, test, {}, blur) for blur in (0.35, 0.8)]
    assert not np.allclose(*told, atol=1e-4)
    with pytest.raises(
        ValueError, match=r"has characters that the vocabulary lacks: \['Ω', '🧀'\]"
    ):
        vocabulary.rows(["the Ω ate 🧀"], 16)


def test_missing_tokenizers_package_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match=r"pip install 'aigc\[text\]'"):
        byte_pairs(TEXTS, 24)
