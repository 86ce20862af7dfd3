"""Every path names its methods, every body its coding; and what is no HTTP request is answered."""

import asyncio
import base64
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from aigc.artifact import image_files
from serve.errors import HTTPError
from serve.http import Application, Message, Response, Route
from serve.ingress import IngressReplica
from tests.serve.client import Client, limited, running
from tests.serve.hosting.pools import Cluster

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
READ, WRITTEN = "GET, HEAD, OPTIONS", "POST, OPTIONS"
PATHS = {
    "/": READ,
    "/docs": READ,
    "/docs/swagger-ui.css": READ,
    "/page/page.js": READ,
    "/healthz": READ,
    "/readyz": READ,
    "/metrics": READ,
    "/openapi.json": READ,
    "/v1/models": READ,
    "/v1/models/tiny": READ,
    "/v1/models/tiny@1": READ,
    "/v1/samples": WRITTEN,
    "/v1/interpolate": WRITTEN,
    "/v1/verify": WRITTEN,
    "/v1/images/generations": WRITTEN,
    "/v1/audio/speech": WRITTEN,
    "/v1/completions": WRITTEN,
    "/v1/admin/target": READ,
    "/v1/admin/deploy": WRITTEN,
    "/v2": READ,
    "/v2/": READ,
    "/v2/health/live": READ,
    "/v2/health/ready": READ,
    "/v2/models/tiny": READ,
    "/v2/models/tiny:encode": READ,
    "/v2/models/tiny/ready": READ,
    "/v2/models/tiny/infer": WRITTEN,
    "/v2/models/tiny/versions/1": READ,
    "/v2/models/tiny/versions/1/ready": READ,
    "/v2/models/tiny/versions/1/infer": WRITTEN,
}
NONE = (
    "/none",
    "/v1",
    "/v1/samples/",
    "//v1/samples",
    "/V1/samples",
    "/docs/none.css",
    "/page/",
    "/v2/models",
    "/v2/models/",
    "/v2/models/tiny/none",
    "/v2/models/tiny/infer/",
    "/v2/models/tiny/versions/1/infer/more",
    "/v2/none",
)


@pytest.fixture(scope="module")
def client(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    settings = limited(tmp_path_factory.mktemp("metrics"), max_n=100, max_body_bytes=1 << 16)
    config = Cluster().config  # so that there are admin routes
    with running(
        lambda: IngressReplica(settings, "replica-7", config), f"{store}/tiny@1"
    ) as client:
        yield client


def shape(path: str, answer: httpx.Response) -> str:
    """The error's message, in the shape of the path's protocol."""
    error = answer.json()["error"]
    if path.startswith("/v2"):
        assert isinstance(error, str)
        return error
    assert set(error) == {"code", "message", "type", "param"}
    return str(error["message"])


@pytest.mark.parametrize("path", PATHS)
def test_allow_names_the_methods_of_a_path_and_no_others(client: Client, path: str) -> None:
    allowed = PATHS[path]
    for method in METHODS:
        answer = client.request(method, path)
        if method == "OPTIONS":
            assert (answer.status_code, answer.headers["allow"]) == (200, allowed)
        elif method in allowed.split(", "):
            assert answer.status_code != 405, method
        else:
            assert (answer.status_code, answer.headers["allow"]) == (405, allowed), method
            if method != "HEAD":
                assert f"takes {allowed}, not {method}" in shape(path, answer)


@pytest.mark.parametrize("path", NONE)
def test_unknown_paths_are_404_by_any_method(client: Client, path: str) -> None:
    for method in METHODS:
        answer = client.request(method, path)
        assert answer.status_code == 404, method
        if method != "HEAD":
            assert "no route" in shape(path, answer)


def test_the_document_has_every_path_and_method_there_is(client: Client) -> None:
    document = client.get("/openapi.json").json()["paths"]
    for path, operations in document.items():
        real = re.sub(r"\{version\}", "1", re.sub(r"\{(?:model|id)\}", "tiny", path))
        allowed = client.request("OPTIONS", real).headers["allow"].split(", ")
        assert {method.upper() for method in operations} <= set(allowed), path


BODIES: dict[str, Any] = {
    "/v1/samples": {"model": "tiny", "seed": 7},
    "/v1/interpolate": {"model": "tiny", "from_seed": 1, "to_seed": 2},
    "/v1/images/generations": {"model": "tiny", "prompt": "", "seed": 7},
    "/v1/audio/speech": {"model": "tiny", "input": "one"},
    "/v1/completions": {"model": "tiny"},
    "/v2/models/tiny/infer": {"parameters": {"seed": 7}},
    "/v1/admin/remove": {"model": "none"},
    "/v1/verify": None,
}


def encoded(path: str, charset: str = "utf-8") -> bytes:
    body = BODIES[path]
    return PNG if body is None else json.dumps(body).encode(charset)


PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("coding", ["gzip", "GZip", "br", "deflate", "zstd", "identity, gzip", "x"])
def test_a_compressed_body_is_415_everywhere(client: Client, path: str, coding: str) -> None:
    headers = {"content-encoding": coding, "content-type": "application/json"}
    answer = client.request("POST", path, content=gzip.compress(encoded(path)), headers=headers)
    if path.startswith("/v1/admin"):
        assert answer.status_code in (403, 415)  # who may not change anything is told so first
        return
    assert answer.status_code == 415
    assert answer.headers["accept-encoding"] == "identity"
    assert "send it uncompressed" in shape(path, answer)


@pytest.mark.parametrize("path", ["/v1/samples", "/v2/models/tiny/infer", "/v1/verify"])
@pytest.mark.parametrize("coding", ["identity", "Identity", "", "identity, identity"])
def test_a_body_that_says_it_is_not_compressed_is_read(
    client: Client, path: str, coding: str
) -> None:
    headers = {"content-encoding": coding}
    answer = client.request("POST", path, content=encoded(path), headers=headers)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("path", ["/v1/samples", "/v1/images/generations", "/v2/models/tiny/infer"])
@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/JSON; charset=UTF-8", 200),
        ('Application/Json;Charset="utf-8"', 200),
        ("application/json; charset=us-ascii", 200),
        ("application/x-www-form-urlencoded", 200),  # what curl says of -d
        ("", 200),
        ("text/plain", 200),
        ("application/json; charset=utf-16", 415),
        ("application/json; charset=latin-1", 415),
        ("application/json;CHARSET=ISO-8859-1", 415),
    ],
)
def test_media_types_are_read_in_any_case(
    client: Client, path: str, kind: str, status: int
) -> None:
    headers = {"content-type": kind} if kind else {}
    answer = client.request("POST", path, content=encoded(path), headers=headers)
    assert answer.status_code == status, answer.text
    if status == 415:
        assert "must be UTF-8" in shape(path, answer)


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data; boundary=xyz",
        "Multipart/Form-Data; Boundary=xyz",
        'MULTIPART/FORM-DATA;BOUNDARY="xyz"',
        "multipart/form-data; charset=utf-8; boundary=xyz",
        "multipart/form-data ;boundary=xyz",
    ],
)
def test_forms_are_read_however_they_are_called(client: Client, kind: str) -> None:
    parts = {"model": "tiny", "seed": "7", "format": "png"}
    body = "".join(
        f'--xyz\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in parts.items()
    )
    answer = client.request(
        "POST", "/v1/samples", content=f"{body}--xyz--\r\n", headers={"content-type": kind}
    )
    assert answer.status_code == 200, answer.text
    assert image_files.read_png(answer.content)[1] is not None


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        ("/models/tiny", {"model": "tiny"}),
        ("/models/tiny:encode/ready", {"model": "tiny:encode"}),
        ("/models/a\nb/versions/1", {"model": "a\nb", "version": "1"}),
        ("/files/a/b/c", {"name": "a/b/c"}),
        ("/files/", {"name": ""}),
        ("/models/", None),
        ("/models/a/b", None),
        ("/models//versions/1", None),
        ("/models/tiny/ready/", None),
    ],
)
def test_path_parameters(path: str, parameters: dict[str, str] | None) -> None:
    async def endpoint(scope: Any, receive: Any) -> Response:
        return Response(json.dumps(dict(scope["path_params"])).encode(), b"application/json")

    templates = (
        "/models/{model}",
        "/models/{model}/ready",
        "/models/{model}/versions/{version}",
        "/files/{name:path}",
    )
    application = Application([Route("GET", template, endpoint) for template in templates])

    async def answer() -> httpx.Response:
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get(path.replace("\n", "%0A"))

    response = asyncio.run(answer())
    assert response.status_code == (404 if parameters is None else 200)
    if parameters is not None:
        assert response.json() == parameters


def connect(application: Any, path: str, extensions: dict[str, Any]) -> list[Message]:
    """Messages to a server whose client asks for a WebSocket."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": path, "headers": [], "extensions": extensions}
    asyncio.run(application(scope, receive, send))
    return sent


@pytest.mark.parametrize("path", ["/v1/samples", "/v1/realtime", "/", "/v2/models/tiny/infer"])
def test_a_websocket_is_refused_and_told_of(path: str) -> None:
    refused: list[tuple[str, int]] = []

    async def endpoint(scope: Any, receive: Any) -> Response:
        raise AssertionError("no request was made")

    def shape_of_v2(error: HTTPError) -> Response:
        return Response(json.dumps({"error": error.message}).encode(), b"application/json")

    application = Application(
        [Route("GET", "/v1/samples", endpoint), Route("GET", "/", endpoint)],
        {"/v2": shape_of_v2},
        lambda path, status, seconds: refused.append((path, status)),
    )
    start, body = connect(application, path, {"websocket.http.response": {}})
    assert start["type"] == "websocket.http.response.start"
    assert body["type"] == "websocket.http.response.body"
    assert "there is no WebSocket at" in body["body"].decode()
    if not path.startswith("/v2"):
        assert start["status"] == 404
    (close,) = connect(application, path, {})
    assert (close["type"], close["code"]) == ("websocket.close", 1008)
    assert refused == [(path, 404)] * 2
