"""Requests of every protocol over Ray Serve and HAProxy, and the pages in a browser."""

import asyncio
import base64
import io
import json
import re
import shutil
import socket
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from aigc.artifact import Artifact, audio_files, image_files, user_inputs
from aigc.commands import verify
from tests.serve.conftest import images
from tests.serve.servers import Server

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def samples(pair: Server, **fields: Any) -> httpx.Response:
    answer = pair.post(**{"model": "tiny", **fields})
    assert answer.status_code == 200, answer.text
    return answer


def test_replicas_return_the_bytes_of_the_offline_artifact(
    pair: Server, artifact: Artifact
) -> None:
    outputs = artifact.sample(seed=7, n=8)
    pixels = artifact.uint8("sample", outputs)
    offline = [
        image_files.png(
            pixels[index],
            image_files.Provenance(
                artifact=artifact.id,
                digest=artifact.manifest.digest,
                signature="sample",
                seed=7,
                index=index,
            ),
        )
        for index in range(8)
    ]
    seen: dict[str, set[int]] = {}
    for _ in range(100):  # HAProxy chooses the replica
        together = samples(pair, n=8, seed=7)
        assert images(together) == offline
        seen.setdefault(together.headers["x-aigc-replica"], set()).add(8)
        for index in range(8):
            alone = samples(pair, n=1, seed=7, first_index=index)
            assert images(alone) == offline[index : index + 1]
            seen.setdefault(alone.headers["x-aigc-replica"], set()).add(1)
        if list(seen.values()) == [{1, 8}] * 2:
            break
    assert list(seen.values()) == [{1, 8}] * 2, "a replica did not answer both sizes"


@pytest.mark.parametrize("signature", ["sample", "numbers"])
def test_sample_command_writes_equal_files_from_server_and_artifact(
    pair: Server, store: Path, tmp_path: Path, signature: str
) -> None:
    flags = ["-n", "20", "--seed", "7", "--first-index", "3", "--signature", signature]
    flags += ["--label", "1", "2", "3"] if signature == "sample" else []
    found = []
    for number, source in enumerate((f"{store}/tiny@1", pair.url)):
        out = tmp_path / str(number)
        model = ["--model", "tiny@1"] if number else []
        command = [sys.executable, "-m", "aigc.cli", "sample", source, "--out", str(out)]
        subprocess.run([*command, *flags, *model], check=True, capture_output=True, timeout=60)
        found.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert len(found[0]) == (21 if signature == "sample" else 1)
    assert found[0] == found[1]


def test_openai_images_and_ndjson_pass_the_proxy(pair: Server) -> None:
    whole = images(samples(pair, n=300, seed=7))
    with openai.OpenAI(base_url=f"{pair.url}/v1", api_key="any", max_retries=0) as client:
        answer = client.images.generate(model="tiny", prompt="", n=3, extra_body={"seed": 7})
        assert [base64.b64decode(image.b64_json or "") for image in answer.data or []] == whole[:3]
        assert client.models.retrieve("tiny@1").id == "tiny@1"
        with pytest.raises(openai.BadRequestError) as refused:
            client.images.generate(model="tiny", prompt="a red house")
        assert refused.value.param == "prompt"
    body = {"model": "tiny", "n": 300, "seed": 7, "format": "ndjson"}
    with httpx.stream("POST", f"{pair.url}/v1/samples", json=body, timeout=30) as stream:
        lines = [json.loads(line) for line in stream.iter_lines()]
    assert [base64.b64decode(line["image"]) for line in lines] == whole


def test_completions_stream_through_the_proxy(pair: Server, words: str) -> None:
    artifact = Artifact.open(words, verify=False)
    expected = artifact.texts("sample", artifact.sample(seed=7, n=30))
    fields: dict[str, Any] = {"model": "words", "prompt": "", "seed": 7, "n": 30}
    with openai.OpenAI(base_url=f"{pair.url}/v1", api_key="any", max_retries=0) as client:
        whole = client.completions.create(**fields)
        assert [choice.text for choice in whole.choices] == expected
        found = [""] * 30
        for chunk in client.completions.create(**fields, stream=True):
            found[chunk.choices[0].index] += chunk.choices[0].text
        assert found == expected
        with pytest.raises(openai.BadRequestError) as refused:
            client.completions.create(model="words", prompt="Zoë", stream=True)
        assert refused.value.code == "unknown_characters"
    body = fields | {"stream": True}
    with httpx.stream("POST", f"{pair.url}/v1/completions", json=body, timeout=30) as stream:
        parts = list(stream.iter_raw())
    assert len(parts) > 1, "the proxy kept it back"
    assert parts[-1].endswith(b"data: [DONE]\n\n")


def test_concurrent_requests_get_what_each_gets_alone(pair: Server, artifact: Artifact) -> None:
    async def crowd() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=60) as client:
            bodies = [
                {"model": "tiny", "seed": i, "n": 1 + i * 7 % 90, "format": "npy"}
                for i in range(120)
            ]
            posts = (client.post(f"{pair.url}/v1/samples", json=body) for body in bodies)
            return await asyncio.gather(*posts)

    for i, answer in enumerate(asyncio.run(crowd())):
        assert answer.status_code == 200, answer.text
        expected = artifact.sample(seed=i, n=1 + i * 7 % 90)
        found = np.load(io.BytesIO(answer.content))
        assert np.array_equal(found, artifact.uint8("sample", expected)), i


def test_speech_and_uploads_pass_the_proxy(
    pair: Server, voices: str, translator: str, tmp_path: Path
) -> None:
    path = tmp_path / "words.wav"
    with (
        openai.OpenAI(base_url=f"{pair.url}/v1", api_key="any", max_retries=0) as client,
        client.audio.speech.with_streaming_response.create(
            model="voices", input="one two " * 10, voice="default", response_format="wav"
        ) as answer,
    ):
        answer.stream_to_file(path)
    assert verify.command([str(path), "--artifact", voices]) == 0
    fields = {"model": "translator", "seed": "7"}
    text = {"text": (None, "badge")}
    url = f"{pair.url}/v1/samples"
    image = httpx.post(url, data={**fields, "outputs": "image", "format": "png"}, files=text)
    files = {**text, "image": ("a.png", image.content)}
    heard = httpx.post(url, data={**fields, "outputs": "audio", "format": "wav"}, files=files)
    artifact = Artifact.open(translator, verify=False)
    specs = {spec.name: spec for spec in artifact.signature("translate").inputs}
    given = {"text": user_inputs.read_input(specs["text"], "badge")[None]}
    made = artifact.run("translate", artifact.draw("translate", 7, [0], given=given))
    assert np.array_equal(
        image_files.read_png(image.content)[0], artifact.uint8("translate", made)[0]
    )
    given["image"] = user_inputs.read_input(specs["image"], image.content)[None]
    made = artifact.run("translate", artifact.draw("translate", 7, [0], given=given))
    found = audio_files.to_pcm16(audio_files.read_sound(heard.content).samples)
    assert np.array_equal(found, audio_files.to_pcm16(made["new_audio"])[0])


def test_errors_pass_the_proxy_unchanged(pair: Server) -> None:
    answer = httpx.post(f"{pair.url}/v1/samples", json={"model": "tiny", "label": 12})
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "code": "label_out_of_range",
        "message": "label must be in [0, 10), got 12",
        "type": "invalid_request_error",
        "param": "label",
    }
    answer = httpx.post(f"{pair.url}/v1/samples", content=b" " * (3 << 20))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert httpx.get(f"{pair.url}/readyz").status_code == 200


def raw(server: Server, request: str) -> tuple[int, str]:
    """Status and the rest of what a server answers to what was sent as it is."""
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(request.encode())
        with connection.makefile("rb") as answer:
            status = answer.readline()
            head = b"".join(iter(answer.readline, b"\r\n"))
            length = re.search(rb"(?i)content-length: (\d+)", head)
            body = answer.read(int(length[1]) if length else -1)
    return int(status.split()[1]), (head + body).decode("latin-1")


def test_websockets_get_404_and_are_counted(pair: Server) -> None:
    def counted() -> Counter[str]:
        name, shown = "aigc_requests_total", pair.metrics()
        return Counter(
            {
                api: int(pair.total(name, f"api={api}", "code=404", among=shown))
                for api in ("native", "openai", "oip")
            }
        )

    upgrade = (
        "Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    before = counted()
    for path, api in (
        ("/v1/samples", "native"),
        ("/v1/realtime?model=tiny", "native"),
        ("/v1/completions", "openai"),
        ("/v2/models/tiny/infer", "oip"),
    ):
        status, answer = raw(pair, f"GET {path} HTTP/1.1\r\n{upgrade}")
        assert status == 404
        assert "there is no WebSocket at" in answer
        assert ('"code":"unknown_route"' in answer) == (api != "oip")
    assert counted() - before == {"native": 2, "openai": 1, "oip": 1}


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET /v1/models/tiny HTTP/1.0\r\n\r\n", 200),
        ("GET http://x/v1/models/tiny HTTP/1.1\r\nHost: x\r\n", 200),
        ("GET /v1/models/%74iny%401 HTTP/1.1\r\nHost: x\r\n", 200),
        ("GET //v1/models HTTP/1.1\r\nHost: x\r\n", 404),
        ("GET /v1/./models HTTP/1.1\r\nHost: x\r\n", 404),
        (
            "POST /v1/samples HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            'Connection: close\r\n\r\n8\r\n{"model"\r\n8\r\n:"tiny"}\r\n0\r\n\r\n',
            200,
        ),
        (
            "POST /v1/samples HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\n"
            "Content-Length: 3\r\nConnection: close\r\n\r\nxyz",
            415,
        ),
    ],
)
def test_rare_forms_of_http_are_answered(pair: Server, head: str, status: int) -> None:
    closed = head if "\r\n\r\n" in head else f"{head}Connection: close\r\n\r\n"
    found, answer = raw(pair, closed)
    assert found == status, answer
    assert status == 200 or '"code":' in answer


def test_answers_have_a_request_id_and_no_traceback(pair: Server) -> None:
    asked: list[tuple[str, str, Any, int]] = [
        ("POST", "/v1/samples", {"json": {"model": "tiny"}}, 200),
        ("POST", "/v1/samples", {"json": {"model": "tiny", "n": 9, "format": "ndjson"}}, 200),
        ("POST", "/v1/samples", {"json": {"model": "tiny", "n": 0}}, 400),
        ("POST", "/v1/samples", {"content": "[" * 100_000}, 400),
        ("POST", "/v2/models/tiny/infer", {"content": '{"a":' * 50_000}, 400),
        ("GET", "/none", {}, 404),
        ("DELETE", "/v1/samples", {}, 405),
        ("POST", "/v1/samples", {"content": b" " * (3 << 20)}, 413),
        ("GET", "/-/routes", {}, 200),  # HAProxy's own answer
    ]
    for method, path, options, status in asked:
        drawn = [httpx.request(method, f"{pair.url}{path}", **options) for _ in range(2)]
        given = httpx.request(
            method, f"{pair.url}{path}", **options, headers={"x-request-id": "order-66"}
        )
        assert {answer.status_code for answer in (*drawn, given)} == {status}, path
        assert len({answer.headers["x-request-id"] for answer in drawn}) == 2, path
        assert given.headers.get_list("x-request-id") == ["order-66"], path
        assert "Traceback" not in given.text


def test_slow_heads_and_bodies_get_408_while_others_are_served(pair: Server) -> None:
    here = ("127.0.0.1", pair.port)
    with socket.create_connection(here) as head, socket.create_connection(here) as body:
        body.settimeout(30)
        body.sendall(b"POST /v1/samples HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{")
        head.settimeout(0.5)
        head.sendall(b"POST /v1/samples HTTP/1.1\r\nhost: x\r\nx-slow: ")
        answer, others = b"", 0
        while not answer:
            assert samples(pair, seed=7).status_code == 200
            others += 1
            with suppress(TimeoutError):
                head.sendall(b"x")
                answer = head.recv(4096)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert others > 1
        answer = b"".join(iter(lambda: body.recv(65536), b""))
    lines, _, text = answer.partition(b"\r\n\r\n")
    assert lines.startswith(b"HTTP/1.1 408 ")
    assert json.loads(text)["error"]["code"] == "body_too_slow"
    assert re.search(rb"x-request-id: \S+", lines)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: the pages were not rendered")
def test_pages_render_in_a_browser_without_the_network(pair: Server, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    switches = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
    ]
    wrong: list[str] = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=switches)
        page = browser.new_page()
        page.on("console", lambda m: wrong.append(m.text) if m.type != "log" else None)
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.on(
            "request",
            lambda r: r.url.startswith((pair.url, "data:", "blob:")) or wrong.append(r.url),
        )
        page.goto(pair.url)
        page.select_option("#model", "tiny@1")
        page.select_option("#label", "3")
        page.select_option("#n", "9")
        page.fill("#seed", "41")
        page.click("#go")
        page.locator("#said-seed").get_by_text("41", exact=True).wait_for()
        tiles = page.locator("#grid img")
        assert tiles.count() == 9
        assert tiles.first.evaluate("image => image.naturalWidth") == 8
        assert tiles.first.evaluate("i => getComputedStyle(i).imageRendering") == "pixelated"
        assert tiles.first.get_attribute("alt") == "sample 0 class three"
        with page.expect_download() as download:
            page.click("#download")
        assert download.value.suggested_filename == "tiny-1-seed41-n9.png"
        expected = samples(pair, model="tiny@1", n=9, seed=41, label=3, format="grid").content
        assert Path(download.value.path()).read_bytes() == expected
        curl = page.inner_text("#curl").replace("samples.png", str(tmp_path / "samples.png"))
        subprocess.run(["/bin/sh", "-c", curl], check=True, capture_output=True)
        assert (tmp_path / "samples.png").read_bytes() == expected
        page.goto(f"{pair.url}/docs")
        page.wait_for_selector("#operations-samples-createSamples")
        paths = httpx.get(f"{pair.url}/openapi.json").json()["paths"].values()
        assert page.locator(".opblock").count() == sum(map(len, paths))
        assert page.locator(".errors-wrapper").count() == 0
        browser.close()
    assert wrong == []


def test_no_process_imports_torch(pair: Server) -> None:
    assert not pair.torch_log.exists(), pair.torch_log.read_text()
