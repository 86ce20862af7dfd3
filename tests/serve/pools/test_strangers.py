"""Artifacts of strangers and a server with `trust`: none takes it down."""

import os
import time
from pathlib import Path

import httpx
import onnx
import psutil
import pytest

from aigc.artifact import ArtifactError
from aigc.artifact.signing import sign
from serve.hosting.deploy import command as deploy
from tests.artifact.bombs import BOMBS, whole
from tests.artifact.hostile import (
    ROUNDS,
    by_label,
    forever,
    model,
    node,
    write,
    zeros_graph,
)
from tests.serve.servers import Server, title, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


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


def ingress(server: Server) -> list[psutil.Process]:
    """The replicas of the default pool."""
    return [one for one in server.replicas() if ":default" in title(one)]


def hosted(server: Server, model: str) -> None:
    """Wait until it is."""
    url = f"{server.url}/v1/models/{model}"
    wait_until(lambda: httpx.get(url).status_code == 200, 30, server.stderr)


def test_deploy_refuses_artifacts_of_other_keys(pools: Server, folder: Path) -> None:
    unsigned = stranger(folder, "unsigned", model(zeros_graph()), key="")
    code, message = asked(pools, unsigned)
    assert (code, "unsigned@1 in" in message, "is not signed" in message) == (409, True, True)
    other = stranger(folder, "others", model(zeros_graph()), key="other")
    assert "another key signed it" in asked(pools, other)[1]
    for path in (unsigned, other):
        argv = [str(path), "--url", pools.url, "--trust", str(folder / "key.pub")]
        with pytest.raises(ArtifactError, match=r"is not signed|another key signed it"):
            deploy(argv)
    assert sampled(pools, "tiny") == 200


def test_a_name_like_a_version_behind_a_link_is_deployed(pools: Server, folder: Path) -> None:
    elsewhere = stranger(folder, "elsewhere", model(zeros_graph()), key="")
    write(elsewhere, model(zeros_graph()), name="1")
    sign(elsewhere, folder / "key.pem")
    (folder / "store" / "1").mkdir()
    (folder / "store" / "1" / "1").symlink_to(elsewhere)
    argv = [f"{folder}/store/1", "--url", pools.url, "--trust", str(folder / "key.pub")]
    assert deploy(argv) == 0
    assert sampled(pools, "1") == sampled(pools, "1@1") == 200


@pytest.mark.parametrize("kind", ["fifo", "sparse", "zero"])
def test_deploy_refuses_irregular_files_at_once(kind: str, pools: Server, folder: Path) -> None:
    path = stranger(folder, f"file-{kind}", model(zeros_graph()))
    file = path / "references" / "sample.npz"
    if kind == "sparse":
        os.truncate(file, 4 << 30)
    else:
        file.unlink()
        os.mkfifo(file) if kind == "fifo" else file.symlink_to("/dev/zero")
    began_s = time.monotonic()
    code, message = asked(pools, path)
    assert (code, "regular files only" in message or "was altered" in message) == (409, True)
    assert time.monotonic() - began_s < 5


def test_memory_bombs_and_endless_graphs_are_refused(pools: Server, folder: Path) -> None:
    (replica,) = ingress(pools)
    before = replica.memory_info().rss
    for name in ("folded", "multiplied"):
        code, message = asked(pools, stranger(folder, name, BOMBS[name]))
        assert (code, "takes more than the" in message) == (409, True), message
    loop = stranger(folder, "loop", model([*zeros_graph("before"), forever()], ROUNDS))
    began_s = time.monotonic()
    code, message = asked(pools, loop)
    assert (code, "was not loaded within" in message) == (409, True), message
    assert time.monotonic() - began_s < 30
    assert ingress(pools) == [replica]
    assert replica.memory_info().rss - before < 128 << 20
    assert sampled(pools, "tiny") == 200


def test_a_run_without_enough_memory_fails_alone(pools: Server, folder: Path) -> None:
    """Memory that a graph takes for one class only cannot be tried before."""
    branch = [
        node("Expand", ["row", "size"], ["large"]),
        node("ReduceSum", ["large"], ["sum"], keepdims=0),
        node("Add", ["before", "sum"], ["then"]),
    ]
    graph = by_label(branch, whole("size", 1 << 26, 64))  # 16 GiB
    path = stranger(folder, "hidden", graph)
    assert asked(pools, path) == (200, "hidden@1")
    hosted(pools, "hidden@1")
    (replica,) = ingress(pools)
    assert sampled(pools, "hidden") == 200
    before = psutil.virtual_memory().available
    assert sampled(pools, "hidden", label=1) == 500
    assert before - psutil.virtual_memory().available < 2 << 30
    assert ingress(pools) == [replica]
    assert sampled(pools, "hidden") == sampled(pools, "tiny") == 200


@pytest.mark.parametrize(
    "artifact", ["reference::/file.json", "simplecache::s3://x/y", "data:,x", "http://10.0.0.1/x"]
)
def test_deploy_refuses_chained_and_web_locations(artifact: str, pools: Server) -> None:
    code, message = asked(pools, artifact)
    assert code == 400
    assert "artifact must be a folder, s3://, gs:// or az://" in message
