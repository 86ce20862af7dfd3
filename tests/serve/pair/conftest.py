"""One server of two replicas without keys, for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.serve.servers import Server, server


@pytest.fixture(scope="package")
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
    arguments += ["--grpc-port", str(free_port())]
    with server(tmp_path_factory.mktemp("pair"), *arguments) as running:
        running.wait_until_ready()
        yield running
