"""`aigc serve` as a user runs it: real Ray Serve, HAProxy, sockets, signals and a browser.

Every server here runs where `import torch` fails and is written down.
"""

import asyncio
import base64
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from aigc.artifact import Artifact, audio_files, image_files, user_inputs
from aigc.commands import verify
from aigc.watchdog import RUN_FOLDER
from serve.local import exposure
from tests import strangers
from tests.ports import free_port
from tests.serve.conftest import images

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

NO_TORCH = """
import os, sys, traceback
with open(os.environ["NO_TORCH_LOG"], "a") as log:
    log.write(f"{sys.argv}\\n{''.join(traceback.format_stack())}\\n")
raise ImportError("this machine has no torch")
"""


class Server:
    """A running `aigc serve`."""

    def __init__(
        self, folder: Path, *arguments: str, module: Sequence[str] = ("aigc.cli", "serve")
    ) -> None:
        """`module`: what takes the place of the command, and its own arguments."""
        stub = folder / "no-torch" / "torch"
        stub.mkdir(parents=True)
        (stub / "__init__.py").write_text(NO_TORCH)
        self.torch_log = folder / "torch.log"
        self.stderr_file = folder / "stderr"
        self.port = free_port()
        environment = {
            **os.environ,
            "PYTHONPATH": str(stub.parent),
            "NO_TORCH_LOG": str(self.torch_log),
        }
        environment.pop("RAY_AUTH_MODE", None)  # the command must turn it on by itself
        command = [sys.executable, "-m", *module, *arguments]
        with self.stderr_file.open("w") as stderr:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port), "--metrics-port", "0"],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )

    @property
    def stderr(self) -> str:
        return self.stderr_file.read_text()

    def wait_until_ready(self) -> str:
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, self.stderr
        found = re.search(r"metrics\s+(http\S+)", self.stderr)
        assert found, self.stderr
        self.metrics_url = found[1]
        return self.url

    def tree(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def replicas(self) -> list[psutil.Process]:
        return [p for p in self.tree() if title(p).startswith("ray::ServeReplica")]

    def metrics(self) -> dict[tuple[str, ...], float]:
        body = httpx.get(self.metrics_url).text
        return {
            (sample.name, *(f"{k}={v}" for k, v in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(body)
            for sample in family.samples
        }

    def total(self, name: str, *labels: str) -> float:
        found = self.metrics()
        return sum(v for key, v in found.items() if key[0] == name and set(labels) <= set(key))

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """(exit status, rest of stdout)."""
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=60)
        return self.process.returncode, rest


def title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return (process.cmdline() or [""])[0]
    return ""


@contextmanager
def server(
    folder: Path, *arguments: str, module: Sequence[str] = ("aigc.cli", "serve")
) -> Iterator[Server]:
    running = Server(folder, *arguments, module=module)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.stop()
        if running.process.stdout is not None:
            running.process.stdout.close()


@pytest.fixture(scope="module")
def pair(
    store: Path,
    words: str,
    voices: str,
    translator: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """Two replicas of tiny@1, other@1, and a model of texts, of sounds and of several things."""
    others = [words, voices, translator]
    arguments = [f"{store}/tiny@1", f"{store}/other", *others, "--replicas", "2"]
    with server(tmp_path_factory.mktemp("server"), *arguments) as running:
        running.wait_until_ready()
        yield running


def samples(url: str, **fields: Any) -> httpx.Response:
    answer = httpx.post(f"{url}/v1/samples", json={"model": "tiny", **fields}, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer


def test_every_replica_gives_what_the_artifact_gives_offline(
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
    seen: dict[str, list[int]] = {}
    for _ in range(6):
        together = samples(pair.url, n=8, seed=7)
        assert images(together) == offline
        seen.setdefault(together.headers["x-aigc-replica"], []).append(8)
        for index in range(8):
            alone = samples(pair.url, n=1, seed=7, first_index=index)
            assert images(alone) == offline[index : index + 1]
            seen.setdefault(alone.headers["x-aigc-replica"], []).append(1)
    assert len(seen) == 2, "one replica answered everything"
    assert all({1, 8} <= set(sizes) for sizes in seen.values()), seen


@pytest.mark.parametrize("signature", ["sample", "numbers"])
def test_the_command_gives_the_same_files_from_server_and_artifact(
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


def test_openais_sdk_and_lines_of_samples_pass_the_proxy(pair: Server) -> None:
    whole = images(samples(pair.url, n=300, seed=7))
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


def test_texts_are_completed_token_by_token_through_the_proxy(pair: Server, words: str) -> None:
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


def test_two_artifacts_of_one_name_are_refused(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store / "tiny" / "1", tmp_path / "copy" / "tiny" / "1")
    with server(tmp_path / "server", f"{store}/tiny@1", f"{tmp_path}/copy/tiny@1") as running:
        assert running.process.wait(60) == 1
    assert "have the same name and version" in running.stderr


def test_a_crowd_gets_what_each_would_get_alone(pair: Server, artifact: Artifact) -> None:
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


def test_words_are_spoken_and_things_translated_through_the_proxy(
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


def test_errors_reach_the_client_through_the_proxy(pair: Server) -> None:
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


def test_a_websocket_is_answered_and_counted(pair: Server) -> None:
    def counted(api: str) -> float:
        return pair.total("aigc_requests_total", f"api={api}", "code=404")

    upgrade = (
        "Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    for path, api in (
        ("/v1/samples", "native"),
        ("/v1/realtime?model=tiny", "native"),
        ("/v1/completions", "openai"),
        ("/v2/models/tiny/infer", "oip"),
    ):
        before = counted(api)
        status, answer = raw(pair, f"GET {path} HTTP/1.1\r\n{upgrade}")
        assert status == 404
        assert "there is no WebSocket at" in answer
        assert ('"code":"unknown_route"' in answer) == (api != "oip")
        assert counted(api) == before + 1


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
def test_rare_forms_of_requests_are_answered(pair: Server, head: str, status: int) -> None:
    closed = head if "\r\n\r\n" in head else f"{head}Connection: close\r\n\r\n"
    found, answer = raw(pair, closed)
    assert found == status, answer
    assert status == 200 or '"code":' in answer


def test_every_answer_has_an_id_and_none_a_stack(pair: Server) -> None:
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


def test_who_never_ends_a_head_is_cut_off_while_others_are_served(pair: Server) -> None:
    with socket.create_connection(("127.0.0.1", pair.port)) as connection:
        connection.sendall(b"POST /v1/samples HTTP/1.1\r\nhost: x\r\nx-slow: ")
        connection.settimeout(0.5)
        answer, others = b"", 0
        while not answer:
            assert samples(pair.url, seed=7).status_code == 200
            others += 1
            with suppress(TimeoutError):
                connection.sendall(b"x")
                answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert others > 1


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
        expected = samples(pair.url, model="tiny@1", n=9, seed=41, label=3, format="grid").content
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


SOCKETS = {
    # process: (listening sockets, what they are)
    "serve.local.driver": (1, "Ray's driver, for answers of its workers"),
    "aigc.prometheus_exporter": (1, "the merged metrics"),
    "haproxy": (3, "the HTTP port of the command; its own statistics and metrics"),
    "gcs_server": (1, "Ray's directory of the cluster"),
    "raylet": (2, "Ray's node manager and object manager"),
    "monitor.py": (1, "metrics of Ray's autoscaler"),
    "dashboard.py": (1, "metrics of Ray's dashboard, which is off otherwise"),
    "ray::DashboardAgent": (3, "Ray's agent of the node: gRPC, HTTP and Ray's own metrics"),
    "ray::RuntimeEnvAgent": (1, "gives workers their environment"),
    "ray::ServeController": (1, "Ray's calls between actors, as below"),
    "ray::HAProxyManager": (1, "calls between actors"),
    "ray::ProxyActor": (2, "calls between actors; Serve's fallback proxy"),
    "ray::ServeReplica": (3, "calls between actors; HTTP for HAProxy; Serve's handle calls"),
    "ray::IDLE": (1, "calls between actors"),
}
WITHOUT_TOKEN = {
    "aigc.prometheus_exporter": 1,
    "haproxy": 3,
    "monitor.py": 1,
    "dashboard.py": 1,
    "ray::DashboardAgent": 1,  # Ray's own metrics
    "ray::ProxyActor": 1,  # the API, as on the public port
    "ray::ServeReplica": 1,  # the same
}
"""At most so many sockets of a process answer whoever reaches loopback; the others refuse calls."""


def kind(process: psutil.Process) -> str:
    line = process.cmdline()
    text = " ".join(line)
    for name in (
        "aigc.prometheus_exporter",
        "serve.local.driver",
        "monitor.py",
        "dashboard.py",
        "gcs_server",
        "haproxy",
    ):
        if name in (process.name(), *(Path(part).name for part in line)) or name in line:
            return name
    if "raylet" in process.name():
        return "raylet"
    # "ray::ServeReplica:aigc:default", or "ray::ServeController.method" while that runs.
    return "ray::" + re.split(r"[:.]", text.split()[0].removeprefix("ray::"))[0]


def settled(process: psutil.Process) -> set[Any]:
    """Where a process listens; Ray's agents may still be starting, and get a while for it."""
    end = time.monotonic() + 60
    while True:
        connections = process.net_connections("inet")
        listening = {c.laddr for c in connections if c.status == psutil.CONN_LISTEN}
        expected, _ = SOCKETS.get(kind(process), (0, ""))
        if not listening or len(listening) >= expected or time.monotonic() > end:
            return listening
        time.sleep(0.2)


def test_everything_listens_on_loopback(pair: Server) -> None:
    for process in [psutil.Process(pair.process.pid), *pair.tree()]:
        try:
            listening = settled(process)
        except psutil.NoSuchProcess:
            continue  # Ray starts and ends idle workers as it likes
        if not listening:
            continue
        name = kind(process)
        outside = [a for a in listening if a.ip.removeprefix("::ffff:") != "127.0.0.1"]
        assert name in SOCKETS, (name, process.cmdline(), listening)
        expected, _ = SOCKETS[name]
        assert len(listening) == expected, (name, listening)
        assert outside == [], (name, listening)


def test_strangers_on_this_machine_get_only_what_is_meant_for_them(pair: Server) -> None:
    tree = [psutil.Process(pair.process.pid), *pair.tree()]
    assert strangers.reachable(Path(run_folder(pair)), tree) == []
    for process in tree:
        with suppress(psutil.NoSuchProcess):
            open_to_all = {
                address.port
                for address in settled(process)
                if not strangers.unauthenticated(address.port)
            }
            most = WITHOUT_TOKEN.get(kind(process), 0)
            assert len(open_to_all) <= most, (kind(process), open_to_all)


def test_a_socket_that_other_machines_reach_is_found_and_asked(pair: Server) -> None:
    assert exposure.listeners([psutil.Process(pair.process.pid), *pair.tree()]) == []
    with socket.socket() as listening:
        listening.bind(("0.0.0.0", 0))
        listening.listen()
        port = listening.getsockname()[1]
        (found,) = exposure.listeners([psutil.Process()])
        assert (found.address, found.port) == ("0.0.0.0", port)
        exposure.check_listeners([found], {port})
        with pytest.raises(ValueError, match=f"port {port}, .* asks for no token there"):
            exposure.check_listeners([found], set())


def test_counters_stay_right_when_a_replica_is_killed(pair: Server) -> None:
    def counted() -> tuple[float, ...]:
        tiny = ("model=other", "version=1", "signature=sample")
        return (
            pair.total("aigc_requests_total", "code=200", *tiny),
            pair.total("aigc_samples_total", *tiny),
            pair.total("aigc_request_duration_seconds_count", *tiny),
            pair.total("aigc_batch_samples_sum", *tiny),
            pair.total("aigc_queue_wait_seconds_count", *tiny),
        )

    def ask() -> set[str]:
        answers = [samples(pair.url, model="other", n=3, seed=i) for i in range(20)]
        return {answer.headers["x-aigc-replica"] for answer in answers}

    before = counted()
    assert len(ask()) == 2
    expected = tuple(a + b for a, b in zip(before, (20, 60, 20, 60, 20), strict=True))
    assert counted() == expected
    assert pair.total("aigc_ready") == 2
    assert pair.total("aigc_model_info", "model=other", "version=1") == 1
    victim = pair.replicas()[0]
    victim.kill()
    victim.wait(10)
    wait_until_replaced(pair)  # what meets the dead one is 503, and counted by nobody
    ask()
    expected = tuple(a + b for a, b in zip(expected, (20, 60, 20, 60, 20), strict=True))
    assert counted() == expected
    wait_until_replaced(pair)
    assert counted() == expected
    own = httpx.get(f"{pair.url}/metrics").text
    assert "aigc_requests_total" in own


def wait_until_replaced(pair: Server) -> None:
    deadline = time.monotonic() + 40
    while pair.total("aigc_ready") != 2 or len(pair.replicas()) != 2:
        assert time.monotonic() < deadline, "the killed replica was not replaced"
        time.sleep(0.25)


def test_nothing_tried_to_import_torch(pair: Server) -> None:
    assert not pair.torch_log.exists(), pair.torch_log.read_text()


def left_over(folder: str) -> list[str]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if process.environ().get(RUN_FOLDER) == folder or folder in line:
                found.append(line)
    return found


def run_folder(running: Server) -> str:
    folders = set()
    for process in psutil.Process(running.process.pid).children():
        with suppress(psutil.Error):  # one that ended, and was not waited for yet
            folders.add(process.environ().get(RUN_FOLDER))
    (folder,) = folders - {None}
    assert folder is not None
    return folder


def test_kill_9_leaves_nothing_either(store: Path, tmp_path: Path) -> None:
    with server(tmp_path, f"{store}/tiny@1") as running:
        running.wait_until_ready()
        folder, tree = run_folder(running), running.tree()
        running.process.kill()
        running.process.wait(10)
        _, alive = psutil.wait_procs(tree, timeout=20)
        assert [process.cmdline() for process in alive] == []
        shutil.rmtree(folder, ignore_errors=True)


def test_a_broken_artifact_is_one_sentence_and_leaves_nothing(store: Path, tmp_path: Path) -> None:
    broken = tmp_path / "store"
    shutil.copytree(store, broken)
    graph = broken / "tiny" / "1" / "sample.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"!")
    with server(tmp_path / "server", f"{broken}/tiny@1") as running:
        status = running.process.wait(100)
    assert status == 1
    assert "'sample.onnx' was altered" in running.stderr
    assert "Traceback" not in running.stderr
    assert len(running.stderr.strip().splitlines()) == 1, running.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{store}/none"], "no artifact 'none'"),
        (["{store}/tiny@9"], "has no version '9'"),
        (["{store}/tiny", "--replicas", "3..2"], "replicas must be MIN..MAX"),
        (["{store}/tiny", "--port", "{taken}"], "take another with --port"),
    ],
)
def test_what_is_wrong_is_said_before_ray_starts(
    store: Path, arguments: list[str], message: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        values = {"store": store, "taken": taken.getsockname()[1]}
        command = [sys.executable, "-m", "aigc.cli", "serve", "--metrics-port", "0"]
        command += [argument.format(**values) for argument in arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stdout == ""
