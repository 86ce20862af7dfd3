"""One server of one replica with keys, for all tests of this folder."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from aigc.artifact import Store
from serve.access.api_keys import CreateKey, key_entry
from tests.ports import free_port
from tests.serve.artifacts import publish
from tests.serve.servers import Server, server

SLOW, WIDE, FREE = (f"aigc_secret_of_{name}" for name in ("slow", "wide", "free"))
KNOWN = 9
"""Samples of `failing` of this class make its graph fail."""


@dataclass(frozen=True, kw_only=True)
class Guarded:
    """The server and what it was given."""

    server: Server
    grpc_port: int
    store: Path
    keys: Path


@pytest.fixture(scope="package")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """tiny@1 and failing@1, for a key of one sample per second, a wide one, and a free one."""
    folder = tmp_path_factory.mktemp("single")
    store = Store(folder / "store")
    artifacts = [
        publish(store, folder / "tiny", "tiny", 1),
        publish(store, folder / "failing", "failing", 0, known=KNOWN),
    ]
    keys = folder / "keys.toml"
    slow = CreateKey(action="new", name="slow", samples_per_s=1.0, burst=2, concurrency=1)
    wide = CreateKey(action="new", name="wide", samples_per_s=20.0, burst=40)
    others = key_entry(wide, WIDE) + key_entry(CreateKey(action="new", name="free"), FREE)
    keys.write_text(key_entry(slow, SLOW) + others)
    port = free_port()
    with server(folder, *artifacts, "--keys", str(keys), "--grpc-port", str(port)) as running:
        running.wait_until_ready()
        yield Guarded(server=running, grpc_port=port, store=folder / "store", keys=keys)
