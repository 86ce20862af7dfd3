"""Completions as OpenAI's own SDK asks for them, over a socket, whole and streamed."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from aigc.artifact import Artifact
from aigc.artifact.autoregressive import PREFIX
from aigc.artifact.vocabulary import Vocabulary
from serve.settings import Limits, Settings
from tests.serve.artifacts import WORDS_LENGTH
from tests.serve.listening import Gate, Listening, listening, settled


def hosting(metrics_dir: Path, *references: str, **limits: Any) -> Any:
    limits = {"max_n": 40, "max_batch": 4, **limits}
    settings = Settings(metrics_dir=str(metrics_dir), limits=Limits(**limits))
    return listening(settings, *references)


@pytest.fixture(scope="module")
def served(
    words: str, moods: str, store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Listening]:
    metrics_dir = tmp_path_factory.mktemp("metrics")
    with hosting(metrics_dir, words, moods, f"{store}/tiny@1") as served:
        yield served


def sdk(served: Listening) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0)


@pytest.fixture
def client(served: Listening) -> Iterator[openai.OpenAI]:
    with sdk(served) as client:
        yield client


@pytest.fixture(scope="module")
def artifact(words: str) -> Artifact:
    return Artifact.open(words, verify=False)


def complete(client: openai.OpenAI, prompt: Any = "", model: str = "words", **fields: Any) -> Any:
    return client.completions.create(model=model, prompt=prompt, **fields)


def texts(answer: Any) -> list[str]:
    return [choice.text for choice in answer.choices]


def gathered(stream: Any) -> tuple[list[str], list[str], list[Any]]:
    """The texts of a stream, why they ended, and its chunks."""
    found: dict[int, str] = {}
    reasons: dict[int, str] = {}
    chunks = list(stream)
    for chunk in chunks:
        for choice in chunk.choices:
            assert choice.index not in reasons, "nothing comes after the end"
            found[choice.index] = found.get(choice.index, "") + choice.text
            if choice.finish_reason is not None:
                reasons[choice.index] = choice.finish_reason
    order = sorted(found)
    return [found[i] for i in order], [reasons[i] for i in order], chunks


def test_an_empty_prompt_draws_the_texts_of_the_seed(
    client: openai.OpenAI, artifact: Artifact
) -> None:
    expected = artifact.texts("sample", artifact.sample(seed=7, n=20, first_index=2))
    answer = complete(client, n=20, seed=7, extra_body={"first_index": 2})
    assert texts(answer) == expected
    assert answer.object == "text_completion"
    assert (answer.model, answer.system_fingerprint) == ("words@1", artifact.manifest.digest)
    assert [choice.index for choice in answer.choices] == list(range(20))
    made = answer.model_extra["aigc"]
    assert (made["seed"], made["first_index"], made["labels"]) == (7, 2, None)
    assert (
        complete(client, None, seed=7).choices[0].text == complete(client, seed=7).choices[0].text
    )
    assert (
        complete(client).model_extra["aigc"]["seed"] != complete(client).model_extra["aigc"]["seed"]
    )


def lengths(inputs: Any, artifact: Artifact, prompt: int) -> list[int]:
    """Number of tokens written after a prompt of a number of them."""
    rows = artifact.run("sample", inputs)["text"]
    return [int(n) - prompt for n in (rows != 0).sum(1)]


@pytest.mark.parametrize("echo", [False, True])
def test_a_prompt_is_how_the_texts_begin(
    client: openai.OpenAI, artifact: Artifact, echo: bool
) -> None:
    inputs = artifact.draw("sample", 5, range(12))
    known = artifact.vocabulary()
    inputs[PREFIX] = known.rows(["bee"] * 12, WORDS_LENGTH)
    whole = artifact.texts("sample", artifact.run("sample", inputs))
    assert all(text.startswith("bee") for text in whole)
    answer = complete(client, "bee", n=12, seed=5, echo=echo)
    assert texts(answer) == [text if echo else text[3:] for text in whole]
    prompt = len(known.encode("bee"))
    tokens = [len(known.encode(text)) for text in whole]
    assert answer.usage.prompt_tokens == prompt == 2
    short = complete(client, "bee", n=12, seed=5, echo=echo, max_tokens=4)
    assert short.usage.completion_tokens == sum(min(4, n) for n in lengths(inputs, artifact, 2))
    begin = "bee" if echo else ""
    for text, long in zip(texts(short), texts(answer), strict=True):
        assert long.startswith(text)
        assert len(text) - len(begin) <= 8
    # What was written may be what the vocabulary would have put in fewer tokens.
    assert answer.usage.completion_tokens >= sum(tokens) - 12 * prompt
    assert answer.usage.total_tokens == answer.usage.completion_tokens + prompt


def test_several_prompts_are_texts_of_one_seed_in_order(client: openai.OpenAI) -> None:
    prompts = ["a", "", "jeb"]
    answer = complete(client, prompts, n=2, seed=3, echo=True, max_tokens=4)
    assert len(answer.choices) == 6
    for p, prompt in enumerate(prompts):
        for j in range(2):
            index = 2 * p + j
            alone = complete(
                client,
                prompt,
                seed=3,
                echo=True,
                max_tokens=4,
                extra_body={"first_index": index},
            )
            assert answer.choices[index].text == alone.choices[0].text
            assert answer.choices[index].finish_reason == alone.choices[0].finish_reason
    assert answer.usage.prompt_tokens == 1 + 0 + 3


FIELDS: list[dict[str, Any]] = [
    {},
    {"prompt": "ab", "echo": True},
    {"prompt": ["ab", "h"], "n": 3},
    {"temperature": 0.3, "max_tokens": 7},
    {"extra_body": {"top_k": 2}, "temperature": 5.0},
    {"stop": ["j", "be"], "n": 6},
    {"stop": "ebe", "prompt": "eb", "echo": True, "n": 6},
    {"temperature": 0, "stop": ["aaa", "jj", "hh", "e"]},
]


@pytest.mark.parametrize("fields", FIELDS)
def test_a_stream_is_the_whole_answer_in_parts(
    client: openai.OpenAI, fields: dict[str, Any]
) -> None:
    fields = {"n": 9, "seed": 11, **fields}
    whole = complete(client, **fields)
    stream = complete(client, **fields, stream=True, stream_options={"include_usage": True})
    found, reasons, chunks = gathered(stream)
    assert found == texts(whole)
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert {chunk.usage for chunk in chunks[:-1]} == {None}
    without, _, chunks = gathered(complete(client, **fields, stream=True))
    assert without == found
    assert all(chunk.choices for chunk in chunks)


def test_many_prompts_are_read_beside_the_event_loop(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    encode = Vocabulary.encode

    def noted(self: Vocabulary, text: str) -> list[int]:
        threads.append(threading.current_thread().name)
        return encode(self, text)

    monkeypatch.setattr(Vocabulary, "encode", noted)
    complete(client, ["be" * 23] * 40)
    assert {name.split("_")[0] for name in threads} == {"encoder"}


def test_finish_reason_says_why_a_text_ended(client: openai.OpenAI, artifact: Artifact) -> None:
    rows = artifact.sample(seed=7, n=30)["text"]
    written = (rows != 0).sum(1)
    answer = complete(client, n=30, seed=7)
    for choice, length in zip(answer.choices, written, strict=True):
        assert choice.finish_reason == ("length" if length == WORDS_LENGTH else "stop")
    assert answer.usage.completion_tokens == written.sum()
    short = complete(client, n=30, seed=7, max_tokens=5)
    for choice, length in zip(short.choices, written, strict=True):
        assert choice.finish_reason == ("length" if length >= 5 else "stop")
    stopped = complete(client, n=30, seed=7, stop=["a"])
    whole = artifact.texts("sample", {"text": rows})
    assert texts(stopped) == [text.partition("a")[0] for text in whole]
    for choice, text, length in zip(stopped.choices, whole, written, strict=True):
        stops = "a" in text or length < WORDS_LENGTH
        assert choice.finish_reason == ("stop" if stops else "length")
    assert stopped.usage.completion_tokens < answer.usage.completion_tokens
    known = artifact.vocabulary().pieces
    last = complete(client, n=30, seed=7, max_tokens=2, stop="a")
    seconds = ["".join(known[token] for token in row[:2]) for row in rows.tolist()]
    assert any(text[1:] == "a" != text[:1] for text in seconds), "a stop as the last token"
    for choice, text, length in zip(last.choices, seconds, written, strict=True):
        assert choice.finish_reason == ("stop" if "a" in text or length < 2 else "length")


def test_a_class_is_chosen_by_its_label(client: openai.OpenAI, moods: str) -> None:
    artifact = Artifact.open(moods, verify=False)
    answer = complete(client, model="moods", n=4, seed=2, extra_body={"label": 1})
    assert texts(answer) == artifact.texts("sample", artifact.sample(seed=2, n=4, label=1))
    assert answer.model_extra["aigc"]["labels"] == [1] * 4
    named = complete(client, model="moods", n=4, seed=2, extra_body={"label": "sad"})
    assert texts(named) == texts(answer)
    drawn = complete(client, model="moods", n=4, seed=2).model_extra["aigc"]["labels"]
    assert set(drawn) == {0, 1}


def test_completion_fields_at_their_defaults_are_accepted(client: openai.OpenAI) -> None:
    full = complete(
        client,
        seed=1,
        n=2,
        best_of=2,
        top_p=1,
        frequency_penalty=0,
        presence_penalty=0.0,
        logit_bias={},
        logprobs=None,
        suffix=None,
        user="someone",
        stop=None,
        temperature=1,
        echo=False,
        stream=False,
    )
    assert texts(full) == texts(complete(client, seed=1, n=2))


BAD: list[tuple[dict[str, Any], str, str | None, str]] = [
    (
        {"prompt": "abc", "max_tokens": 22},
        "setting_out_of_range",
        "max_tokens",
        "in [1, 21] beside a prompt of 3, got 22",
    ),
    ({"extra_body": {"top_k": 10**400}}, "setting_out_of_range", "top_k", "in [0, 13], got 1000"),
    ({"prompt": [1, 2]}, "unsupported_value", "prompt", "token ids are not supported"),
    ({"prompt": [[1], [2]]}, "unsupported_value", "prompt", "token ids are not supported"),
    ({"prompt": []}, "unsupported_value", "prompt", "a string or a list of strings"),
    ({"n": 21, "prompt": ["a", "b"]}, "n_out_of_range", "n", "got 42"),
    ({"top_p": 0.5}, "unsupported_value", "top_p", "must be 1; use top_k, got '0.5'"),
    ({"best_of": 2}, "unsupported_value", "best_of", "must be n, which is 1"),
    ({"frequency_penalty": 1}, "unsupported_value", "frequency_penalty", "must be 0"),
    ({"presence_penalty": 1}, "unsupported_value", "presence_penalty", "must be 0"),
    ({"logit_bias": {"1": 5}}, "unsupported_value", "logit_bias", "must be empty"),
    ({"logprobs": 3}, "unsupported_value", "logprobs", "must be null"),
    ({"suffix": "b"}, "unsupported_value", "suffix", "from left to right"),
    ({"stream_options": {"include_usage": True}}, "unsupported_value", "stream_options", "stream"),
    ({"model": "tiny"}, "model_gives_no_text", "model", "writes no text"),
    ({"extra_body": {"signature": "encode"}}, "model_gives_no_text", "model", "writes no text"),
    ({"extra_body": {"signature": "decode"}}, "signature_needs_input", "signature", "needs latent"),
    ({"extra_body": {"tools": []}}, "malformed_body", "tools", "unknown field"),
]


@pytest.mark.parametrize(("fields", "code", "param", "message"), BAD)
@pytest.mark.parametrize("stream", [False, True])
def test_completions_refuses_unsupported_fields_by_name(
    client: openai.OpenAI,
    fields: dict[str, Any],
    code: str,
    param: str | None,
    message: str,
    stream: bool,
) -> None:
    if stream and "stream_options" in fields:
        return
    with pytest.raises(openai.BadRequestError) as refused:
        complete(client, **fields, stream=stream)
    error = refused.value
    assert (error.code, error.param, error.type) == (code, param, "invalid_request_error")
    assert message in error.message


def test_the_first_token_comes_before_the_last_is_written(words: str, metrics_dir: Path) -> None:
    with hosting(metrics_dir, words) as served, sdk(served) as client:
        hold = Gate(served.probe, free=2)
        stream = complete(client, seed=7, n=1, stream=True, extra_body={"first_index": 4})
        first = next(iter(stream))
        assert first.choices[0].text
        assert first.choices[0].finish_reason is None
        assert stream.response.headers["x-aigc-seed"] == "7"
        assert stream.response.headers["content-type"].startswith("text/event-stream")
        settled(lambda: hold.runs == 3)
        hold.open.set()
        found, _, _ = gathered(stream)
        artifact = Artifact.open(words, verify=False)
        whole = artifact.texts("sample", artifact.sample(seed=7, first_index=4))
        assert [first.choices[0].text + found[0]] == whole
        settled(lambda: served.requests(code="200", api="openai") == 1)


def test_a_stream_leaves_the_batch_when_its_client_hangs_up(words: str, metrics_dir: Path) -> None:
    with hosting(metrics_dir, words) as served, sdk(served) as client:
        hold = Gate(served.probe, free=2)
        stream = complete(client, seed=7, n=3, stream=True)
        next(iter(stream))
        settled(lambda: hold.runs == 3)
        stream.close()
        settled(lambda: served.requests(code="499") == 1)
        hold.open.set()
        settled(lambda: served.probe.batcher.running_since_s is None)
        assert hold.runs == 3
        assert served.probe.queued == 0
        assert texts(complete(client, seed=7, n=3)) == texts(complete(client, seed=7, n=3))


def test_a_graph_that_fails_ends_the_stream_with_the_error(words: str, metrics_dir: Path) -> None:
    with hosting(metrics_dir, words) as served, sdk(served) as client:
        hold = Gate(served.probe, free=3)
        hold.fails_at = 4
        stream = complete(client, seed=7, n=2, stream=True)
        hold.open.set()
        with pytest.raises(openai.APIError, match="the server failed on this request") as failed:
            list(stream)
        assert failed.value.code == "internal"
        settled(lambda: served.requests(code="500") == 1)
        hold.fails_at = 10**9
        assert len(complete(client, n=2).choices) == 2


def test_streams_of_many_at_once_are_each_alone(served: Listening, client: openai.OpenAI) -> None:
    async def one(other: openai.AsyncOpenAI, i: int) -> list[str]:
        stream = await other.completions.create(
            model="words",
            prompt="be"[: i % 3],
            seed=i,
            n=1 + i % 3,
            temperature=0.5 + i / 10,
            stream=True,
        )
        found = [""] * (1 + i % 3)
        async for chunk in stream:
            for choice in chunk.choices:
                found[choice.index] += choice.text
        return found

    async def every() -> list[list[str]]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any") as other:
            return await asyncio.gather(*(one(other, i) for i in range(16)))

    for i, found in enumerate(asyncio.run(every())):
        fields = {"prompt": "be"[: i % 3], "n": 1 + i % 3, "temperature": 0.5 + i / 10}
        assert found == texts(complete(client, seed=i, **fields))


def test_the_wire_is_server_sent_events(served: Listening) -> None:
    body = {"model": "words", "prompt": "a", "seed": 1, "stream": True}
    answer = httpx.post(f"{served.url}/v1/completions", json=body)
    assert answer.headers["content-type"] == "text/event-stream"
    events = answer.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert all(chunk["object"] == "text_completion" for chunk in chunks)
    assert all("usage" not in chunk for chunk in chunks)
    assert np.all([len(chunk["choices"]) == 1 for chunk in chunks])
