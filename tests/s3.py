"""A real S3 protocol server on loopback, and fsspec told where it is as a user tells it."""

import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

from tests.ports import free_port


@contextmanager
def s3_server() -> Iterator[str]:
    """s3://bucket; AWS_ENDPOINT_URL and keys in the environment, for child processes as well."""
    for module in ("moto", "s3fs", "flask"):
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    import fsspec

    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
            environment.setenv("AWS_ACCESS_KEY_ID", "test")
            environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
            environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            fsspec.filesystem("s3", skip_instance_cache=True).makedirs("bucket", exist_ok=True)
            fsspec.filesystem("s3").clear_instance_cache()
            yield "s3://bucket"
            fsspec.filesystem("s3").clear_instance_cache()
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The server of a session; tests/conftest.py makes it known to all modules."""
    with s3_server() as uri:
        yield uri


@pytest.fixture
def bucket(s3: str) -> str:
    """An empty prefix."""
    return f"{s3}/{uuid.uuid4().hex}"
