"""One thing from another: what is given in JSON or in a form is what the graph is given."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from aigc.artifact import Artifact, audio_files, clips, image_files, user_inputs
from aigc.artifact.vocabulary import Vocabulary
from aigc.commands import verify
from aigc.commands.sample import command as sample_command
from aigc.config import DataConfig, ModelConfig
from aigc.data import gather, load
from aigc.data.sources.text import load as load_lines
from serve.protocols.native.request_inputs import MAX_PARTS
from serve.settings import Limits, Settings
from tests.data.files import CODINGS, PICTURES, waves
from tests.serve.artifacts import LETTERS
from tests.serve.client import code_of
from tests.serve.listening import Listening, listening

IMAGE = image_files.png(np.random.default_rng(0).integers(0, 256, (8, 8, 1)).astype(np.uint8))
WAVE = np.random.default_rng(1).uniform(-0.9, 0.9, (400, 1))
AUDIO = audio_files.wav((WAVE * 32767).astype(np.int16), 8000)
TEXT = "badge"
FILES = {"image": IMAGE, "audio": AUDIO}


@pytest.fixture(scope="module")
def served(
    translator: str, store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Listening]:
    metrics_dir = str(tmp_path_factory.mktemp("metrics"))
    settings = Settings(metrics_dir=metrics_dir, limits=Limits(max_n=20, max_batch=4))
    with listening(settings, translator, f"{store}/tiny@1") as served:
        yield served


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def given(*names: str) -> dict[str, str]:
    return {name: TEXT if name == "text" else b64(FILES[name]) for name in names}


def tensors(*names: str, n: int = 1) -> dict[str, np.ndarray]:
    """Inputs that the graph must be given, made by other means."""
    pixels = image_files.read_png(IMAGE)[0]
    made = {
        "image": (pixels.transpose(2, 0, 1) / 127.5 - 1).astype(np.float32),
        "text": Vocabulary(LETTERS).rows([TEXT], 6)[0],
        "audio": clips.fitted(audio_files.read_sound(AUDIO).samples[0], 8000, 400)[None],
    }
    return {name: np.stack([made[name]] * n) for name in names}


def post(served: Listening, **fields: Any) -> httpx.Response:
    body = {"model": "translator", "seed": 7, **fields}
    return httpx.post(f"{served.url}/v1/samples", json=body)


def expected(translator: str, *names: str, n: int = 1) -> dict[str, np.ndarray]:
    artifact = Artifact.open(translator)
    inputs = artifact.draw("translate", 7, range(n), given=tensors(*names, n=n))
    return artifact.run("translate", inputs)


@pytest.mark.parametrize(
    "names",
    [
        ("image",),
        ("text",),
        ("audio",),
        ("image", "text"),
        ("image", "audio"),
        ("text", "audio"),
        ("image", "text", "audio"),
    ],
    ids="+".join,
)
def test_any_subset_of_modalities_gives_the_others(
    served: Listening, translator: str, names: tuple[str, ...]
) -> None:
    answer = post(served, inputs=given(*names), n=3)
    assert answer.status_code == 200, answer.text
    wanted = expected(translator, *names, n=3)
    artifact = Artifact.open(translator)
    pixels = artifact.uint8("translate", wanted)
    words = Vocabulary(LETTERS).texts(wanted["new_text"])
    for i, sample in enumerate(answer.json()["samples"]):
        assert set(sample) == {"index", "image", "text", "audio"}
        image, made_by = image_files.read_png(base64.b64decode(sample["image"]))
        assert np.abs(image.astype(int) - pixels[i]).max() <= 1
        assert sample["text"] == words[i]
        found = audio_files.read_sound(base64.b64decode(sample["audio"]))
        wave = audio_files.to_pcm16(wanted["new_audio"])[i].astype(int)
        assert np.abs(audio_files.to_pcm16(found.samples) - wave).max() <= 3
        assert made_by is not None
        assert made_by == found.provenance
        assert [one.split(":")[0] for one in made_by.given] == sorted(names)
    assert len({sample["image"] for sample in answer.json()["samples"]}) == 3  # the seed's noise


def test_a_form_is_the_same_request(served: Listening) -> None:
    fields = {"model": "translator", "seed": "7", "n": "2", "text": TEXT, "outputs": "text,audio"}
    answer = httpx.post(
        f"{served.url}/v1/samples", data=fields, files={"image": ("a.png", IMAGE, "image/png")}
    )
    assert answer.status_code == 200, answer.text
    same = post(served, inputs=given("image", "text"), n=2, outputs=["text", "audio"])
    assert answer.json() == same.json()
    assert set(answer.json()["samples"][0]) == {"index", "text", "audio"}
    lost = httpx.post(
        f"{served.url}/v1/samples",
        data={**fields, "inputs": json.dumps(given("audio"))},
        files={"image": ("a.png", IMAGE, "image/png")},
    )
    assert lost.json()["error"]["code"] == "unknown_input", "each input is a field of its own"


@pytest.mark.parametrize(
    ("form", "key"), [("wav", "audio"), ("png", "image"), ("npy", None), ("ndjson", None)]
)
def test_outputs_come_in_every_format(
    served: Listening, translator: str, form: str, key: str | None
) -> None:
    whole = post(served, inputs=given("text")).json()["samples"][0]
    answer = post(served, inputs=given("text"), format=form)
    if key is not None:
        assert answer.content == base64.b64decode(whole[key])
    elif form == "ndjson":
        assert [json.loads(line) for line in answer.iter_lines()] == [whole]
    else:
        assert answer.status_code == 200


def test_a_picture_of_another_size_and_a_sound_of_another_rate_are_brought_to_the_models(
    served: Listening,
) -> None:
    large = image_files.png(np.full((40, 20, 3), 255, np.uint8))
    tone = np.sin(np.arange(4410) / 10)[:, None] * np.ones((1, 2))
    long = audio_files.wav((tone * 20000).astype(np.int16), 44100)
    for name, data in (("image", large), ("audio", long)):
        answer = post(served, inputs={name: b64(data)})
        assert answer.status_code == 200, answer.text
    answer = post(served, inputs={"image": f"data:image/png;base64,{b64(large)}"})
    assert answer.status_code == 200, answer.text


READ_ALIKE = {
    "clear.png": PICTURES["RGBA"],
    "palette.png": PICTURES["P with alpha"],
    "deep.png": PICTURES["I;16"],
    "turned.jpeg": PICTURES["JPEG turned 6"],
    "printed.jpeg": PICTURES["CMYK"],
    "moving.webp": PICTURES["animated WebP"],
    "loud.wav": CODINGS["float of 16-bit values"](waves(2), 44100),
    "fine.wav": CODINGS["24 bits"](waves(1), 12345),
    "lines.txt": "\ufeff badge\r\ncab\r\n".encode(),
}


@pytest.mark.parametrize("name", READ_ALIKE)
def test_the_graph_is_given_the_row_that_training_has(
    served: Listening, tmp_path: Path, name: str
) -> None:
    """Bit for bit: what comes out says the hash of what went in."""
    file = READ_ALIKE[name]
    value = b64(file)
    if name.endswith("txt"):
        kind, value = "text", file.decode().splitlines()[0]
        (tmp_path / name).write_bytes(file)
        config = DataConfig(source="text", path=str(tmp_path / name))
        parts = [load_lines(config, (6,), split) for split in ("train", "test")]
        texts = {one for p in parts for one in Vocabulary(p.vocabulary).texts(p.samples)}
        assert texts == {TEXT, "cab"}
        row = Vocabulary(LETTERS).rows([TEXT], 6)
    else:
        kind = "audio" if name.endswith("wav") else "image"
        source = "audio" if kind == "audio" else "folder"
        for split in ("train", "test"):
            (tmp_path / split).mkdir()
            (tmp_path / split / name).write_bytes(file)
        shape = (1, 400) if kind == "audio" else (1, 8, 8)
        config = DataConfig(source=source, path=str(tmp_path), memory_mb=0)
        row = gather(load(config, ModelConfig(shape=shape)), [0], "stop")[0]
    made_by = image_files.read_png(post(served, inputs={kind: value}, format="png").content)[1]
    assert made_by is not None
    assert made_by.given == user_inputs.fingerprints({kind: row}, 0)


BOMB = image_files.png(np.zeros((5000, 5000, 1), np.uint8))
LARGE = image_files.png(np.zeros((3000, 3000, 1), np.uint8))
LONG = audio_files.wav_head(2**26, 8, 192_000) + b"\0" * 64


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"inputs": {}}, "inputs_count", "at least one"),
        ({"signature": "translate"}, "signature_needs_input", "image"),
        ({"inputs": {"smell": "x"}}, "unknown_input", "image, text, audio"),
        ({"inputs": {"image_given": [1]}}, "unknown_input", "no input 'image_given'"),
        ({"inputs": {"text": ["a", "b"]}, "n": 3}, "inputs_count", "n 3, text 2"),
        ({"inputs": {"text": ["a", "b"], "image": []}}, "inputs_count", "text 2, image 0"),
        ({"inputs": {"image": "*"}}, "malformed_input", "base64"),
        ({"inputs": {"image": b64(b"no image")}}, "malformed_input", "image 'image' cannot"),
        ({"inputs": {"image": b64(AUDIO)}}, "malformed_input", "image 'image' cannot"),
        ({"inputs": {"image": b64(BOMB)}}, "malformed_input", "pixels"),
        ({"inputs": {"image": [b64(LARGE), b64(LARGE)]}}, "malformed_input", "pixels"),
        ({"inputs": {"audio": b64(IMAGE)}}, "malformed_input", "audio 'audio' cannot"),
        ({"inputs": {"audio": b64(AUDIO[:-9])}}, "malformed_input", "cut off"),
        ({"inputs": {"audio": b64(LONG)}}, "malformed_input", "cut off"),
        ({"inputs": {"audio": [0.5]}}, "malformed_input", "file as base64"),
        ({"inputs": {"text": "ab z"}}, "unknown_characters", "vocabulary lacks"),
        ({"inputs": {"text": "abcdefab"}}, "text_too_long", "tokens long"),
        ({"inputs": {"text": ["a", 1]}}, "malformed_input", "a text is wanted"),
        ({"inputs": {"text": "a"}, "outputs": ["smell"]}, "unknown_output", "smell"),
        ({"inputs": {"text": "a"}, "outputs": []}, "unknown_output", "nothing"),
        ({"inputs": {"text": "a"}, "outputs": ["text"], "format": "png"}, "format_needs_image", ""),
        (
            {"inputs": {"text": "a"}, "outputs": ["image"], "format": "wav"},
            "format_needs_sound",
            "",
        ),
        ({"inputs": {"text": "a"}, "label": 3}, "label_not_supported", "no label"),
        ({"inputs": {"text": "a"}, "n": 21}, "n_out_of_range", "20"),
        ({"model": "tiny", "inputs": {"text": "a"}}, "unknown_signature", "translate"),
        (
            {"model": "tiny", "signature": "sample", "inputs": {"text": "a"}},
            "unknown_input",
            "no input 'text'",
        ),
    ],
)
def test_inputs_that_cannot_be_used_are_refused(
    served: Listening, fields: dict[str, Any], code: str, said: str
) -> None:
    answer = post(served, **fields)
    error = answer.json()["error"]
    assert (error["code"], answer.status_code < 500) == (code, True)
    assert said in error["message"]
    assert post(served, inputs=given("text")).status_code == 200


def test_provenance_of_outputs_names_inputs_and_verify_says_so(
    served: Listening,
    translator: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = post(served, inputs=given("text"), format="png").content
    verdict = httpx.post(f"{served.url}/v1/verify", content=image).json()
    assert (verdict["made_here"], verdict["reason"]) == (False, "cannot_be_made_again")
    (tmp_path / "new.png").write_bytes(image)
    assert verify.command([str(tmp_path / "new.png")]) == 0
    said = capsys.readouterr()
    assert "from text:" in said.out
    assert "cannot be recreated" in said.err
    # Anybody can write so into a file: who asks for a comparison is not told that it held.
    with pytest.raises(ValueError, match="proves nothing: it was made from inputs"):
        verify.command([str(tmp_path / "new.png"), "--artifact", translator])


@pytest.mark.parametrize("form", ["png", "wav", "txt", "json"])
def test_the_command_writes_the_same_files_from_a_server_and_from_the_artifact(
    served: Listening, translator: str, tmp_path: Path, form: str
) -> None:
    (tmp_path / "seven.png").write_bytes(IMAGE)
    options = ["-n", "3", "--seed", "7", "--format", form, "--inputs"]
    options += ["image", str(tmp_path / "seven.png"), "text", TEXT]
    here, there = tmp_path / "here", tmp_path / "there"
    assert sample_command([translator, *options, "--out", str(here)]) == 0
    assert sample_command([served.url, *options, "--model", "translator", "--out", str(there)]) == 0
    files = sorted(path.name for path in here.iterdir())
    assert files == sorted(path.name for path in there.iterdir())
    kinds = {"png": ["png"] * 4 + ["txt"] + ["wav"] * 3, "wav": ["wav"] * 3, "txt": ["txt"]}
    assert sorted(name.rpartition(".")[2] for name in files) == kinds.get(form, ["json"] * 3)
    for name in files:
        if form != "json" or "text" in name:  # pixels and numbers lose a little on the way
            assert (here / name).read_bytes() == (there / name).read_bytes(), name


def test_sample_command_refuses_inputs_it_cannot_send(served: Listening, translator: str) -> None:
    for source in (translator, served.url):
        with pytest.raises(ValueError, match="smell"):
            sample_command([source, "--model", "translator", "--inputs", "smell", "x"])
        with pytest.raises(ValueError, match="lacks"):
            sample_command([source, "--model", "translator", "--inputs", "text", "xyz"])


def test_the_inference_protocol_lets_optional_inputs_be_left_out(
    served: Listening, translator: str
) -> None:
    drawn = Artifact.open(translator).draw("translate", 7, [0], given=tensors("text"))
    noise = [
        {"name": k, "datatype": "FP32", "shape": list(v.shape), "data": v.ravel().tolist()}
        for k, v in drawn.items()
        if k not in (*FILES, "text") and not k.endswith("_given")
    ]
    text = {"name": "text", "datatype": "BYTES", "shape": [1], "data": [TEXT]}
    url = f"{served.url}/v2/models/translator:translate/infer"
    answer = httpx.post(url, json={"inputs": [text, *noise]})
    assert answer.status_code == 200, answer.text
    outputs = {one["name"]: one["data"] for one in answer.json()["outputs"]}
    wanted = expected(translator, "text")
    assert outputs["new_text"] == Vocabulary(LETTERS).texts(wanted["new_text"])
    assert np.allclose(outputs["new_audio"], wanted["new_audio"].ravel(), atol=1e-5)
    refused = httpx.post(url, json={"inputs": noise})
    assert "translator:translate needs image, text, audio" in refused.json()["error"]


def test_a_list_is_one_for_each_sample(served: Listening) -> None:
    answer = post(served, inputs={"text": ["ab", "cd"], "image": given("image")["image"]})
    samples = answer.json()["samples"]
    for i, text in enumerate(("ab", "cd")):
        alone = post(served, inputs={**given("image"), "text": text}, first_index=i)
        (one,) = alone.json()["samples"]
        assert (one["text"], one["index"]) == (samples[i]["text"], i)


def test_an_encoder_is_reached_in_the_same_way(served: Listening, artifact: Artifact) -> None:
    fields = {"model": "tiny", "signature": "encode", "inputs": {"image": b64(IMAGE)}, "seed": None}
    answer = post(served, **fields)
    assert answer.json()["seed"] is None
    assert "x-aigc-seed" not in answer.headers
    assert post(served, **{**fields, "seed": 7}).json()["error"]["code"] == "no_effect"
    (sample,) = answer.json()["samples"]
    wanted = artifact.run("encode", {"image": tensors("image")["image"]})["vector"][0]
    assert np.allclose(sample["outputs"]["vector"], wanted, atol=1e-4)


def test_where_nothing_is_drawn_the_command_says_the_same_as_the_server(
    served: Listening, store: Path, tmp_path: Path
) -> None:
    (tmp_path / "seven.png").write_bytes(IMAGE)
    options = ["--signature", "encode", "--inputs", "image", str(tmp_path / "seven.png")]
    options += ["-n", "2", "--format", "npy"]
    for source in (f"{store}/tiny@1", served.url):
        out = tmp_path / f"out{len(source)}"
        assert sample_command([source, *options, "--model", "tiny", "--out", str(out)]) == 0
        assert [path.name for path in out.iterdir()] == ["tiny-1-seed0-0..1.npy"]
        with pytest.raises(ValueError, match="seed has no effect"):
            sample_command([source, *options, "--model", "tiny", "--seed", "7"])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"--b\r\n", "cannot be read"),
        (b"no form", "cannot be read"),
        (b'--b\r\nContent-Disposition: form-data; name="n"\r\n\r\nmany\r\n--b--\r\n', "int"),
        (
            b'--b\r\nContent-Disposition: form-data; name="n"\r\n\r\n1\r\n' * 2 + b"--b--\r\n",
            "twice",
        ),
        (
            b"".join(
                b'--b\r\nContent-Disposition: form-data; name="%d"\r\n\r\n1\r\n' % i
                for i in range(MAX_PARTS + 1)
            )
            + b"--b--\r\n",
            "more than 32",
        ),
        (
            b'--b\r\nContent-Disposition: form-data; name="outputs"\r\n\r\ntext\r\n'
            * (MAX_PARTS + 1)
            + b"--b--\r\n",
            "more than 32",
        ),
    ],
)
def test_broken_forms_are_refused(served: Listening, body: bytes, said: str) -> None:
    headers = {"content-type": "multipart/form-data; boundary=b"}
    answer = httpx.post(f"{served.url}/v1/samples", content=body, headers=headers)
    assert code_of(answer) == (400, "malformed_body")
    assert said in answer.json()["error"]["message"]
