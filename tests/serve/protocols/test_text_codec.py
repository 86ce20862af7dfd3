"""Texts in the native protocol: drawn, encoded, reconstructed, and from one to another."""

import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigc.artifact import Artifact, latents
from aigc.commands.sample import command
from serve.protocols.text_codec import Stop
from tests.serve.artifacts import LETTERS, WORDS_LENGTH
from tests.serve.client import Client, code_of, limited, serving
from tests.serve.listening import Gate, listening, settled


@pytest.fixture(scope="module")
def client(
    words: str, moods: str, store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    settings = limited(tmp_path_factory.mktemp("metrics"), max_batch=4, max_n=50)
    with serving(settings, words, moods, f"{store}/tiny@1") as client:
        yield client


@pytest.fixture(scope="module")
def artifact(words: str) -> Artifact:
    return Artifact.open(words, verify=False)


def drawn(artifact: Artifact, **options: Any) -> list[str]:
    return artifact.texts("sample", artifact.sample(**options))


def ask(client: Client, path: str = "/v1/samples", **fields: Any) -> httpx.Response:
    headers = fields.pop("headers", {})
    return client.request("POST", path, json={"model": "words", **fields}, headers=headers)


def test_texts_of_a_seed_are_those_of_the_artifact(client: Client, artifact: Artifact) -> None:
    answer = ask(client, n=30, seed=7, first_index=3)
    body = answer.json()
    expected = drawn(artifact, seed=7, n=30, first_index=3)
    assert [sample["text"] for sample in body["samples"]] == expected
    assert [sample["index"] for sample in body["samples"]] == list(range(3, 33))
    assert (body["model"], body["signature"], body["seed"]) == ("words@1", "sample", 7)
    assert body["digest"] == artifact.manifest.digest
    assert body["settings"] == {"temperature": 1.0, "top_k": 0.0, "max_tokens": WORDS_LENGTH}
    assert answer.headers["x-aigc-seed"] == "7"
    assert answer.headers["x-aigc-first-index"] == "3"
    assert "outputs" not in body["samples"][0]


def test_text_plain_gives_a_line_per_text(client: Client, artifact: Artifact) -> None:
    expected = "".join(f"{text}\n" for text in drawn(artifact, seed=7, n=5))
    for how in ({"format": "txt"}, {"headers": {"accept": "text/plain, */*;q=0.1"}}):
        answer = ask(client, n=5, seed=7, **how)
        assert answer.text == expected
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers["x-aigc-seed"] == "7"
    streamed = ask(client, n=5, seed=7, format="ndjson")
    assert streamed.text.count("\n") == 5
    assert ask(client, model="tiny", headers={"accept": "text/plain"}).status_code == 400
    both = {"accept": "application/json, text/plain, */*"}  # what axios sends
    assert ask(client, n=5, seed=7, headers=both).json()["seed"] == 7
    assert ask(client, model="tiny", headers=both).status_code == 200


def test_settings_are_those_of_the_request(client: Client, artifact: Artifact) -> None:
    for settings in (
        {"temperature": 0.5},
        {"temperature": 0, "max_tokens": 3},
        {"top_k": 2, "temperature": 2.0},
    ):
        body = ask(client, n=6, seed=1, settings=settings).json()
        expected = drawn(artifact, seed=1, n=6, settings=settings)
        assert [sample["text"] for sample in body["samples"]] == expected
        assert body["settings"].items() >= settings.items()


def of_form(client: Client, **fields: str) -> httpx.Response:
    parts = {name: (None, value) for name, value in {"model": "words", **fields}.items()}
    return client.request("POST", "/v1/samples", files=parts)


def test_a_form_has_settings_as_json(client: Client, artifact: Artifact) -> None:
    settings = {"temperature": 0.5, "max_tokens": 3}
    answer = of_form(client, n="6", seed="1", settings=json.dumps(settings))
    assert answer.json() == ask(client, n=6, seed=1, settings=settings).json()
    again = {"signature": "reconstruct", "stop": "b", "settings": '{"max_tokens": 2}'}
    answer = of_form(client, text="abba", **again)
    same = {**again, "settings": {"max_tokens": 2}}
    assert answer.json() == ask(client, inputs={"text": "abba"}, **same).json()
    assert answer.json()["settings"] == {"max_tokens": 2}
    operation = client.get("/openapi.json").json()["paths"]["/v1/samples"]["post"]
    form = operation["requestBody"]["content"]["multipart/form-data"]
    assert form["encoding"] == {"settings": {"contentType": "application/json"}}


@pytest.mark.parametrize(
    ("settings", "code", "message"),
    [
        ("temperature=0.5", "malformed_body", "settings must be JSON, as"),
        ("[0.5]", "malformed_body", "Expected `object`, got `array`"),
        ('{"top_k": "3"}', "malformed_body", "Expected `float`, got `str`"),
        ('{"a":' * 5000, "malformed_body", "Expected `float`, got `object`"),
        ('{"temperature": -1}', "setting_out_of_range", "temperature must be"),
    ],
)
def test_settings_of_a_form_are_checked(
    client: Client, settings: str, code: str, message: str
) -> None:
    error = of_form(client, settings=settings).json()["error"]
    assert error["code"] == code
    assert message in error["message"]


def test_a_text_ends_before_what_stops_it(client: Client, artifact: Artifact) -> None:
    whole = drawn(artifact, seed=7, n=30)
    for stop in ("j", ["feb", "b ", "ag"], ["be"]):
        strings = [stop] if isinstance(stop, str) else stop
        body = ask(client, n=30, seed=7, stop=stop).json()
        found = [sample["text"] for sample in body["samples"]]
        assert found == [
            text[: min((text.find(s) for s in strings if s in text), default=len(text))]
            for text in whole
        ]
        assert found != whole


@pytest.mark.parametrize(
    ("signature", "fields"),
    [
        ("sample", {"n": 20, "seed": 7}),
        ("decode", {"signature": "reconstruct", "inputs": {"text": "jeb hid"}, "n": 20}),
    ],
)
def test_a_stop_string_ends_the_steps_of_its_text(
    client: Client, signature: str, fields: dict[str, Any]
) -> None:
    def steps() -> float:
        registry = client.probe.metrics.registry
        labels = {"model": "words", "version": "1", "signature": signature}
        return registry.get_sample_value("aigc_steps_total", labels) or 0.0

    before = steps()
    letters = Counter("".join(sample["text"] for sample in ask(client, **fields).json()["samples"]))
    whole, before = steps() - before, steps()
    ask(client, **fields, stop=[letter for letter, _ in letters.most_common(4)])
    assert steps() - before < 0.5 * whole


def test_a_stop_is_found_over_several_tokens_and_inside_of_one() -> None:
    stop = Stop(pieces=LETTERS, strings=("jeb", "fa"))
    ids = {piece: i for i, piece in enumerate(LETTERS)}

    def enough(*pieces: str) -> bool:
        return stop(np.array([ids[piece] for piece in pieces], np.int64))

    assert enough("a", "j", "e", "b")
    assert enough("j", "e", "be")
    assert enough("f", "a")
    for pieces in (("j", "e"), ("j", "be"), ("e", "b"), ("f", "e", "a"), ()):
        assert not enough(*pieces)


@given(
    text=st.text("abc", max_size=30),
    strings=st.lists(st.text("abc", min_size=1, max_size=5), max_size=4),
)
def test_stop_never_takes_back_text_that_was_sent(text: str, strings: list[str]) -> None:
    stop = Stop(pieces=(), strings=tuple(strings))
    whole = stop.cut(text)
    assert not any(string in whole for string in strings)
    sent = 0
    for size in range(len(text) + 1):
        settled = stop.settled(text[:size])
        assert sent <= settled <= len(whole), "what was sent is never taken back"
        sent = settled
    longest = max(map(len, strings), default=1)
    assert len(whole) - sent < longest, "no more is kept back than may be a stop"


@pytest.mark.parametrize(
    ("fields", "code", "param", "message"),
    [
        ({"settings": {"warmth": 1}}, "unknown_setting", "settings", "has no setting 'warmth', it"),
        (
            {"settings": {"top_k": 1.5}},
            "setting_out_of_range",
            "top_k",
            "a whole number in [0, 13]",
        ),
        ({"settings": {"top_k": "3"}}, "malformed_body", None, "Expected `float`"),
        ({"signature": "step"}, "unknown_signature", "signature", "it has: sample, decode, encode"),
        ({"signature": "encode"}, "signature_needs_input", "signature", "needs text, which a seed"),
        ({"format": "png"}, "format_needs_image", "format", "gives no image"),
        ({"model": "tiny", "format": "txt"}, "format_needs_text", "format", "gives no text"),
        ({"model": "tiny", "settings": {"t": 1}}, "unknown_setting", "settings", "it has: none"),
        ({"model": "tiny", "stop": "a"}, "stop_not_supported", "stop", "writes no text"),
    ],
)
def test_requests_for_texts_are_refused_by_field(
    client: Client, fields: dict[str, Any], code: str, param: str | None, message: str
) -> None:
    answer = ask(client, **fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) in ((400, code), (404, code)), error
    assert param is None or error["param"] == param
    assert message in error["message"]


def test_texts_are_encoded(client: Client, artifact: Artifact) -> None:
    given = ["abba", "jeb hid", ""]
    body = ask(client, signature="encode", inputs={"text": given}).json()
    rows = artifact.vocabulary("encode").rows(given, WORDS_LENGTH)
    outputs = artifact.run("encode", {"text": rows})
    for i, sample in enumerate(body["samples"]):
        for name in ("mu", "logvar"):
            assert np.array_equal(np.float32(sample["outputs"][name]), outputs[name][i])
    assert body["seed"] is None
    assert body["signature"] == "encode"


def test_texts_are_reconstructed(client: Client, artifact: Artifact) -> None:
    given = ["abba", "jeb hid", "a"]
    rows = artifact.vocabulary("encode").rows(given, WORDS_LENGTH)
    mu = artifact.run("encode", {"text": rows})["mu"]
    expected = artifact.texts("decode", artifact.run("decode", {"latent": mu}))
    fields = {"signature": "reconstruct", "inputs": {"text": given}}
    body = ask(client, **fields).json()
    assert [sample["text"] for sample in body["samples"]] == expected
    assert ask(client, **fields, format="txt").text == "".join(f"{t}\n" for t in expected)
    one = ask(client, signature="reconstruct", inputs={"text": "abba"}, n=2).json()
    assert [sample["text"] for sample in one["samples"]] == [expected[0]] * 2
    short = ask(client, **fields, settings={"max_tokens": 2}).json()
    most = artifact.run("decode", {"latent": mu, "max_tokens": np.array([2, 2, 2])})
    assert [sample["text"] for sample in short["samples"]] == artifact.texts("decode", most)


def test_what_is_reconstructed_has_every_format_of_texts(
    client: Client, artifact: Artifact
) -> None:
    fields: dict[str, Any] = {"signature": "reconstruct", "inputs": {"text": ["abba", "jeb"]}}
    body = ask(client, **fields, first_index=5, outputs=["text"]).json()
    assert (body["signature"], body["seed"]) == ("reconstruct", None)
    assert body["settings"] == {"max_tokens": WORDS_LENGTH}
    assert [sample["index"] for sample in body["samples"]] == [5, 6]
    lines = ask(client, **fields, first_index=5, format="ndjson")
    assert [json.loads(line) for line in lines.iter_lines()] == body["samples"]
    tokens = np.load(io.BytesIO(ask(client, **fields, format="npy").content))
    found = artifact.vocabulary("decode").texts(tokens)
    assert found == [sample["text"] for sample in body["samples"]]


AGAIN: dict[str, Any] = {"signature": "reconstruct", "inputs": {"text": ["abba", "jeb"]}}
BETWEEN: dict[str, Any] = {"from_text": "abba", "to_text": "jeb", "frames": 2}


@pytest.mark.parametrize(
    ("fields", "wrong", "code"),
    [
        (AGAIN, {"settings": {"max_tokens": 25}}, "setting_out_of_range"),
        (AGAIN, {"settings": {"temperature": 1}}, "unknown_setting"),
        (AGAIN, {"label": [0, 0]}, "label_not_supported"),
        (AGAIN, {"format": "grid"}, "format_needs_image"),
        (AGAIN, {"outputs": ["smell"]}, "unknown_output"),
        (AGAIN, {"stop": "a" * 65}, "stop_out_of_range"),
        (AGAIN, {"first_index": -1}, "first_index_out_of_range"),
        (AGAIN, {"seed": 1}, "no_effect"),
        (AGAIN, {"inputs": {"tex": ["abba"]}}, "unknown_input"),
        (AGAIN, {"n": 51, "inputs": {"text": "abba"}}, "n_out_of_range"),
        (BETWEEN, {"settings": {"max_tokens": 25}}, "setting_out_of_range"),
        (BETWEEN, {"settings": {"temperature": 1}}, "unknown_setting"),
        (BETWEEN, {"label": [0, 0]}, "label_not_supported"),
        (BETWEEN, {"format": "png"}, "format_needs_image"),
        (BETWEEN, {"index": 1}, "no_effect"),
        (BETWEEN, {"frames": 51}, "frames_out_of_range"),
    ],
)
def test_requests_are_refused_before_anything_is_encoded(
    client: Client, fields: dict[str, Any], wrong: dict[str, Any], code: str
) -> None:
    path = "/v1/samples" if fields is AGAIN else "/v1/interpolate"

    def encoded() -> float:
        labels = {"model": "words", "version": "1", "signature": "encode"}
        found = client.probe.metrics.registry.get_sample_value("aigc_samples_total", labels)
        return found or 0.0

    before = encoded()
    answer = ask(client, path, **{**fields, **wrong})
    assert code_of(answer) == (400, code)
    assert encoded() == before
    assert ask(client, path, **fields).status_code == 200
    assert encoded() == before + 2


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({"inputs": {"text": ["aXbY"]}}, "unknown_characters", "lacks: 'X', 'Y'; it has: ' abcd"),
        ({"inputs": {"text": ["ab" * 12]}}, "text_too_long", "at most 23 tokens long, got 24"),
        ({"inputs": {"text": ["a" * 900_000]}}, "text_too_long", "got 900000 characters"),
        ({"inputs": {"text": []}}, "n_out_of_range", "got 0"),
        ({"inputs": {"text": ["a"] * 51}}, "n_out_of_range", "got 51"),
        (
            {"inputs": {"text": "a"}, "signature": "reconstruct", "n": 10**15},
            "n_out_of_range",
            "[1, 50]",
        ),
        ({"inputs": {"image": ["a"]}}, "unknown_input", "takes no input 'image', it takes: text"),
        ({"inputs": {}}, "inputs_count", "at least one input"),
        ({"inputs": {"text": ["a"]}, "seed": 1}, "no_effect", "seed has no effect"),
        ({"inputs": {"text": ["a"]}, "label": 1}, "label_not_supported", "takes no label"),
        ({"inputs": {"text": ["a"]}, "signature": "sample"}, "unknown_input", "it takes: none"),
        (
            {"inputs": {"text": ["a"]}, "model": "tiny", "signature": "reconstruct"},
            "unknown_signature",
            "tiny@1 has no signature 'reconstruct'",
        ),
        ({"inputs": {"text": ["a"]}, "model": "moods"}, "signature_needs_input", "needs label"),
        ({"inputs": {"text": ["a"]}, "format": "txt"}, "format_needs_text", "gives no text"),
    ],
)
def test_texts_that_cannot_be_run_on_are_refused(
    client: Client, fields: dict[str, Any], code: str, message: str
) -> None:
    answer = ask(client, **{"signature": "encode", **fields})
    assert answer.json()["error"]["code"] == code
    assert message in answer.json()["error"]["message"]
    assert answer.status_code in (400, 404)


def test_labels_choose_the_class_of_texts(client: Client, moods: str) -> None:
    artifact = Artifact.open(moods, verify=False)
    body = ask(client, model="moods", n=5, seed=2, label=1).json()
    expected = drawn(artifact, seed=2, n=5, label=1)
    assert [sample["text"] for sample in body["samples"]] == expected
    assert {sample["label"] for sample in body["samples"]} == {1}
    found = []
    for label in (0, [1, 1]):
        fields = {"signature": "reconstruct", "inputs": {"text": ["abc", "jj"]}, "label": label}
        answer = ask(client, model="moods", **fields)
        assert answer.status_code == 200, answer.text
        found.append([sample["text"] for sample in answer.json()["samples"]])
    assert found[0] != found[1]


def test_interpolate_goes_from_one_text_to_another(client: Client, artifact: Artifact) -> None:
    ends = {"from_text": "abba", "to_text": "jeb hid"}
    answer = ask(client, "/v1/interpolate", **ends, frames=5)
    texts = answer.json()["texts"]
    rows = artifact.vocabulary("encode").rows(list(ends.values()), WORDS_LENGTH)
    a, b = artifact.run("encode", {"text": rows})["mu"]
    latent = latents.slerp(a, b, np.linspace(0, 1, 5))
    assert texts == artifact.texts("decode", artifact.run("decode", {"latent": latent}))
    inputs = {"text": list(ends.values())}
    body = ask(client, signature="reconstruct", inputs=inputs).json()
    assert [texts[0], texts[-1]] == [sample["text"] for sample in body["samples"]]
    lines = ask(client, "/v1/interpolate", **ends, frames=5, headers={"accept": "text/plain"})
    assert lines.text == "".join(f"{text}\n" for text in texts)
    assert lines.headers["x-aigc-model"] == "words@1"


def test_interpolate_goes_between_texts_of_two_seeds(client: Client, artifact: Artifact) -> None:
    ends = {"from_seed": 7, "to_seed": 8, "index": 2}
    texts = ask(client, "/v1/interpolate", **ends, frames=6).json()["texts"]
    expected = [drawn(artifact, seed=seed, first_index=2)[0] for seed in (7, 8)]
    assert [texts[0], texts[-1]] == expected
    cold = {"temperature": 0}
    texts = ask(client, "/v1/interpolate", **ends, frames=2, settings=cold).json()["texts"]
    assert texts == [drawn(artifact, seed=s, first_index=2, settings=cold)[0] for s in (7, 8)]


def test_interpolate_changes_the_class_half_way(client: Client) -> None:
    ends = {"from_text": "abba", "to_text": "abba", "model": "moods", "frames": 4}
    first = ask(client, "/v1/interpolate", **ends, label=0).json()["texts"]
    assert len(set(first)) == 1
    both = ask(client, "/v1/interpolate", **ends, label=[0, 1]).json()["texts"]
    assert both[:2] == first[:2]
    assert both[2] == both[3] != both[0]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"from_text": "a"}, "end_missing"),
        ({"from_seed": 1}, "end_missing"),
        ({}, "end_missing"),
        ({"from_text": "a", "to_text": "b", "to_seed": 1}, "ends_twice"),
        ({"from_text": "a", "to_text": "B"}, "unknown_characters"),
        ({"from_text": "a", "to_text": "b", "frames": 51}, "frames_out_of_range"),
        ({"from_text": "a", "to_text": "b", "format": "png"}, "format_needs_image"),
        ({"from_text": "a", "to_text": "b", "label": 1}, "label_not_supported"),
        ({"from_seed": 1, "to_seed": 2, "format": "gif"}, "format_needs_image"),
        ({"from_text": "a", "to_text": "b", "model": "tiny"}, "unknown_signature"),
        ({"from_text": "a", "to_text": "b", "index": 1}, "no_effect"),
        ({"from_text": "a", "to_text": "b", "signature": "encode"}, "no_effect"),
        ({"from_text": "a", "to_text": "b", "model": "moods"}, "signature_needs_input"),
    ],
)
def test_interpolate_refuses_missing_or_contradicting_ends(
    client: Client, fields: dict[str, Any], code: str
) -> None:
    answer = ask(client, "/v1/interpolate", **fields)
    assert answer.json()["error"]["code"] == code, answer.text
    assert answer.status_code in (400, 404)


def test_byte_pairs_count_as_one_token(client: Client) -> None:
    assert "be" in LETTERS
    body = ask(client, signature="reconstruct", inputs={"text": ["be" * 23]})
    assert body.status_code == 200
    assert ask(client, signature="encode", inputs={"text": ["be" * 24]}).status_code == 400


@pytest.mark.parametrize(
    "flags",
    [
        ("-n", "30", "--first-index", "5"),
        ("-n", "3", "--settings", "temperature", "0.5", "max_tokens", "7"),
        ("-n", "3", "--format", "json"),
    ],
)
def test_the_command_writes_the_same_bytes_from_a_server_as_from_the_artifact(
    flags: tuple[str, ...],
    words: str,
    tmp_path: Path,
    metrics_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = []
    with listening(limited(metrics_dir, max_batch=4), words) as served:
        for source in (words, served.url):
            out = str(tmp_path / str(len(found)))
            assert command([source, "--seed", "3", "--out", out, *flags]) == 0
            path = Path(capsys.readouterr().out.strip())
            found.append((path.name, path.read_bytes()))
        with pytest.raises(ValueError, match=r"temperature must be a number in \[0, 100\], got -1"):
            command([served.url, "--settings", "temperature", "-1", "--out", str(tmp_path)])
    assert found[0] == found[1]
    assert found[0][1]


def test_texts_leave_the_batch_when_the_client_hangs_up(words: str, metrics_dir: Path) -> None:
    with listening(limited(metrics_dir, max_batch=4), words) as served:
        hold = Gate(served.probe, free=2)
        body = {"model": "words", "n": 9, "seed": 1}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{served.url}/v1/samples", json=body, timeout=0.3)
        settled(lambda: served.requests(code="499") == 1)
        assert served.probe.queued == 0
        hold.open.set()
        settled(lambda: served.probe.batcher.running_since_s is None)
        assert hold.runs == 3
