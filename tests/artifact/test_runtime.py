"""onnxruntime tells nobody: commands and a server run where every name and every port is heard."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port

pytestmark = pytest.mark.cluster

LISTEN = """
import json, os, signal, socket, subprocess, sys, threading, time, urllib.request

commands, served, heard = json.loads(sys.argv[1]), json.loads(sys.argv[2]), []
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
for name, text in (("hosts", "127.0.0.1 localhost\\n"), ("resolv.conf", "nameserver 127.0.0.1\\n")):
    with open(name, "w") as file:
        file.write(text)
    subprocess.run(["mount", "--bind", name, f"/etc/{name}"], check=True)

names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
names.bind(("127.0.0.1", 53))
hello = socket.create_server(("127.0.0.1", 443))

def name_server():
    while True:
        asked, sender = names.recvfrom(512)
        labels, at = [], 12
        while asked[at]:
            labels.append(asked[at + 1 : at + 1 + asked[at]].decode())
            at += 1 + asked[at]
        heard.append("asked for " + ".".join(labels))
        question, is_a = asked[12 : at + 5], asked[at + 1 : at + 3] == b"\\0\\1"
        head = asked[:2] + b"\\x81\\x80" + b"\\0\\1" + (b"\\0\\1" if is_a else b"\\0\\0") + bytes(4)
        answer = b"\\xc0\\x0c\\0\\1\\0\\1" + bytes(4) + b"\\0\\4" + socket.inet_aton("127.0.0.1")
        names.sendto(head + question + (answer if is_a else b""), sender)

def connections():
    while True:
        connection, _ = hello.accept()
        heard.append("connected to port 443")
        connection.close()

for target in (name_server, connections):
    threading.Thread(target=target, daemon=True).start()
for command in commands:
    subprocess.run(command, check=True, stdout=sys.stderr)
if served:
    server = subprocess.Popen(served, stdout=subprocess.PIPE, text=True)
    url = server.stdout.readline().strip()
    body = json.dumps({"model": "tiny", "n": 2}).encode()
    asked = urllib.request.Request(f"{url}/v1/samples", body, {"content-type": "application/json"})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        assert answer.status == 200
    time.sleep(5)
    server.send_signal(signal.SIGTERM)
    assert server.wait(60) == 0
print(json.dumps(heard))
"""

STAY = """
import sys, time
from aigc.artifact import Artifact
artifact = Artifact.open(sys.argv[1])
time.sleep(10)
"""

RAYS = "asked for metadata.google.internal"
"""Ray looks once which cloud it is in, whether or not its usage statistics are off."""


Listened = tuple[list[str], list[str]]
Heard = dict[str, "Future[Listened]"]


def listened(
    folder: Path, *commands: list[str], served: Sequence[str] = (), **environment: str
) -> Listened:
    """Requests to name servers or port 443 while these ran, and the files below HOME."""
    home = folder / "home"
    home.mkdir(parents=True)
    left_out = ("CI", "XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY", "RAY_AUTH_MODE")
    variables = {k: v for k, v in os.environ.items() if k not in left_out}
    variables |= {"HOME": str(home), **environment}
    alone = ["unshare", "--net", "--mount", "--propagation", "private"]
    if subprocess.run([*alone, "true"], capture_output=True).returncode != 0:
        pytest.skip("a network namespace of its own is not allowed here")
    told: Any = subprocess.run(
        [*alone, sys.executable, "-c", LISTEN, json.dumps(commands), json.dumps(served)],
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        text=True,
        timeout=150,
        check=True,
    )
    files = [path.relative_to(home) for path in home.rglob("*") if path.is_file()]
    return json.loads(told.stdout.splitlines()[-1]), sorted(map(str, files))


def aigc(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "aigc.cli", *map(str, arguments)]


@pytest.fixture(scope="module")
def heard(sealed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Heard]:
    """Commands and a server as they are, and one command with telemetry.

    All run at the same time, as most of it is waiting.
    """
    folder = tmp_path_factory.mktemp("listened")
    stay = [sys.executable, "-c", STAY, str(sealed)]
    sample = aigc("sample", sealed, "-n", "2", "--out", folder / "samples")
    served = aigc("serve", sealed, "--port", str(free_port()), "--metrics-port", "0")
    with ThreadPoolExecutor() as pool:

        def start(name: str, *commands: list[str], **more: Any) -> "Future[Listened]":
            return pool.submit(listened, folder / name, *commands, **more)

        yield {
            "commands": start("commands", sample, aigc("verify", sealed), stay),
            "telling": start("telling", stay, ORT_DISABLE_TELEMETRY="0"),
            "server": start("server", served=served, ORT_DISABLE_TELEMETRY=""),
        }


def test_commands_reach_for_nothing_outside(heard: Heard) -> None:
    assert heard["commands"].result() == ([], [])


def test_telemetry_can_be_turned_on(heard: Heard) -> None:
    """It also proves that the other tests would notice telemetry."""
    names, files = heard["telling"].result()
    assert any("microsoft.com" in name for name in names), names
    assert any("Microsoft" in file for file in files), files


def test_server_reaches_for_nothing_outside(heard: Heard) -> None:
    names, files = heard["server"].result()
    assert ([name for name in names if name != RAYS], files) == ([], [])
