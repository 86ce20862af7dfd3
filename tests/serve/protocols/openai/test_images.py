"""OpenAI's protocol for images as its own SDK speaks it, against a replica of this process."""

import base64
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from aigc.artifact import Artifact, Store, image_files
from serve.settings import Limits, Settings
from tests.serve.artifacts import CLASSES, publish
from tests.serve.listening import Listening, listening

LETTERS = ("a", "A", "b", "long s", "7", "dot", "twin", "twin", "colours", "Ärger")


def sdk(served: Listening) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0)


@pytest.fixture(scope="module")
def served(
    store: Path, colours: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Listening]:
    folder = tmp_path_factory.mktemp("letters")
    letters = publish(Store(folder), folder / "build", "letters", 9, LETTERS)
    limits = Limits(max_n=20, max_batch=4)
    metrics_dir = tmp_path_factory.mktemp("metrics")
    settings = Settings(metrics_dir=str(metrics_dir), limits=limits)
    hosted = (f"{store}/tiny@1", f"{store}/tiny@2", colours, letters)
    with listening(settings, *hosted) as served:
        yield served


@pytest.fixture
def client(served: Listening) -> Iterator[openai.OpenAI]:
    with sdk(served) as client:
        yield client


def generate(client: openai.OpenAI, prompt: str = "", model: str = "tiny@1", **fields: Any) -> Any:
    return client.images.generate(model=model, prompt=prompt, **fields)


def files(answer: Any) -> list[bytes]:
    return [base64.b64decode(image.b64_json) for image in answer.data]


def native(served: Listening, **fields: Any) -> list[bytes]:
    body = {"model": "tiny@1", **fields}
    answer = httpx.post(f"{served.url}/v1/samples", json=body)
    assert answer.status_code == 200, answer.text
    return [base64.b64decode(sample["image"]) for sample in answer.json()["samples"]]


def test_a_seed_gives_the_files_of_the_native_protocol(
    client: openai.OpenAI, served: Listening, artifact: Artifact
) -> None:
    answer = generate(client, n=6, extra_body={"seed": 7, "first_index": 3})
    assert files(answer) == native(served, n=6, seed=7, first_index=3)
    pixels = artifact.uint8("sample", artifact.sample(seed=7, n=6, first_index=3))
    for data, expected in zip(files(answer), pixels, strict=True):
        assert np.array_equal(image_files.read_png(data)[0], expected)
    assert len(set(files(answer))) == 6


def test_the_answer_says_what_made_it(client: openai.OpenAI, artifact: Artifact) -> None:
    before = int(time.time())
    raw = client.images.with_raw_response.generate(
        model="tiny@1", prompt="THREE", n=2, extra_body={"seed": 5}
    )
    answer = raw.parse()
    assert before <= answer.created <= time.time()
    assert (answer.size, answer.output_format) == ("8x8", "png")
    assert answer.usage is None
    assert answer.model_extra == {
        "aigc": {
            "model": "tiny@1",
            "digest": artifact.manifest.digest,
            "signature": "sample",
            "seed": 5,
            "first_index": 0,
            "labels": [3, 3],
            "reproducibility": "bit",
        }
    }
    headers = {k: v for k, v in raw.headers.items() if k.startswith("x-aigc")}
    assert headers == {
        "x-aigc-model": "tiny@1",
        "x-aigc-digest": artifact.manifest.digest,
        "x-aigc-seed": "5",
        "x-aigc-first-index": "0",
        "x-aigc-reproducibility": "bit",
        "x-aigc-replica": "replica-7",
    }


@pytest.mark.parametrize(
    ("prompt", "extra", "label"),
    [
        ("three", {}, 3),
        (" Three ", {}, 3),
        ("3", {}, 3),
        ("label: 3", {}, 3),
        ("Label=3", {}, 3),
        ("", {"label": 3}, 3),
        ("tiny", {"label": 3}, 3),
        ("three", {"label": 3}, 3),
        ("three", {"label": [3, 3]}, 3),
        ("", {"label": "Three"}, 3),
        ("three", {"label": ["three", "index:3"]}, 3),
        ("", {"label": [1, 2]}, [1, 2]),
        ("", {}, None),
        ("tiny", {}, None),
        ("tiny@1", {}, None),
    ],
)
def test_a_prompt_or_a_label_names_the_class(
    client: openai.OpenAI, served: Listening, prompt: str, extra: dict[str, Any], label: Any
) -> None:
    found = files(generate(client, prompt, n=2, extra_body={"seed": 1, **extra}))
    asked = {} if label is None else {"label": label}
    assert found == native(served, n=2, seed=1, **asked)


@pytest.mark.parametrize(
    ("prompt", "label"),
    [
        ("a", 0),
        ("A", 1),
        ("B", 2),
        ("LONG S", 3),
        ("7", 4),  # a name comes before a number
        ("label 7", 7),
        ("8", 8),
        ("ärger", 9),
    ],
)
def test_names_that_look_alike_are_told_apart(
    client: openai.OpenAI, prompt: str, label: int
) -> None:
    assert generate(client, prompt, model="letters").model_extra["aigc"]["labels"] == [label]


def test_what_a_name_of_two_classes_means_is_not_guessed(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="may mean several classes of letters@1"):
        generate(client, "twin", model="letters")


def test_a_seed_is_drawn_and_returned(client: openai.OpenAI) -> None:
    first, second = generate(client), generate(client)
    seed = first.model_extra["aigc"]["seed"]
    assert seed != second.model_extra["aigc"]["seed"]
    assert files(generate(client, extra_body={"seed": seed})) == files(first)
    drawn = generate(client, n=8, extra_body={"seed": 1}).model_extra["aigc"]["labels"]
    assert len(set(drawn)) > 1


@pytest.mark.parametrize("model", ["tiny@1", "colours"])
def test_formats_hold_the_same_pixels_and_provenance(client: openai.OpenAI, model: str) -> None:
    seed = {"seed": 3}
    (png,) = files(generate(client, model=model, extra_body=seed))
    pixels, made_by = image_files.read_image(png)
    assert made_by is not None
    assert made_by.digital_source_type == image_files.SOURCE_TYPE
    found = {"png": png}
    for form in ("webp", "jpeg"):
        answer = generate(client, model=model, output_format=form, extra_body=seed)
        assert answer.output_format == form
        (found[form],) = files(answer)
        again, said = image_files.read_image(found[form])
        assert said == made_by
        assert image_files.SOURCE_TYPE.encode() in found[form]
        most = image_files.difference(again, pixels)
        assert most is not None
        assert most <= (0 if form == "webp" else 12)
    assert [data[:4] for data in found.values()] == [b"\x89PNG", b"RIFF", b"\xff\xd8\xff\xe0"]


@pytest.mark.parametrize("form", ["webp", "jpeg"])
def test_output_compression_is_the_quality(client: openai.OpenAI, form: str) -> None:
    def error(quality: int) -> float:
        fields = {"model": "colours", "n": 8, "extra_body": {"seed": 3}}
        lossy = generate(client, output_format=form, output_compression=quality, **fields)
        whole = generate(client, **fields)
        pairs = zip(files(lossy), files(whole), strict=True)
        read = [(image_files.read_image(a)[0], image_files.read_image(b)[0]) for a, b in pairs]
        return float(np.mean([np.abs(a.astype(int) - b).mean() for a, b in read]))

    assert error(0) > error(50) > error(100)


def test_a_model_without_classes_takes_no_prompt_but_its_name(client: openai.OpenAI) -> None:
    answers = [
        generate(client, prompt, model="colours", extra_body={"seed": 4})
        for prompt in ("", "colours", "Colours@1")
    ]
    assert len({files(answer)[0] for answer in answers}) == 1
    assert answers[0].size == "6x4"
    assert answers[0].model_extra["aigc"]["labels"] is None
    pixels, _ = image_files.read_png(files(answers[0])[0])
    assert pixels.shape == (4, 6, 3)
    with pytest.raises(openai.BadRequestError, match="has no classes to choose from") as refused:
        generate(client, "a red house", model="colours")
    assert refused.value.code == "unknown_prompt"


def test_image_fields_at_their_defaults_are_accepted(client: openai.OpenAI) -> None:
    seed = {"seed": 1, "safety_identifier": "someone"}
    plain = generate(client, extra_body={"seed": 1})
    full = generate(
        client,
        n=1,
        size="8x8",
        quality="auto",
        style="vivid",
        background="opaque",
        moderation="auto",
        response_format="b64_json",
        output_format="png",
        output_compression=100,
        stream=False,
        user="someone",
        extra_body=seed,
    )
    nothing = generate(
        client, n=None, size=None, quality=None, background=None, extra_body={"seed": 1}
    )
    assert files(full) == files(plain) == files(nothing)


BAD = [
    ({"prompt": "sevn"}, "unknown_prompt", "prompt", "did you mean 'seven'? there are zero, one"),
    ({"prompt": "a red house"}, "unknown_prompt", "prompt", "; there are zero, one"),
    ({"prompt": "12"}, "unknown_prompt", "prompt", "must be a class of tiny@1"),
    ({"prompt": "x" * 5000}, "unknown_prompt", "prompt", "got '" + "x" * 60 + "'"),
    (
        {"prompt": "seven", "extra_body": {"label": 3}},
        "prompt_contradicts_label",
        "prompt",
        "prompt 'seven' is class 7, label says 3",
    ),
    (
        {"prompt": "", "extra_body": {"label": "tree"}},
        "unknown_label",
        "label",
        "did you mean 'three'?",
    ),
    (
        {"prompt": "seven", "n": 2, "extra_body": {"label": [7, 3]}},
        "prompt_contradicts_label",
        "prompt",
        "label says [7, 3]",
    ),
    ({"size": "1024x1024"}, "unsupported_value", "size", "tiny@1 gives 8x8"),
    ({"model": "colours", "size": "4x6"}, "unsupported_value", "size", "gives 6x4"),
    ({"response_format": "url"}, "unsupported_value", "response_format", "keeps no files"),
    ({"output_format": "gif"}, "unsupported_value", "output_format", "'png' or 'webp' or 'jpeg'"),
    ({"output_compression": 50}, "unsupported_value", "output_compression", "needs jpeg or webp"),
    (
        {"output_format": "webp", "output_compression": 101},
        "unsupported_value",
        "output_compression",
        "must be in [0, 100], got 101",
    ),
    ({"quality": "hd"}, "unsupported_value", "quality", "'auto' or 'standard', got 'hd'"),
    ({"style": "natural"}, "unsupported_value", "style", "got 'natural'"),
    ({"background": "transparent"}, "unsupported_value", "background", "no transparency"),
    ({"moderation": "low"}, "unsupported_value", "moderation", "must be 'auto'"),
    ({"stream": True}, "unsupported_value", "stream", "images are not streamed"),
    ({"partial_images": 2}, "malformed_body", "partial_images", "unknown field"),
    (
        {"extra_body": {"signature": "encode"}},
        "model_gives_no_image",
        "model",
        "'encode' of tiny@1 gives no image",
    ),
]


@pytest.mark.parametrize(("fields", "code", "param", "message"), BAD)
def test_images_refuses_unsupported_fields_by_name(
    client: openai.OpenAI, fields: dict[str, Any], code: str, param: str, message: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        generate(client, **fields)
    error = refused.value
    assert (error.code, error.param, error.type) == (code, param, "invalid_request_error")
    assert message in error.message


def test_a_request_without_its_model_says_so(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="missing required field `model`") as refused:
        client.images.generate(prompt="three")
    assert refused.value.param == "model"


def test_routes_that_are_not_there_and_bodies_too_large(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="tiny", messages=[])
    assert missing.value.code == "unknown_route"
    with pytest.raises(openai.APIStatusError) as large:
        generate(client, "x" * (1 << 20))
    assert (large.value.status_code, large.value.code) == (413, "body_too_large")
    with pytest.raises(openai.APIStatusError) as method:
        client.get("/images/generations", cast_to=object)
    assert (method.value.status_code, method.value.code) == (405, "method_not_allowed")


def test_models_are_listed_and_retrieved(client: openai.OpenAI, served: Listening) -> None:
    models = list(client.models.list())
    assert [m.id for m in models] == ["colours@1", "letters@1", "tiny@1", "tiny@2"]
    for model in models:
        assert (model.object, model.owned_by) == ("model", "aigc")
        assert model.created == 1767225600  # 2026-01-01T00:00:00Z
    assert client.models.retrieve("tiny").id == "tiny@2"
    tiny = client.models.retrieve("tiny@1")
    assert tiny.model_extra is not None
    assert tiny.model_extra["created_at"] == "2026-01-01T00:00:00Z"
    assert tiny.model_extra["signatures"]["sample"]["inputs"][1]["classes"] == list(CLASSES)
    with pytest.raises(openai.NotFoundError, match="unknown model 'gpt-image-1'"):
        client.models.retrieve("gpt-image-1")


def test_the_asynchronous_client_gets_the_same(served: Listening, client: openai.OpenAI) -> None:
    async def ask() -> Any:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any") as other:
            return await other.images.generate(
                model="tiny@1", prompt="one", n=2, extra_body={"seed": 1}
            )

    import asyncio

    same = generate(client, "one", n=2, extra_body={"seed": 1})
    assert files(asyncio.run(ask())) == files(same)


def test_requests_are_counted_under_their_protocol(
    client: openai.OpenAI, served: Listening
) -> None:
    def counted(code: int, model: str) -> float:
        return served.requests(api="openai", code=str(code), model=model)

    before = counted(200, "tiny"), counted(404, "")
    generate(client)
    with pytest.raises(openai.NotFoundError):
        generate(client, model="none")
    assert (counted(200, "tiny"), counted(404, "")) == (before[0] + 1, before[1] + 1)
