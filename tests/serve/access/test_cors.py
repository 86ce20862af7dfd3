"""Pages of other origins: refused by default, and let in by name, whatever headers they send."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.access.api_keys import CreateKey, key_entry
from serve.access.rate_ledger import Ledger
from serve.access.rate_limiter import in_process
from serve.settings import Settings
from tests.serve.browser import ALICE, CHROMIUM
from tests.serve.client import Client, code_of, serving
from tests.serve.listening import Listening, listening

PAGE = "https://page.example"
SDK = (
    "authorization,content-type,openai-organization,openai-project,traceparent,x-request-id,"
    "x-stainless-arch,x-stainless-lang,x-stainless-os,x-stainless-package-version,"
    "x-stainless-retry-count,x-stainless-runtime,x-stainless-runtime-version,x-stainless-timeout"
)
"""Headers of OpenAI's JavaScript SDK in a browser, and of a page that traces."""


def preflight(
    client: Client, origin: str = PAGE, path: str = "/v1/samples", headers: str = SDK
) -> httpx.Response:
    asked = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": headers,
    }
    return client.request("OPTIONS", path, headers=asked)


def names(listed: str) -> set[str]:
    return {name.strip().lower() for name in listed.split(",")}


def test_by_default_no_page_of_another_origin_may_ask(store: Path, metrics_dir: Path) -> None:
    with serving(Settings(metrics_dir=str(metrics_dir)), f"{store}/tiny@1") as client:
        answers = [
            preflight(client),
            client.request("POST", "/v1/samples", json={"model": "tiny"}, headers={"origin": PAGE}),
        ]
        for answer in answers:
            assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("origin", [PAGE, "*"])
def test_named_origins_may_ask_and_read_what_the_headers_say(
    origin: str, store: Path, metrics_dir: Path
) -> None:
    settings = Settings(metrics_dir=str(metrics_dir), cors=(origin,))
    with serving(settings, f"{store}/tiny@1") as client:
        found = preflight(client)
        assert found.status_code == 200
        assert found.headers["access-control-allow-origin"] == origin
        assert names(found.headers["access-control-allow-headers"]) == names(SDK)
        assert names(found.headers["access-control-allow-methods"]) == {"post", "options"}
        assert found.headers["access-control-max-age"] == "600"
        vary = names(found.headers["vary"])
        assert "access-control-request-headers" in vary
        assert ("origin" in vary) == (origin != "*")
        answer = client.request(
            "POST",
            "/v1/samples",
            json={"model": "tiny", "seed": 7, "format": "npy"},
            headers={"origin": PAGE},
        )
        assert answer.headers["access-control-allow-origin"] == origin
        assert {"x-aigc-seed", "x-aigc-replica"} <= names(
            answer.headers["access-control-expose-headers"]
        )
        assert answer.headers["x-aigc-seed"] == "7"
        other = preflight(client, "https://other.example")
        assert ("access-control-allow-origin" in other.headers) == (origin == "*")


def test_caches_keep_the_answers_to_listed_origins_apart(store: Path, metrics_dir: Path) -> None:
    settings = Settings(metrics_dir=str(metrics_dir), cors=(PAGE, "https://more.example/"))
    with serving(settings, f"{store}/tiny@1") as client:
        for origin in (PAGE, "https://more.example", "https://other.example", "null", None):
            headers = {} if origin is None else {"origin": origin}
            answer = client.request("GET", "/page/page.css", headers=headers)
            assert answer.headers["vary"] == "Origin"
            told = answer.headers.get("access-control-allow-origin")
            assert told == (origin if origin in (PAGE, "https://more.example") else None)
        twice = client.run(
            client.http.get("/healthz", headers=[("origin", PAGE), ("origin", "https://b.example")])
        )
        assert "access-control-allow-origin" not in twice.headers


@pytest.mark.parametrize(
    "headers",
    ["x-ok, b@d", "x ok", "x-ok;q=1", "x-" + "y" * 4096, "ä", "x-ok\x01"],
)
def test_preflight_refuses_malformed_header_lists(
    headers: str, store: Path, metrics_dir: Path
) -> None:
    settings = Settings(metrics_dir=str(metrics_dir), cors=("*",))
    with serving(settings, f"{store}/tiny@1") as client:
        asked = [
            (b"origin", PAGE.encode()),
            (b"access-control-request-method", b"POST"),
            (b"access-control-request-headers", headers.encode("latin-1")),
        ]
        answer = client.run(client.http.options("/v1/samples", headers=asked))
        assert code_of(answer) == (400, "malformed_header")
        assert "access-control-allow-headers" not in answer.headers


def test_preflight_names_the_methods_of_the_path(store: Path, metrics_dir: Path) -> None:
    settings = Settings(metrics_dir=str(metrics_dir), cors=("*",))
    with serving(settings, f"{store}/tiny@1") as client:
        for path, methods in (
            ("/v1/models/tiny", "get, head, options"),
            ("/v2/models/tiny/infer", "post, options"),
            ("/v2/models/tiny", "get, head, options"),
            ("/v1/embeddings", "get, head, post"),  # so that a page reads the 404
        ):
            answer = preflight(client, path=path)
            assert answer.status_code == 200
            assert names(answer.headers["access-control-allow-methods"]) == names(methods)


@pytest.mark.parametrize("origin", ["page.example", "https://page.example/x", "", "* *"])
def test_cors_option_refuses_values_that_are_no_origin(origin: str) -> None:
    with pytest.raises(ValueError, match="cors must be origins such as"):
        Settings(cors=(origin,))


ASK = """async ([url, body, key]) => {
  const headers = {
    "content-type": "application/json", authorization: `Bearer ${key}`,
    "openai-organization": "o", "openai-project": "p", "x-request-id": "page-1",
    traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "x-stainless-arch": "unknown", "x-stainless-lang": "js", "x-stainless-os": "Unknown",
    "x-stainless-package-version": "6.1.0", "x-stainless-retry-count": "0",
    "x-stainless-runtime": "browser:chrome", "x-stainless-runtime-version": "1.2.3",
    "x-stainless-timeout": "600", "idempotency-key": `k-${Math.random()}`,
    "x-request-timeout": "30",
  };
  const answer = await fetch(url, {method: "POST", headers, body: JSON.stringify(body)});
  return [answer.status, await answer.text(), Object.fromEntries(answer.headers)];
}"""


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>another origin</title>")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[int]:
    """The port of a server of pages: of this machine, since browsers ask before a page of the
    internet may reach one."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture(scope="module", params=["*", "listed"])
def guarded(
    request: pytest.FixtureRequest,
    elsewhere: int,
    store: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Listening]:
    """A server of another origin than the page: for all pages, and for that page."""
    folder = tmp_path_factory.mktemp("guarded")
    keys = folder / "keys.toml"
    keys.write_text(
        key_entry(CreateKey(action="new", name="alice", samples_per_s=0.01, burst=9), ALICE)
    )
    origin = "*" if request.param == "*" else f"http://127.0.0.1:{elsewhere}"
    settings = Settings(metrics_dir=str(folder), keys=str(keys), cors=(origin,))
    with listening(settings, f"{store}/tiny@1", take_budget=in_process(Ledger())) as served:
        yield served


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: no page was asked from")
@pytest.mark.timeout(120)
def test_a_page_of_another_origin_asks_as_openais_sdk_does(
    guarded: Listening, elsewhere: int, browser: Any, request: pytest.FixtureRequest
) -> None:
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{elsewhere}/")

    def ask(url: str, path: str, body: dict[str, Any], key: str = ALICE) -> Any:
        status, text, headers = page.evaluate(ASK, [f"{url}{path}", body, key])
        return status, json.loads(text), headers

    body = {"model": "tiny", "prompt": "seven", "seed": 7}
    status, answer, headers = ask(guarded.url, "/v1/images/generations", body)
    assert status == 200
    assert answer["aigc"]["labels"] == [7]
    assert headers["x-aigc-seed"] == "7"
    assert headers["x-aigc-replica"] == "replica-7"
    assert headers["x-ratelimit-limit"] == "9"
    wrong = {"model": "tiny", "prompt": "a house"}
    status, answer, _ = ask(guarded.url, "/v1/images/generations", wrong)
    assert (status, answer["error"]["code"]) == (400, "unknown_prompt")
    status, answer, headers = ask(guarded.url, "/v1/samples", {"model": "tiny"}, "wrong")
    assert (status, answer["error"]["code"]) == (401, "unknown_key")
    assert headers["www-authenticate"].startswith("Bearer")
    status, answer, headers = ask(guarded.url, "/v1/samples", {"model": "tiny", "n": 9})
    assert (status, answer["error"]["code"]) == (429, "rate_limited")
    assert int(headers["retry-after"]) > 0
    status, answer, _ = ask(guarded.url, "/v1/embeddings", {})
    assert (status, answer["error"]["code"]) == (404, "unknown_route")
    status, answer, _ = ask(guarded.url, "/v2/models/tiny/infer", {"inputs": 3})
    assert (status, set(answer)) == (400, {"error"})
    status, _, headers = ask(guarded.url, "/v1/models", {})
    assert (status, headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    page.goto(f"http://localhost:{elsewhere}/")  # another origin
    if request.node.callspec.params["guarded"] == "*":
        assert ask(guarded.url, "/v1/samples", {"model": "tiny", "n": 0})[0] == 400
    else:
        with pytest.raises(Exception, match="Failed to fetch"):
            ask(guarded.url, "/v1/samples", {"model": "tiny", "n": 0})
    page.close()
