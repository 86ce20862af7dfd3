"""`aigc serve --config` with trust, and artifacts of strangers: none takes the server down."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import onnx
import psutil
import pytest

from aigc.artifact import ArtifactError, Store
from aigc.artifact.signing import sign
from serve.hosting.deploy import command as deploy
from tests.artifact.hostile import (
    ROUNDS,
    by_label,
    forever,
    model,
    node,
    write,
    zeros_graph,
)
from tests.artifact.keys import write_keys
from tests.artifact.test_trial import BOMBS, whole
from tests.serve.artifacts import publish
from tests.serve.test_server import Server, server

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

CONFIG = """
trust: key.pub
pools:
  default:
    artifacts: [store/tiny@1]
    memory: 640MiB
    limits: {max_load_seconds: 8}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, and keys whose private one signs what is in it."""
    folder = tmp_path_factory.mktemp("strangers")
    write_keys(folder)
    write_keys(folder, "other")
    sign(Path(publish(Store(folder / "store"), folder / "tiny", "tiny", 0)), folder / "key.pem")
    return folder


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Server]:
    file = folder / "serve.yaml"
    file.write_text(CONFIG)
    with server(folder, "--config", str(file)) as running:
        running.wait_until_ready()
        yield running


def stranger(folder: Path, name: str, graph: onnx.ModelProto, key: str = "key") -> Path:
    """An artifact in the store, signed."""
    path = write(folder / "store" / name / "1", graph, name=name)
    if key:
        sign(path, folder / f"{key}.pem")
    return path


def asked(server: Server, artifact: Path | str) -> tuple[int, str]:
    """Status and message of a deploy."""
    body = {"artifact": str(artifact)}
    answer = httpx.post(f"{server.url}/v1/admin/deploy", json=body, timeout=60)
    said = answer.json()
    return answer.status_code, said["error"]["message"] if "error" in said else said["model"]


def sampled(server: Server, name: str, label: int = 0) -> int:
    body = {"model": name, "n": 1, "seed": 0, "label": label, "format": "json"}
    return httpx.post(f"{server.url}/v1/samples", json=body, timeout=60).status_code


def hosted(server: Server, model: str) -> None:
    deadline_s = time.monotonic() + 30
    while httpx.get(f"{server.url}/v1/models/{model}").status_code != 200:
        assert time.monotonic() < deadline_s, server.stderr
        time.sleep(0.1)


def test_only_what_the_key_signed_is_deployed(running: Server, folder: Path) -> None:
    unsigned = stranger(folder, "unsigned", model(zeros_graph()), key="")
    code, message = asked(running, unsigned)
    assert (code, "unsigned@1 in" in message, "is not signed" in message) == (409, True, True)
    other = stranger(folder, "others", model(zeros_graph()), key="other")
    assert "another key signed it" in asked(running, other)[1]
    for path in (unsigned, other):
        argv = [str(path), "--url", running.url, "--trust", str(folder / "key.pub")]
        with pytest.raises(ArtifactError, match=r"is not signed|another key signed it"):
            deploy(argv)
    assert sampled(running, "tiny") == 200


def test_a_name_like_a_version_behind_a_link_is_deployed(running: Server, folder: Path) -> None:
    elsewhere = stranger(folder, "elsewhere", model(zeros_graph()), key="")
    write(elsewhere, model(zeros_graph()), name="1")
    sign(elsewhere, folder / "key.pem")
    (folder / "store" / "1").mkdir()
    (folder / "store" / "1" / "1").symlink_to(elsewhere)
    argv = [f"{folder}/store/1", "--url", running.url, "--trust", str(folder / "key.pub")]
    assert deploy(argv) == 0
    assert sampled(running, "1") == sampled(running, "1@1") == 200


@pytest.mark.parametrize("kind", ["fifo", "sparse", "zero"])
def test_a_file_that_is_none_is_refused_at_once(kind: str, running: Server, folder: Path) -> None:
    path = stranger(folder, f"file-{kind}", model(zeros_graph()))
    file = path / "references" / "sample.npz"
    if kind == "sparse":
        os.truncate(file, 4 << 30)
    else:
        file.unlink()
        os.mkfifo(file) if kind == "fifo" else file.symlink_to("/dev/zero")
    began_s = time.monotonic()
    code, message = asked(running, path)
    assert (code, "regular files only" in message or "was altered" in message) == (409, True)
    assert time.monotonic() - began_s < 5


def test_bombs_cost_the_replica_nothing_and_others_wait_for_nobody(
    running: Server, folder: Path
) -> None:
    (replica,) = running.replicas()
    before = replica.memory_info().rss
    for name in ("folded", "multiplied"):
        code, message = asked(running, stranger(folder, name, BOMBS[name]))
        assert (code, "takes more than the" in message) == (409, True), message
    loop = stranger(folder, "loop", model([*zeros_graph("before"), forever()], ROUNDS))
    began_s = time.monotonic()
    code, message = asked(running, loop)
    assert (code, "was not loaded within" in message) == (409, True), message
    assert time.monotonic() - began_s < 30
    assert running.replicas() == [replica]
    assert replica.memory_info().rss - before < 128 << 20
    assert sampled(running, "tiny") == 200


def test_a_run_that_takes_more_memory_than_there_is_fails_alone(
    running: Server, folder: Path
) -> None:
    """What a graph takes for one class only cannot be tried before."""
    branch = [
        node("Expand", ["row", "size"], ["large"]),
        node("ReduceSum", ["large"], ["sum"], keepdims=0),
        node("Add", ["before", "sum"], ["then"]),
    ]
    graph = by_label(branch, whole("size", 1 << 26, 64))  # 16 GiB
    path = stranger(folder, "hidden", graph)
    assert asked(running, path) == (200, "hidden@1")
    hosted(running, "hidden@1")
    (replica,) = running.replicas()
    assert sampled(running, "hidden") == 200
    before = psutil.virtual_memory().available
    assert sampled(running, "hidden", label=1) == 500
    assert before - psutil.virtual_memory().available < 2 << 30
    assert running.replicas() == [replica]
    assert sampled(running, "hidden") == sampled(running, "tiny") == 200


@pytest.mark.parametrize(
    "artifact", ["reference::/file.json", "simplecache::s3://x/y", "data:,x", "http://10.0.0.1/x"]
)
def test_chains_and_web_servers_are_no_places(artifact: str, running: Server) -> None:
    code, message = asked(running, artifact)
    assert code == 400
    assert "artifact must be a folder, s3://, gs:// or az://" in message
