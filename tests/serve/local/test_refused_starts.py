"""`aigc serve` that cannot succeed is refused before any process is started."""

import shutil
import socket
from pathlib import Path
from typing import Any, NoReturn

import pytest

from serve import cli
from serve.local import server
from tests.ports import free_port


@pytest.fixture(autouse=True)
def _nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(*_: Any) -> NoReturn:
        raise AssertionError("this would start Ray")

    monkeypatch.setattr(server, "serve", serve)


def refusal(*arguments: str) -> str:
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        cli.command(["--port", str(free_port()), "--metrics-port", "0", *arguments])
    return str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{store}/none"], "no artifact 'none'"),
        (["{store}/tiny@9"], "has no version '9'"),
        (["{store}/tiny@1", "--replicas", "3..2"], "replicas must be MIN..MAX"),
        (["{store}/tiny@1", "{copy}/tiny@1"], "have the same name and version"),
        (["{store}/tiny@1", "--host", "no-such-host.invalid"], "names no address"),
        (["{store}/tiny@1", "--host", "x" * 70], "names no address"),
        (
            ["{store}/tiny@1", "--host", "192.0.2.77", "--insecure"],
            "--host must be an address of this machine",
        ),
        (
            ["{store}/tiny@1", "--host", "2001:db8::77", "--insecure"],
            "cannot listen on [2001:db8::77]:",
        ),
        (["{store}/tiny@1", "--host", "::"], "--host :: lets other machines in"),
        (["{store}/tiny@1", "--port", "{taken}"], "take another with --port"),
        (["{store}/tiny@1", "--metrics-port", "{taken}"], "take another with --metrics-port"),
        (["{store}/tiny@1", "--grpc-port", "{taken}"], "take another with --grpc-port"),
        (["{store}/tiny@1", "--host", "::1", "--port", "{taken6}"], "take another with --port"),
    ],
)
def test_arguments_that_cannot_work_are_named(
    arguments: list[str], message: str, store: Path, tmp_path: Path
) -> None:
    shutil.copytree(store / "tiny" / "1", tmp_path / "tiny" / "1")
    with socket.socket() as taken, socket.socket(socket.AF_INET6) as taken6:
        for one, host in ((taken, "127.0.0.1"), (taken6, "::1")):
            one.bind((host, 0))
            one.listen()
        values = {
            "store": store,
            "copy": tmp_path,
            "taken": taken.getsockname()[1],
            "taken6": taken6.getsockname()[1],
        }
        assert message in refusal(*(argument.format(**values) for argument in arguments))
