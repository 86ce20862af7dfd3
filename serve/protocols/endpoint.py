"""Endpoints that draw samples: admission, the body and the metrics, the same in every protocol.

    Route("POST", "/v1/samples", endpoint(sampler, "native", decode_request, respond), OPERATION)

`respond(request, scope, context)` is all that a protocol adds.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import msgspec

from serve.http import Endpoint, Receive, Response, Scope
from serve.request_body import decode
from serve.request_context import RequestContext
from serve.sampler import PARSE_INLINE_BYTES, Sampler

R = TypeVar("R")

Decode = Callable[[Scope, bytes], R]
"""(scope, body) -> the request. Raises HTTPError 400."""
Respond = Callable[[R, Scope, RequestContext], Awaitable[Response]]


def endpoint(sampler: Sampler, api: str, decode: Decode[R], respond: Respond[R]) -> Endpoint:
    """An endpoint whose body is decoded, in a thread if it is long.

    `api` is the protocol's label in the metrics.
    """
    max_bytes = sampler.limits.max_body_bytes

    async def handle(scope: Scope, receive: Receive) -> Response:
        async def run(context: RequestContext) -> Response:
            body = await context.read(scope, receive, max_bytes)
            if len(body) < PARSE_INLINE_BYTES:  # most are, and this saves them an await
                request = decode(scope, body)
            else:
                request = await sampler.parse(context, body, partial(decode, scope, body))
            return await respond(request, scope, context)

        return await sampler.track(api, scope["headers"], run)

    return handle


def raw_endpoint(
    sampler: Sampler, api: str, respond: Respond[bytes], max_bytes: int | None = None
) -> Endpoint:
    """An endpoint that takes the body as it is, by default of at most limits.max_body_bytes."""
    most = sampler.limits.max_body_bytes if max_bytes is None else max_bytes

    async def handle(scope: Scope, receive: Receive) -> Response:
        async def run(context: RequestContext) -> Response:
            return await respond(await context.read(scope, receive, most), scope, context)

        return await sampler.track(api, scope["headers"], run)

    return handle


def json_decoder(kind: type[R], path: str) -> Decode[R]:
    """Decodes JSON bodies of the route at `path`."""
    decoder = msgspec.json.Decoder(kind)
    return lambda scope, body: decode(decoder, body, path)
