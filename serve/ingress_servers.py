"""The servers that Ray puts before a replica, uvicorn and grpc.aio, held to what a replica takes.

Ray makes them itself, when the replica has been made, and offers no way to say how.
"""

import asyncio
from typing import Any

import uvicorn.config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

JOINED_BYTES = 1 << 20
"""A longer body is not copied to be sent with its head: it fits no socket's buffer anyway."""

MESSAGE_SLACK_BYTES = 1 << 16
"""A gRPC message that is only a little too large is refused in our own words."""


class HeadWithBody:
    """A transport that sends the head of an answer together with what follows it at once.

    A replica that is killed between the two would leave its client, and HAProxy, with a head alone;
    and each would be woken twice.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """As asyncio.Transport.write; a head waits for the next call, or turn of the event loop."""
        if data.startswith(b"HTTP/1.1 ") and not self._head:
            self._head = data
            asyncio.get_running_loop().call_soon(self._send_head)
        elif self._head and len(data) <= JOINED_BYTES:
            data, self._head = self._head + data, b""
            self._transport.write(data)
        else:
            self._send_head()
            self._transport.write(data)

    def close(self) -> None:
        """As asyncio.Transport.close."""
        self._send_head()
        self._transport.close()

    def _send_head(self) -> None:
        if self._head and not self._transport.is_closing():
            self._transport.write(self._head)
        self._head = b""


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP, but what comes after a chunked body is no header of the request, and answers
    leave in one piece."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(HeadWithBody(transport))  # type: ignore[arg-type]

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self.cycle is not None and self.cycle.scope is self.scope:
            self.headers = []  # the request keeps the list that there was


def replace_http() -> None:
    """Have uvicorn's servers that are made in this process from here on speak HTTP so."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{Protocol.__name__}"


def limit_grpc(max_message_bytes: int) -> None:
    """Have Ray's gRPC servers that are made in this process from here on refuse larger messages.

    RAY_SERVE_GRPC_MAX_MESSAGE_SIZE is for what is sent as well, which may be larger.
    """
    from ray.serve._private import grpc_util

    name = "grpc.max_receive_message_length"
    options = grpc_util.DEFAULT_GRPC_SERVER_OPTIONS
    options[:] = [option for option in options if option[0] != name]
    options.append((name, max_message_bytes + MESSAGE_SLACK_BYTES))
