"""Speech as OpenAI's own SDK asks for it, over a socket, against a replica of this process."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from aigc.artifact import Artifact, audio_files
from aigc.commands import verify
from serve.protocols.openai.speech import MAX_INPUT
from serve.settings import Limits, Settings
from tests.serve.listening import Gate, Listening, listening, settled

SENTENCE = "one two twenty one, TWENTY! one two one two one"
LABELS = [0, 3, 2, 1, 0, 3, 0, 3, 0]


@pytest.fixture
def served(voices: str, store: Path, metrics_dir: Path) -> Iterator[Listening]:
    limits = Limits(max_n=20, max_batch=2)
    settings = Settings(metrics_dir=str(metrics_dir), limits=limits)
    with listening(settings, voices, f"{store}/tiny@1") as served:
        yield served


@pytest.fixture
def client(served: Listening) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def gate(served: Listening) -> Iterator[Gate]:
    gate = Gate(served.probe, "voices@1")
    yield gate
    gate.open.set()


def expected(voices: str, labels: list[int], seed: int = 7, first_index: int = 0) -> np.ndarray:
    """(samples, 1) int16: the words one after another, straight from the artifact."""
    artifact = Artifact.open(voices)
    outputs = artifact.sample(seed=seed, n=len(labels), first_index=first_index, label=labels)
    return np.concatenate([*audio_files.to_pcm16(outputs["sound"])])


def speak(client: openai.OpenAI, words: str = "one", **fields: Any) -> Any:
    extra = {"seed": 7, **fields.pop("extra_body", {})}
    fields = {"model": "voices", "voice": "default", "extra_body": extra, **fields}
    return client.audio.speech.create(input=words, **fields)


def refused(client: openai.OpenAI, words: str = "one", **fields: Any) -> tuple[str, str, str]:
    with pytest.raises(openai.BadRequestError) as caught:
        speak(client, words, **fields)
    body: Any = caught.value.body
    return body["code"], body["param"], body["message"]


@pytest.mark.parametrize(("words", "labels"), [("Two.", [3]), (SENTENCE, LABELS)])
@pytest.mark.parametrize("form", ["wav", "flac", "pcm"])
def test_words_are_the_samples_of_the_artifact_one_after_another(
    client: openai.OpenAI, voices: str, words: str, labels: list[int], form: Any
) -> None:
    if form == "flac":
        pytest.importorskip("soundfile")
    answer = speak(client, words, response_format=form, extra_body={"first_index": 5})
    assert answer.response.headers["content-type"] == f"audio/{form}"
    assert answer.response.headers["x-aigc-seed"] == "7"
    samples = expected(voices, labels, first_index=5)
    if form == "pcm":
        assert answer.content == audio_files.pcm(samples)
        return
    found = audio_files.read_sound(answer.content)
    assert np.array_equal(audio_files.to_pcm16(found.samples), samples)
    assert found.rate_hz == 8000
    assert found.provenance is not None
    assert (found.provenance.n, found.provenance.index) == (len(labels), 5)


@pytest.mark.parametrize("words", ["Two", SENTENCE])
def test_a_written_wav_is_made_again_by_aigc_verify_and_by_the_server(
    client: openai.OpenAI,
    served: Listening,
    voices: str,
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "words.wav"
    with client.audio.speech.with_streaming_response.create(
        model="voices", input=words, voice="default", response_format="wav"
    ) as answer:
        answer.stream_to_file(path)
    assert verify.command([str(path), "--artifact", voices]) == 0
    said = capsys.readouterr()
    assert "every sample is equal" in said.err
    assert ("a sequence of 9" in said.out) == (words == SENTENCE)
    data = path.read_bytes()
    verdict = httpx.post(f"{served.url}/v1/verify", content=data).json()
    assert (verdict["made_here"], verdict["reason"], verdict["max_abs_difference"]) == (
        True,
        "equal",
        0,
    )
    altered = httpx.post(f"{served.url}/v1/verify", content=data[:-2] + b"\0\x40").json()
    assert (altered["made_here"], altered["reason"]) == (False, "samples_differ")


def test_the_first_words_come_before_the_rest_is_spoken(
    client: openai.OpenAI, gate: Gate, voices: str
) -> None:
    gate.free = 1
    samples = audio_files.pcm(expected(voices, LABELS))
    with client.audio.speech.with_streaming_response.create(
        model="voices",
        input=SENTENCE,
        voice="default",
        response_format="pcm",
        extra_body={"seed": 7},
    ) as answer:
        chunks = answer.iter_bytes()
        first = next(chunks)
        assert len(first) < len(samples)
        gate.open.set()
        assert first + b"".join(chunks) == samples


def test_a_failure_under_way_breaks_off_and_never_passes_for_whole(
    served: Listening, gate: Gate
) -> None:
    gate.fails_at = 3
    body = {"model": "voices", "input": SENTENCE, "seed": 7, "response_format": "pcm"}
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(f"{served.url}/v1/audio/speech", json=body)
    settled(lambda: served.requests(code="500", api="openai") == 1)


def test_hanging_up_ends_the_work(served: Listening, gate: Gate) -> None:
    gate.free = 1
    body = {"model": "voices", "input": SENTENCE, "seed": 7}
    with httpx.stream("POST", f"{served.url}/v1/audio/speech", json=body) as answer:
        chunks = answer.iter_raw()  # kept: letting go of it hangs up
        next(chunks)
        settled(lambda: gate.runs == 2)
    settled(lambda: served.requests(code="499") == 1)
    assert served.probe.queued == 0


@pytest.mark.parametrize(
    ("words", "fields", "expected"),
    [
        ("one tree", {}, ("unknown_prompt", "input", "Two")),
        ("one tow", {}, ("unknown_prompt", "input", "did you mean 'Two'")),
        ("", {}, ("unknown_prompt", "input", "a word to speak")),
        ("... !", {}, ("unknown_prompt", "input", "a word to speak")),
        ("one " * 21, {}, ("n_out_of_range", "n", "[1, 20]")),
        ("one " * MAX_INPUT, {}, ("input_too_long", "input", f"{MAX_INPUT}")),
        ("one", {"voice": "alloy"}, ("unsupported_value", "voice", "the seed selects")),
        ("one", {"response_format": "mp3"}, ("unsupported_value", "response_format", "'wav'")),
        ("one", {"speed": 2.0}, ("unsupported_value", "speed", "2.0")),
        ("one", {"instructions": "whisper"}, ("unsupported_value", "instructions", "whisper")),
        ("one", {"stream_format": "sse"}, ("unsupported_value", "stream_format", "sse")),
        ("one", {"model": "tiny"}, ("model_gives_no_sound", "model", "tiny@1")),
    ],
)
def test_speech_refuses_unsupported_fields_by_name(
    client: openai.OpenAI, words: str, fields: dict[str, Any], expected: tuple[str, str, str]
) -> None:
    code, param, message = refused(client, words, **fields)
    assert (code, param) == expected[:2]
    assert expected[2] in message
    assert len(speak(client).content) > 800


def test_a_number_names_a_class_as_it_does_for_images(client: openai.OpenAI) -> None:
    assert speak(client, "3 0").content == speak(client, "two one").content


def test_speech_fields_at_their_defaults_are_accepted(client: openai.OpenAI) -> None:
    asked = speak(client, speed=1.0, instructions="", response_format="wav", stream_format="audio")
    assert asked.content == speak(client, voice="auto").content
