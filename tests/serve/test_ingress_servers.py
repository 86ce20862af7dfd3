"""uvicorn as a replica has it: what one write of an answer holds."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from serve.ingress_servers import JOINED_BYTES, replace_http

LARGE = b"x" * (JOINED_BYTES + 1)


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Send what the path names: a short body, a large one, one in parts, or a head and a wait."""
    body = LARGE if scope["path"] == "/large" else b"short"
    head = [(b"content-length", b"%d" % len(body))]
    if scope["path"] in ("/parts", "/late"):
        head = []
    await send({"type": "http.response.start", "status": 200, "headers": head})
    if scope["path"] == "/late":
        await receive()  # the request's own end
        await receive()  # its client hangs up
        return
    if scope["path"] == "/parts":
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await asyncio.sleep(0.01)
    await send({"type": "http.response.body", "body": body, "more_body": False})


@contextmanager
def running() -> Iterator[tuple[str, int]]:
    """The address of a server of this process."""
    replace_http()
    config = uvicorn.Config(answer, port=0, ws="none", lifespan="off", log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()
    finally:
        server.should_exit = True
        thread.join(10)


def ask(connection: socket.socket, path: str, method: str = "GET") -> bytes:
    """Bytes of the first read after a request on a kept connection."""
    connection.sendall(f"{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    return connection.recv(1 << 16)


def test_a_head_and_a_short_body_are_one_write() -> None:
    with running() as address, socket.create_connection(address, timeout=10) as connection:
        for _ in range(300):
            assert ask(connection, "/short").endswith(b"\r\n\r\nshort")


def test_the_first_part_of_a_stream_comes_with_the_head() -> None:
    with running() as address, socket.create_connection(address, timeout=10) as connection:
        for _ in range(50):
            found = ask(connection, "/parts")
            assert found.endswith(b"\r\n\r\n5\r\nfirst\r\n")
            while not found.endswith(b"5\r\nshort\r\n0\r\n\r\n"):
                found += connection.recv(1 << 16)


def test_a_head_alone_does_not_wait_for_a_body() -> None:
    with running() as address:
        with socket.create_connection(address, timeout=10) as connection:
            assert ask(connection, "/late").endswith(b"\r\n\r\n")
        with socket.create_connection(address, timeout=10) as connection:
            assert ask(connection, "/short", "HEAD").endswith(b"\r\n\r\n")
            assert ask(connection, "/short").endswith(b"short")


def test_a_body_too_long_to_be_copied_is_whole() -> None:
    with running() as address, socket.create_connection(address, timeout=10) as connection:
        found = ask(connection, "/large")
        while len(found.partition(b"\r\n\r\n")[2]) < len(LARGE):
            found += connection.recv(1 << 20)
        assert found.partition(b"\r\n\r\n")[2] == LARGE
