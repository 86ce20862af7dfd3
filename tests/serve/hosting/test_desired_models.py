"""Desired models that change while requests run: proven first, then hosted, nothing lost."""

import asyncio
import gc
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from aigc.artifact import Store
from serve.hosting.desired_models import (
    DesiredModels,
    parse_desired,
    resolve_store,
)
from serve.hosting.models import HostedModels
from serve.ingress import IngressReplica
from serve.settings import Settings
from tests.serve.artifacts import publish
from tests.serve.client import Client, code_of, running
from tests.serve.hosting.pools import Cluster


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def versions(tmp_path: Path) -> list[str]:
    """Three versions of one name."""
    store = Store(tmp_path / "versions")
    return [publish(store, tmp_path / f"v{seed}", "tiny", seed) for seed in (1, 2, 3)]


@pytest.fixture
def client(cluster: Cluster, versions: list[str], metrics_dir: Path) -> Iterator[Client]:
    settings = Settings(metrics_dir=str(metrics_dir), admin_without_key=True)

    def make() -> IngressReplica:
        cluster.replica = IngressReplica(settings, "replica-7", cluster.config)
        return cluster.replica

    with running(make, versions[0]) as client:
        cluster.target = DesiredModels(artifacts=(versions[0],))
        yield client


def admin(client: Client, verb: str, **body: Any) -> httpx.Response:
    return client.request("POST", f"/v1/admin/{verb}", json=body)


def settle(client: Client) -> None:
    """Until the replica has taken up its target, or refused it."""
    client.run(client.probe.loaded())


def hosted(client: Client) -> list[str]:
    return [model["id"] for model in client.get("/v1/models").json()["data"]]


def pixels(client: Client, model: str) -> bytes:
    answer = client.samples(model=model, n=4, seed=7, format="npy")
    assert answer.status_code == 200, answer.text
    return answer.content


def test_a_name_means_the_newest_and_an_exact_version_stays_the_same(
    client: Client, cluster: Cluster, versions: list[str]
) -> None:
    before = pixels(client, "tiny@1")
    assert pixels(client, "tiny") == before
    answer = admin(client, "deploy", artifact=versions[1])
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == "tiny@2"
    settle(client)
    assert hosted(client) == ["tiny@1", "tiny@2"]
    assert pixels(client, "tiny") == pixels(client, "tiny@2") != before
    assert pixels(client, "tiny@1") == before
    again = admin(client, "deploy", artifact=versions[1])
    assert (again.status_code, cluster.writes) == (200, 1), "asked twice, done once"


def test_deploy_drops_the_oldest_version_unless_pinned(client: Client, versions: list[str]) -> None:
    for uri in versions[1:]:
        assert admin(client, "deploy", artifact=uri).status_code == 200
        settle(client)
    assert hosted(client) == ["tiny@2", "tiny@3"]
    assert admin(client, "pin", model="tiny", version="2").status_code == 200
    settle(client)
    assert pixels(client, "tiny") == pixels(client, "tiny@2")
    assert admin(client, "deploy", artifact=versions[0]).status_code == 200
    settle(client)
    assert hosted(client) == ["tiny@1", "tiny@2"]
    assert pixels(client, "tiny") == pixels(client, "tiny@2")
    assert admin(client, "pin", model="tiny", version=None).status_code == 200
    assert admin(client, "remove", model="tiny@2").status_code == 200
    settle(client)
    assert hosted(client) == ["tiny@1"]


@pytest.mark.parametrize("break_it", ["weights", "nothing"])
def test_a_candidate_that_cannot_be_proven_is_refused(
    break_it: str, client: Client, cluster: Cluster, versions: list[str], tmp_path: Path
) -> None:
    before = pixels(client, "tiny")
    broken = tmp_path / "broken"
    if break_it == "weights":
        shutil.copytree(versions[1], broken)
        graph = broken / "sample.onnx"
        data = bytearray(graph.read_bytes())
        data[len(data) // 2] ^= 1
        graph.write_bytes(data)
    answer = admin(client, "deploy", artifact=str(broken))
    assert code_of(answer) == (409, "artifact_refused")
    assert "what is served stays" in answer.json()["error"]["message"]
    assert cluster.writes == 0
    assert pixels(client, "tiny") == before


def test_a_config_that_cannot_be_met_leaves_what_is_served(
    client: Client, versions: list[str], tmp_path: Path
) -> None:
    """It came past the admin route: a RayService was edited."""
    for config in (
        {"artifacts": [str(tmp_path / "nowhere")]},
        {"artifacts": [versions[1]], "pinned": {"tiny": "9"}},
        {"artefacts": []},
        {"artifacts": []},
    ):
        client.run(client.replica.configure(config))
        settle(client)
        assert hosted(client) == ["tiny@1"]
    assert client.probe.count("aigc_refused_loads_total") == 4


def test_admin_routes_refuse_impossible_changes(client: Client) -> None:
    assert code_of(admin(client, "pin", model="tiny", version="5")) == (
        409,
        "target_refused",
    )
    assert code_of(admin(client, "remove", model="tiny")) == (409, "target_refused")
    assert code_of(admin(client, "deploy", artifact="http://x/y")) == (
        400,
        "artifact_scheme",
    )
    assert code_of(admin(client, "deploy", artefact="x")) == (400, "malformed_body")
    form = client.request("POST", "/v1/admin/remove", content=b'{"model": "tiny"}')
    assert code_of(form) == (415, "content_type")
    assert admin(client, "remove", model="other@1").status_code == 200


def test_without_keys_only_loopback_may_say_what_is_hosted(
    versions: list[str], metrics_dir: Path, cluster: Cluster
) -> None:
    settings = Settings(metrics_dir=str(metrics_dir))
    with running(lambda: IngressReplica(settings, "r", cluster.config), versions[0]) as client:
        answer = admin(client, "deploy", artifact=versions[1])
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "no_keys"


@pytest.mark.process
def test_no_request_fails_and_no_memory_stays_over_fifty_switches(
    client: Client, versions: list[str]
) -> None:
    process = psutil.Process()
    exact = pixels(client, "tiny@1")
    statuses: list[int] = []

    async def ask(stop: asyncio.Event) -> None:
        while not stop.is_set():
            answer = await client.http.post(
                "/v1/samples", json={"model": "tiny", "n": 3, "format": "npy"}
            )
            statuses.append(answer.status_code)

    async def switch(times: int) -> None:
        for number in range(times):
            uri = versions[1 + number % 2]
            await client.replica.configure({"artifacts": [versions[0], uri]})
            await client.probe.loaded()

    async def under_load(times: int) -> None:
        stop = asyncio.Event()
        clients = [asyncio.create_task(ask(stop)) for _ in range(4)]
        await switch(times)
        stop.set()
        await asyncio.gather(*clients)

    client.run(under_load(10))
    gc.collect()
    before = process.memory_info().rss
    client.run(under_load(50))
    gc.collect()
    assert len(statuses) > 100
    assert set(statuses) == {200}
    assert process.memory_info().rss - before < 8 << 20
    assert sum(type(one) is HostedModels for one in gc.get_objects()) <= 3
    assert pixels(client, "tiny@1") == exact


def test_the_document_has_the_admin_routes(client: Client, versions: list[str]) -> None:
    document = client.get("/openapi.json").json()
    found = {path for path in document["paths"] if path.startswith("/v1/admin/")}
    assert found == {f"/v1/admin/{verb}" for verb in ("target", "deploy", "remove", "pin")}
    answer = admin(client, "deploy", artifact=versions[1])
    assert set(answer.json()) == set(document["components"]["schemas"]["Targets"]["properties"])
    assert client.get("/v1/admin/target").json()["artifacts"] == versions[:2]


def test_a_target_is_what_user_config_says(versions: list[str]) -> None:
    target = DesiredModels(artifacts=tuple(versions), pinned={"tiny": "1"})
    assert parse_desired(target.document()) == target
    with pytest.raises(ValueError, match="unknown user_config 'artefacts'"):
        parse_desired({"artefacts": versions})
    with pytest.raises(ValueError, match="at least one artifact"):
        parse_desired({"artifacts": []})
    with pytest.raises(ValueError, match="Expected `array`"):
        parse_desired({"artifacts": "x"})


def test_artifacts_may_be_below_the_store_of_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    wish = {
        "artifacts": ["$AIGC_STORE/tiny/1", "/other/$AIGC_STORE/2"],
        "pools": {"large": {"artifacts": ["$AIGC_STORE/faces/1"]}},
    }
    monkeypatch.delenv("AIGC_STORE", raising=False)
    with pytest.raises(ValueError, match=r"^\$AIGC_STORE/.*/1 wants AIGC_STORE in the environment"):
        resolve_store(parse_desired(wish))
    monkeypatch.setenv("AIGC_STORE", "s3://models/")
    target = resolve_store(parse_desired(wish))
    assert target.artifacts == ("s3://models/tiny/1", "/other/$AIGC_STORE/2")
    assert target.pools["large"].artifacts == ("s3://models/faces/1",)


def test_a_change_that_another_replica_made_meanwhile_is_kept(
    client: Client, cluster: Cluster, versions: list[str], store: Path
) -> None:
    """Faults between reading the target and writing it, once or often."""
    between = [f"{store}/other/1", versions[2]]

    async def read() -> tuple[DesiredModels, str]:
        found = await cluster.read()
        if between:
            artifacts = (*cluster.target.artifacts, between.pop(0))
            cluster.target, cluster.writes = DesiredModels(artifacts=artifacts), cluster.writes + 1
        return found

    object.__setattr__(cluster.config, "read", read)
    answer = admin(client, "deploy", artifact=versions[1], keep=3)
    assert answer.status_code == 200, answer.text
    expected = [versions[0], f"{store}/other/1", versions[2], versions[1]]
    assert answer.json()["artifacts"] == [*cluster.target.artifacts] == expected


def test_a_config_that_does_not_answer_is_a_503_and_a_lost_answer_is_none(
    client: Client, cluster: Cluster, versions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.protocols.admin.CHANGE_TIMEOUT_S", 0.5)
    written = cluster.config.swap

    async def written_and_lost(version: str, target: DesiredModels) -> bool:
        assert await written(version, target)
        raise ConnectionError("the writer died after it wrote")

    async def away(version: str, target: DesiredModels) -> bool:
        raise ConnectionError("there is no writer")

    object.__setattr__(cluster.config, "swap", written_and_lost)
    answer = admin(client, "deploy", artifact=versions[1])
    assert (answer.status_code, cluster.writes) == (200, 1)
    object.__setattr__(cluster.config, "swap", away)
    answer = admin(client, "deploy", artifact=versions[2])
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "config_unavailable"
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("hangs", [True, False])
def test_a_config_that_cannot_be_read_is_a_503(
    client: Client,
    cluster: Cluster,
    versions: list[str],
    monkeypatch: pytest.MonkeyPatch,
    hangs: bool,
) -> None:
    monkeypatch.setattr("serve.protocols.admin.READ_TIMEOUT_S", 0.2)

    async def away() -> tuple[DesiredModels, str]:
        if hangs:
            await asyncio.Event().wait()
        raise TimeoutError("the controller does not answer")

    object.__setattr__(cluster.config, "read", away)
    for answer in (client.get("/v1/admin/target"), admin(client, "deploy", artifact=versions[1])):
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "config_unavailable"
        assert answer.headers["retry-after"] == "1"
    assert cluster.writes == 0


@pytest.mark.parametrize("path", ["store/tiny/1", "tiny", "./tiny", "../tiny"])
def test_a_target_with_a_relative_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"is a relative path.* name it from / on, or as a URI"):
        resolve_store(parse_desired({"artifacts": [path]}))
    with pytest.raises(ValueError, match="is a relative path"):
        resolve_store(
            parse_desired({"artifacts": ["/tiny"], "pools": {"large": {"artifacts": [path]}}})
        )
