"""`aigc sample URL` against servers that are foreign, broken or hostile, over real sockets."""

import base64
import gzip
import io
import json
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aigc import cli, http_client
from aigc.artifact import audio_files, image_files
from aigc.commands import sample
from tests.ports import free_port

SECRET = "aigc_secret_of_somebody"
Write = Callable[[socket.socket], None]


class Stranger:
    """A server on loopback whose answers are bytes, by path, or what writes to the socket."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, 0), family=family)
        self.port = self._socket.getsockname()[1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}"
        self.answers: dict[str, bytes | Write] = {}
        self.heads: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(30)
            head = b"".join(self._request(connection)).partition(b"\r\n\r\n")[0]
            self.heads.append(head.decode("latin-1"))
            path = head.split()[1].decode("latin-1") if len(head.split()) > 1 else ""
            answer = self.answers.get(path, self.answers.get("*", b""))
            if callable(answer):
                answer(connection)
            else:
                connection.sendall(answer)

    def _request(self, connection: socket.socket) -> Iterator[bytes]:
        data = b""
        while b"\r\n\r\n" not in data:
            part = connection.recv(65536)
            data += part
            if not part or data[:1] == b"\x16":  # a hello of TLS
                break
        head, _, body = data.partition(b"\r\n\r\n")
        found = re.search(rb"(?i)content-length: (\d+)", head)
        while found and len(body) < int(found[1]):
            part = connection.recv(65536)
            body += part
            data += part
        yield data

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stranger]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv(http_client.ENVIRONMENT, SECRET)
    made = Stranger()
    made.answers = good()
    yield made
    made.close()


def http(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    told = {"content-type": "application/json", "content-length": str(len(body)), **named}
    head = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1") + body


def js(value: Any) -> bytes:
    return http(json.dumps(value).encode())


def png(width: int = 8, height: int = 8) -> str:
    return base64.b64encode(image_files.png(np.zeros((height, width, 1), np.uint8))).decode()


def saved(form: str) -> str:
    out = io.BytesIO()
    Image.new("L", (8, 8)).save(out, form)
    return base64.b64encode(out.getvalue()).decode()


def wav(rate_hz: int = 8000, n: int = 10) -> str:
    return base64.b64encode(audio_files.wav(np.zeros((n, 1), np.int16), rate_hz)).decode()


def model(**fields: Any) -> dict[str, Any]:
    signature = {"inputs": [], "outputs": [{"name": "image", "kind": "image"}]}
    return {"id": "tiny@1", "digest": "a" * 64, "signatures": {"sample": signature}} | fields


def outputs(*specs: tuple[str, str]) -> bytes:
    told = [{"name": name, "kind": kind} for name, kind in specs]
    return js(model(signatures={"sample": {"inputs": [], "outputs": told}}))


def answer(records: list[Any] | None = None, **fields: Any) -> bytes:
    records = [{"image": png()}] * 2 if records is None else records
    return js({"digest": "a" * 64, "seed": 7, "samples": records} | fields)


def good() -> dict[str, bytes | Write]:
    return {
        "/v1/models": js({"data": [{"id": "tiny@1"}]}),
        "/v1/models/tiny@1": js(model()),
        "/v1/samples": answer(),
    }


def drip(begin: bytes, rest: bytes = b"x") -> Write:
    """A byte now and then, for ever."""

    def write(connection: socket.socket) -> None:
        connection.sendall(begin)
        while True:
            connection.sendall(rest)
            time.sleep(0.05)

    return write


def endless(begin: bytes, part: bytes) -> Write:
    def write(connection: socket.socket) -> None:
        connection.sendall(begin)
        while True:
            connection.sendall(part)

    return write


def told(
    stranger: Stranger, out: Path, capsys: pytest.CaptureFixture[str], *more: str
) -> tuple[int, str]:
    """Exit status and stderr of `aigc sample URL`."""
    argv = ["aigc", "sample", stranger.url, "-n", "2", "--seed", "7", "--out", str(out), *more]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", argv)
        status = cli.main()
    return status, capsys.readouterr().err


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
DEEP = b"[" * 200_000

EVERYWHERE: dict[str, tuple[bytes | Write, str]] = {
    "nothing": (b"", "does not answer"),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n", "not in HTTP"),
    "TLS": (b"\x15\x03\x01\x00\x02\x02\x46", "not in HTTP"),
    "an endless line": (endless(b"HTTP/1.1 200 OK\r\nx: ", b"x" * 65536), "not in HTTP"),
    "endless headers": (endless(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n" * 99), "not in HTTP"),
    "endless interim answers": (
        endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 99),
        "has not come to the end of its answer in 1",
    ),
    "half an answer": (HEAD + b"content-length: 100\r\n\r\n{", "stopped in the middle"),
    "half a chunk": (CHUNKED + b"ff\r\n{", "stopped in the middle"),
    "a chunk of no length": (CHUNKED + b"zz\r\n{", "stopped in the middle"),
    "dripping headers": (drip(b"HTTP/1.1 200 OK\r\nx: "), "in 1"),
    "a dripping body": (drip(HEAD + b"\r\n"), "in 1"),
    "dripping chunks": (drip(CHUNKED, b"1\r\n \r\n"), "in 1"),
    "silence": (lambda connection: time.sleep(5), "in 1|timed out"),
    "an endless body": (
        endless(HEAD + b"\r\n", b" " * 65536),
        "answered more than [0-9]+ MiB|in 1",
    ),
    "a huge promise": (HEAD + b"content-length: 99999999999999\r\n\r\n", "stopped in the middle"),
    "no JSON": (http(b"{'a': 1}"), "answered no JSON but application/json"),
    "HTML": (http(b"<!DOCTYPE html>", content_type="text/html"), "no JSON but text/html"),
    "deep JSON": (http(DEEP), "answered no JSON"),
    "not a number": (http(b'{"a": NaN}'), "answered no JSON"),
    "a huge number": (http(b"1" * 5000), "answered no JSON"),
    "no UTF-8": (http(b'"\xff"'), "answered no JSON"),
    "an empty body": (http(b""), "answered no JSON"),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", "answered no JSON"),
    "null": (http(b"null"), "not what was asked for: Expected `object`, got `null`"),
    "a list": (http(b"[]"), "Expected `object`, got `array`"),
    "a string": (http(b'"x"'), "Expected `object`, got `str`"),
    "another object": (http(b"{}"), "missing required field"),
    "compressed": (http(gzip.compress(b"{}"), content_encoding="gzip"), "answered in gzip"),
    "a file": (http(b"", "302 Found", location="file:///etc/passwd"), "is not followed"),
    "elsewhere": (http(b"", "307 T", location="http://127.0.0.2/"), "is not followed"),
    "an error of ours": (http(b'{"error": {"message": "no"}}', "503 S"), "answered 503: no"),
    "an error of theirs": (http(b'{"error": "no"}', "500 Oh"), "answered 500: Oh"),
    "a list of errors": (http(b"[1]", "418 Teapot"), "answered 418: Teapot"),
    "an endless error": (endless(b"HTTP/1.1 500 Oh\r\n\r\n", b"x" * 999), "answered 500: Oh"),
    "no key": (http(b"", "401 Unauthorized"), "AIGC_KEY may hold the key"),
    "an odd wait": (http(b"", "429 Slow", retry_after="\xb2"), "answered 429: Slow"),
    "escapes": (
        http(b'{"error": {"message": "\\u001b[31m\\nred"}}', "500 Oh"),
        r"500: \\x1b\[31m\\nred",
    ),
    "another protocol": (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "answered 101"),
}


@pytest.mark.process
@pytest.mark.parametrize(
    ("what", "path"),
    [
        *((what, "/v1/models") for what in EVERYWHERE),
        *((what, "/v1/samples") for what, (reply, _) in EVERYWHERE.items() if not callable(reply)),
    ],
)
def test_any_answer_is_described_in_one_sentence(
    what: str,
    path: str,
    stranger: Stranger,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stranger.answers[path], message = EVERYWHERE[what]
    if callable(stranger.answers[path]):
        for function in (http_client.request_json, http_client.request_as):
            monkeypatch.setattr(function, "__defaults__", (None, 1.5, http_client.MAX_BYTES))
    begun = time.monotonic()
    status, said = told(stranger, tmp_path / "out", capsys)
    assert time.monotonic() - begun < 20
    assert status == 1
    assert said.startswith(f"aigc sample: {stranger.url}{path} "), said
    assert re.search(message, said), said
    assert said.count("\n") == 1
    assert len(said) < 1000
    assert SECRET not in said
    assert not list(tmp_path.iterdir())


MODELS: dict[str, tuple[bytes, str]] = {
    "a name that climbs": (js(model(id="../../evil@1")), "artifact name must be"),
    "an absolute name": (js(model(id="/tmp/evil@1")), "artifact name must be"),
    "a name of control characters": (js(model(id="a\x1b\n@1")), "artifact name must be"),
    "no version": (js(model(id="tiny")), "version must be"),
    "a version that climbs": (js(model(id="tiny@../1")), "version must be"),
    "a number for a name": (js(model(id=7)), r"Expected `str`, got `int` - at `\$.id`"),
    "another digest": (js(model(digest="../x")), "digest"),
    "no outputs": (outputs(), "outputs"),
    "no signature": (
        js(model(signatures={"a\nb": {"inputs": [], "outputs": []}})),
        "outputs|has no",
    ),
    "a long output": (outputs(("x" * 500, "image"), ("y" * 500, "image")), "too long a name"),
}


@pytest.mark.parametrize("what", MODELS)
def test_hostile_model_lists_are_refused(
    what: str, stranger: Stranger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger.answers["/v1/models/tiny@1"], message = MODELS[what]
    status, said = told(stranger, tmp_path / "out", capsys)
    assert (status, said.count("\n")) == (1, 1), said
    assert re.search(message, said), said
    assert not list((tmp_path / "out").iterdir() if (tmp_path / "out").exists() else ())


SAMPLES: dict[str, tuple[bytes, bytes, str]] = {
    "more than were asked for": (answer([{"image": png()}] * 3), b"", "3 samples where 2 were"),
    "fewer": (answer([]), b"", "0 samples where 2 were"),
    "another seed": (answer(seed=8), b"", "samples of seed 8 where 7 was asked for"),
    "a seed of words": (answer(seed="../7"), b"", "Expected `int | null`, got `str`"),
    "a seed below zero": (answer(seed=-1), b"", r"seed"),
    "another artifact": (answer(digest="b" * 64), b"", "samples of another artifact"),
    "no samples": (js({"digest": "a" * 64, "seed": 7}), b"", "missing required field `samples`"),
    "samples that are none": (answer([1, 2]), b"", "Expected `object`, got `int`"),
    "no image": (answer([{"image": png()}, {}]), b"", "no 'image'"),
    "no outputs either": (answer([{}, {}]), b"", "no 'outputs'"),
    "an image of numbers": (answer([{"image": 7}] * 2), b"", "a file of type int"),
    "no base64": (answer([{"image": "\u00e9!"}] * 2), b"", "answered what cannot be used"),
    "no picture": (answer([{"image": "AAAA"}] * 2), b"", "not a .* that can be read"),
    "another kind of picture": (answer([{"image": saved("JPEG")}] * 2), b"", "no PNG"),
    "pictures of two sizes": (answer([{"image": png()}, {"image": png(9)}]), b"", "of shapes"),
    "a picture that is a bomb": (answer([{"image": png(9000, 9000)}] * 2), b"", "pixels are too"),
    "no text": (answer([{}, {}]), outputs(("text", "text")), "no 'text'"),
    "texts of numbers": (answer([{"text": 1}] * 2), outputs(("text", "text")), "no strings"),
    "no sound": (
        answer([{"audio": "AAAA"}] * 2),
        outputs(("a", "audio")),
        "not a WAV, AIFF or FLAC",
    ),
    "sounds of two lengths": (
        answer([{"audio": wav()}, {"audio": wav(n=11)}]),
        outputs(("a", "audio")),
        "of shapes",
    ),
    "numbers that are words": (
        answer([{"outputs": {"x": ["a"]}}] * 2),
        outputs(("x", "vector")),
        "answered what cannot be used",
    ),
    "numbers of several shapes": (
        answer([{"outputs": {"x": [1]}}, {"outputs": {"x": [1, 2]}}]),
        outputs(("x", "vector")),
        "answered what cannot be used",
    ),
    "numbers that are objects": (
        answer([{"outputs": {"x": {}}}] * 2),
        outputs(("x", "vector")),
        "answered what cannot be used",
    ),
    "outputs that are a list": (
        answer([{"outputs": [1]}] * 2),
        outputs(("x", "vector")),
        "answered what cannot be used",
    ),
}


@pytest.mark.parametrize("what", SAMPLES)
def test_hostile_samples_are_refused(
    what: str, stranger: Stranger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger.answers["/v1/samples"], described, message = SAMPLES[what]
    if described:
        stranger.answers["/v1/models/tiny@1"] = described
    status, said = told(stranger, tmp_path / "out", capsys)
    assert (status, said.count("\n")) == (1, 1), said
    assert re.search(message, said), said
    assert not list(tmp_path.iterdir())


def test_refused_samples_write_nothing_else(
    stranger: Stranger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names of a stranger's outputs may be anything; its files stay in the folder."""
    out = tmp_path / "out"
    names = ["image", "../../x", "/etc/x", "..", "a\x1bb", "\ud800x"[1:], "con", "a/../../b"]
    stranger.answers["/v1/models/tiny@1"] = outputs(*((name, "image") for name in names))
    status, said = told(stranger, out, capsys)
    assert status == 0, said
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    assert len([path for path in out.iterdir() if path.is_file()]) == 3 * len(names)
    assert all(path.name.isprintable() for path in out.iterdir())


def test_links_in_the_output_folder_are_replaced(
    stranger: Stranger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, mine = tmp_path / "out", tmp_path / "mine"
    out.mkdir()
    mine.write_text("mine")
    for name in ("tiny-1-seed7-0.png", "tiny-1-seed7-1.png"):
        (out / name).symlink_to(mine)
    status, said = told(stranger, out, capsys)
    assert status == 0, said
    assert mine.read_text() == "mine"
    assert not any(path.is_symlink() for path in out.iterdir())


def test_redirect_never_receives_the_key(
    stranger: Stranger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Stranger()
    for status in ("301 M", "302 F", "303 S", "307 T", "308 P"):
        stranger.answers["*"] = http(b"", status, location=f"{other.url}/v1/models")
        stranger.answers.pop("/v1/models", None)
        code, said = told(stranger, tmp_path / "out", capsys)
        assert code == 1
        assert f"it sends on to {other.url}/v1/models, which is not followed" in said
    assert other.heads == []
    other.close()


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY"])
def test_proxy_of_the_environment_is_named(
    variable: str,
    stranger: Stranger,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, f"http://user:password@127.0.0.1:{stranger.port}")
    named = f"through the proxy 127.0.0.1:{stranger.port} of {variable}"
    for reply, message in (
        (http(b"<html>blocked</html>", content_type="text/html"), "answered no JSON"),
        (http(b"", "407 Proxy Authentication Required"), "answered 407"),
        (b"", "does not answer"),
    ):
        stranger.answers = {"*": reply}
        argv = ["aigc", "sample", "http://models.example", "--out", str(tmp_path / "out")]
        monkeypatch.setattr("sys.argv", argv)
        assert cli.main() == 1
        said = capsys.readouterr().err
        assert named in said, said
        assert message in said
        assert "password" not in said
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    stranger.answers = good()
    status, said = told(stranger, tmp_path / "out", capsys)
    assert status == 0, said


@contextmanager
def encrypted(folder: Path) -> Iterator[str]:
    """The URL of a server with a certificate that nobody has signed."""
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    made += ["-subj", "/CN=localhost", "-keyout", "key", "-out", "certificate"]
    subprocess.run(made, cwd=folder, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate", folder / "key")
    listener = socket.create_server(("127.0.0.1", 0))

    def listen() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            context.wrap_socket(connection, server_side=True).close()

    thread = threading.Thread(target=listen)
    thread.start()
    yield f"https://127.0.0.1:{listener.getsockname()[1]}"
    thread.join()
    listener.close()


def test_untrusted_certificate_is_named(tmp_path: Path) -> None:
    with (
        encrypted(tmp_path) as url,
        pytest.raises(ValueError, match=r"does not answer: .*CERTIFICATE_VERIFY_FAILED"),
    ):
        http_client.request_json(f"{url}/v1/models")


def test_https_to_an_http_server_is_named(stranger: Stranger) -> None:
    stranger.answers = {"*": b"HTTP/1.1 400 Bad Request\r\n\r\n"}
    url = stranger.url.replace("http:", "https:")
    with pytest.raises(ValueError, match=r"does not answer: .*SSL"):
        http_client.request_json(f"{url}/v1/models")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_refused_connection_is_named(scheme: str) -> None:
    with pytest.raises(ValueError, match=r"does not answer: .*refused.*is `aigc serve` up"):
        http_client.request_json(f"{scheme}://127.0.0.1:{free_port()}/v1/models")


def test_ipv6_is_supported(
    stranger: Stranger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Stranger("::1")
    other.answers = good()
    status, said = told(other, tmp_path / "out", capsys)
    assert status == 0, said
    other.close()


@pytest.mark.parametrize(
    "url",
    [
        *("http://", "http://:80", "http://a:b", "http://a:99999", "http://[::1", "http://a b"),
        *(
            "http://a\n",
            "http://user:password@a",
            "http://a?x=1",
            "http://a#x",
            "https://é.example",
        ),
        *("http://a\x00b", "http:///x", "file:///etc/passwd", "ftp://a"),
    ],
)
def test_malformed_server_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is no URL of a server; it must be http://HOST:PORT"):
        http_client.request_json(url)


def test_malformed_key_is_refused_and_not_shown(
    stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(http_client.ENVIRONMENT, "secret\r\nx-evil: 1")
    with pytest.raises(ValueError, match="AIGC_KEY holds no key") as caught:
        http_client.request_json(stranger.url)
    assert "secret" not in str(caught.value)
    assert stranger.heads == []


def test_valid_answer_is_accepted(stranger: Stranger) -> None:
    options = sample.Options(source=stranger.url, n=2, seed=7)
    samples = sample.from_server(options)
    assert samples.arrays.shape == (2, 8, 8, 1)
    assert all(f"authorization: bearer {SECRET}" in head.lower() for head in stranger.heads)
