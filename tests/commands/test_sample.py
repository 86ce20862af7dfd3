"""`aigc sample` of texts: lines or JSON, the same from any index on; settings that are known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc.artifact import Artifact
from aigc.commands.sample import command

pytestmark = pytest.mark.process


def sampled(written: Path, out: Path, capsys: pytest.CaptureFixture[str], *more: str) -> Path:
    assert command([str(written), "--out", str(out), "--seed", "5", *more]) == 0
    return Path(capsys.readouterr().out.strip())


def lines(path: Path) -> list[str]:
    return path.read_text().split("\n")[:-1]


def test_texts_become_lines_equal_from_any_index(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sampled(written, tmp_path, capsys, "-n", "9")
    assert path.name == "words-1-seed5-0..8.txt"
    later = sampled(written, tmp_path, capsys, "-n", "2", "--first-index", "4")
    assert len(lines(path)) == 9
    assert lines(path)[4:6] == lines(later)
    assert len(set(lines(path))) > 1


def test_json_holds_the_same_texts_as_lines(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sampled(written, tmp_path, capsys, "-n", "3")
    document = json.loads(
        sampled(written, tmp_path, capsys, "-n", "3", "--format", "json").read_text()
    )
    assert document["samples"] == lines(path)
    assert (document["model"], document["seed"]) == ("words@1", 5)


def test_settings_option_reaches_the_signature(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = lines(sampled(written, tmp_path, capsys))
    short = lines(sampled(written, tmp_path, capsys, "--settings", "max_tokens", "3"))
    assert short == [text[:3] for text in whole]
    cold = lines(sampled(written, tmp_path, capsys, "--settings", "temperature", "0"))
    assert cold != whole


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warmth": 1.0}, "has no setting 'warmth', it has: temperature, top_k, max_tokens"),
        ({"temperature": -1.0}, r"temperature must be a number in \[0, 100\], got -1.0"),
        ({"max_tokens": 99.0}, r"max_tokens must be a whole number in \[1, 44\], got 99"),
    ],
)
def test_settings_out_of_range_are_refused(
    settings: dict[str, float], message: str, written: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        Artifact.open(written, verify=False).sample(seed=0, settings=settings)


def test_outputs_of_another_kind_are_refused(sealed: Path, written: Path) -> None:
    with pytest.raises(ValueError, match="gives no texts; take another format than txt"):
        command([str(sealed), "--format", "txt"])
    artifact = Artifact.open(sealed, verify=False)
    with pytest.raises(ValueError, match="gives no text; take npy"):
        artifact.texts("sample", {})
    with pytest.raises(ValueError, match="is not autoregressive; use run"):
        artifact.stream("sample", {})


def test_texts_replay_their_references_and_equal_their_batch(written: Path) -> None:
    artifact = Artifact.open(written)
    assert {level.level for level in artifact.reproducibility.values()} == {"bit"}
    together = artifact.sample(seed=1, n=50)["text"]
    for index in (0, 17, 49):
        alone = artifact.sample(seed=1, first_index=index)["text"]
        assert np.array_equal(alone[0], together[index])


def test_stream_yields_the_tokens_of_sample(written: Path) -> None:
    artifact = Artifact.open(written, verify=False)
    drawn = artifact.draw("sample", 1, range(3))
    tokens = np.stack(list(artifact.stream("sample", drawn)), 1)
    whole = artifact.sample(seed=1, n=3)["text"]
    assert np.array_equal(tokens, whole[:, : tokens.shape[1]])


def test_run_defaults_settings_and_refuses_unknown_tokens(written: Path) -> None:
    artifact = Artifact.open(written, verify=False)
    drawn: dict[str, Any] = artifact.draw("sample", 1, range(3))
    few = {name: drawn[name] for name in ("latent", "noise")}
    assert np.array_equal(
        artifact.run("sample", few)["text"], artifact.run("sample", drawn)["text"]
    )
    with pytest.raises(ValueError, match=r"temperature must be a number in \[0, 100\], got -1"):
        artifact.run("sample", drawn | {"temperature": np.full(3, -1.0)})
    with pytest.raises(ValueError, match=r"text must be in \[0, 22\), got 22"):
        artifact.run("encode", {"text": np.full((1, 44), 22)})


def test_encoded_texts_are_decoded(written: Path) -> None:
    artifact = Artifact.open(written, verify=False)
    rows = artifact.vocabulary().rows(["seven", "two hundred"], 44)
    latent = artifact.run("encode", {"text": rows})["mu"]
    texts = artifact.texts("decode", artifact.run("decode", {"latent": latent}), stop=(" ",))
    assert len(texts) == 2
    assert all(" " not in text for text in texts)


def test_several_modalities_are_written_side_by_side(
    joined: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sampled(joined, tmp_path / "all", capsys, "-n", "2")
    images = [f"three-1-seed5-{which}.png" for which in ("0", "1", "0..1")]
    sounds = [f"three-1-audio-seed5-{index}.wav" for index in range(2)]
    text = "three-1-text-seed5-0..1.txt"
    assert {path.name for path in folder.iterdir()} == {*images, *sounds, text}
    only = sampled(joined, tmp_path / "text", capsys, "-n", "2", "--format", "txt")
    assert lines(only) == lines(folder / text)
    heard = sampled(joined, tmp_path / "sound", capsys, "-n", "2", "--format", "wav")
    assert [path.suffix for path in heard.iterdir()] == [".wav", ".wav"]
