"""The page at / and the API docs at /docs: files of this package and of swagger-ui-bundle.

Nothing is loaded from other servers, and the pages run only their own scripts.
"""

import asyncio
import base64
import gzip
import hashlib
import re
from functools import cache
from importlib.resources import files
from pathlib import Path

import swagger_ui_bundle

from serve.http import Endpoint, Headers, Receive, Response, Route, Scope

SWAGGER_FILES = {
    "swagger-ui.css": b"text/css; charset=utf-8",
    "swagger-ui-bundle.js": b"text/javascript; charset=utf-8",
}

DOCS = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>aigc API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
<div id="docs"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script>
// This Swagger UI renders a 3.1 document but refuses its version number.
fetch("openapi.json").then((answer) => answer.json()).then((spec) => SwaggerUIBundle({
  dom_id: "#docs", spec: {...spec, openapi: "3.0.3"}, validatorUrl: null, deepLinking: true,
  defaultModelsExpandDepth: 0, tryItOutEnabled: true,
}));
</script>
</html>
"""


PAGE = {
    "page.css": b"text/css; charset=utf-8",
    "page.js": b"text/javascript; charset=utf-8",
    "media.js": b"text/javascript; charset=utf-8",
    "give.js": b"text/javascript; charset=utf-8",
}
"""Files of the page at / besides its HTML, and their media types."""


def routes() -> tuple[Route, ...]:
    """The page, the API docs and the files that they load."""
    page = files("serve").joinpath("page")
    index = _page(page.joinpath("index.html").read_text("utf-8"), inline_styles=False)
    return (
        Route("GET", "/", index),
        Route("GET", "/docs", _page(DOCS, inline_styles=True)),
        *(
            Route("GET", f"/page/{name}", _fixed(page.joinpath(name).read_bytes(), media_type, []))
            for name, media_type in PAGE.items()
        ),
        *(Route("GET", f"/docs/{name}", _swagger_file) for name in SWAGGER_FILES),
    )


def _page(text: str, *, inline_styles: bool) -> Endpoint:
    headers = [
        (b"content-security-policy", content_policy(text, inline_styles=inline_styles).encode()),
        (b"referrer-policy", b"no-referrer"),
        (b"x-frame-options", b"DENY"),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"permissions-policy", b"camera=(), geolocation=(), microphone=(self)"),
    ]
    return _fixed(text.encode(), b"text/html; charset=utf-8", headers)


def _fixed(body: bytes, media_type: bytes, headers: Headers) -> Endpoint:
    response = Response(body, media_type, headers=[(b"cache-control", b"no-cache"), *headers])

    async def page(scope: Scope, receive: Receive) -> Response:
        return response

    return page


def content_policy(page: str, *, inline_styles: bool) -> str:
    """A Content-Security-Policy that allows only the page's own inline code, by hash."""
    scripts = _hashes(page, "script")
    styles = "'unsafe-inline'" if inline_styles else _hashes(page, "style")
    return (
        f"default-src 'none'; script-src 'self' {scripts}; style-src 'self' {styles};"
        " img-src 'self' blob: data:; media-src blob:; connect-src 'self'; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'"
    )


def _hashes(page: str, tag: str) -> str:
    codes = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(code.encode()).digest()) for code in codes]
    return " ".join(f"'sha256-{digest.decode()}'" for digest in digests)


async def _swagger_file(scope: Scope, receive: Receive) -> Response:
    name = scope["path"].removeprefix("/docs/")
    body = await asyncio.to_thread(_gzipped, name)
    headers = [(b"cache-control", b"public, max-age=86400"), (b"vary", b"accept-encoding")]
    accepted = b",".join(v for k, v in scope["headers"] if k == b"accept-encoding")
    if b"gzip" in accepted:
        headers.append((b"content-encoding", b"gzip"))
    else:
        body = gzip.decompress(body)
    return Response(body, SWAGGER_FILES[name], headers=headers)


@cache
def _gzipped(name: str) -> bytes:
    return gzip.compress((Path(swagger_ui_bundle.swagger_ui_path) / name).read_bytes(), mtime=0)
