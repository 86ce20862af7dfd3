"""A keys file that changes while the server runs."""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from serve.access.api_keys import CreateKey, KeyFile, key_entry
from serve.access.rate_ledger import Ledger
from serve.access.rate_limiter import in_process
from serve.hosting import pool_worker
from serve.ingress import IngressReplica
from serve.settings import Settings
from tests.serve.client import Client, running
from tests.serve.listening import listening, settled

OLD, NEW = "aigc_secret_old", "aigc_secret_new"


def written(path: Path, *entries: tuple[str, str, float | None]) -> None:
    """A keys file put in place at once, as a Secret of Kubernetes is."""
    text = "\n".join(
        key_entry(
            CreateKey(action="new", name=name, samples_per_s=rate, burst=20 if rate else None), s
        )
        for name, s, rate in entries
    )
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.rename(path)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    file = tmp_path / "keys.toml"
    written(file, ("old", OLD, None), ("stays", "aigc_secret_stays", 1.0))
    return file


@pytest.fixture
def client(store: Path, metrics_dir: Path, keys: Path) -> Iterator[Client]:
    settings = Settings(metrics_dir=str(metrics_dir), keys=str(keys))
    with running(
        lambda: IngressReplica(settings, "replica-7", None, in_process(Ledger())), f"{store}/tiny@1"
    ) as client:
        yield client


def status(client: Client, secret: str, n: int = 1) -> int:
    headers = {"authorization": f"Bearer {secret}"}
    body = {"model": "tiny", "n": n, "format": "npy"}
    return client.request("POST", "/v1/samples", json=body, headers=headers).status_code


def refused(client: Client) -> float:
    return client.probe.count("aigc_refused_keys_total")


def test_a_revoked_key_is_401_and_a_new_one_200(client: Client, keys: Path) -> None:
    assert (status(client, OLD), status(client, NEW)) == (200, 401)
    written(keys, ("new", NEW, None))
    client.run(client.replica.tend())
    assert (status(client, OLD), status(client, NEW)) == (401, 200)
    assert refused(client) == 0


def test_a_secret_is_exchanged_under_the_same_name(client: Client, keys: Path) -> None:
    written(keys, ("old", NEW, None))
    client.run(client.replica.tend())
    assert (status(client, OLD), status(client, NEW)) == (401, 200)


@pytest.mark.parametrize("text", ["[[key]", "", '[[key]]\nname = "x"\n', b"\xff", None])
def test_a_broken_file_is_refused_once_and_the_old_keys_stay(
    text: str | bytes | None, client: Client, keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if text is None:
        keys.unlink()
    else:
        keys.write_bytes(text.encode() if isinstance(text, str) else text)
    for _ in range(3):
        client.run(client.replica.tend())
    assert status(client, OLD) == 200
    assert refused(client) == 1
    (record,) = [r for r in caplog.records if r.name == "serve.ingress"]
    assert record.getMessage().startswith("a changed keys file is refused; the old keys stay")
    written(keys, ("new", NEW, None))
    client.run(client.replica.tend())
    assert (status(client, OLD), status(client, NEW)) == (401, 200)


def test_a_budget_changes_with_its_key(client: Client, keys: Path) -> None:
    stays = "aigc_secret_stays"
    assert status(client, stays, 20) == 200
    assert status(client, stays, 20) == 429
    written(keys, ("stays", stays, None))
    client.run(client.replica.tend())
    assert status(client, stays, 100) == 200
    written(keys, ("stays", stays, 1.0))
    client.run(client.replica.tend())
    assert status(client, stays, 100) == 400, "more than the burst"


def test_a_file_that_did_not_change_is_not_read_again(keys: Path) -> None:
    file = KeyFile(str(keys))
    assert file.read_if_changed() is None
    os.utime(keys, ns=(1, 1))
    assert file.read_if_changed() is not None
    assert file.read_if_changed() is None


def test_a_replica_reloads_a_changed_keys_file_by_itself(
    store: Path, metrics_dir: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_worker, "TEND_S", 0.05)
    settings = Settings(metrics_dir=str(metrics_dir), keys=str(keys))
    with listening(settings, f"{store}/tiny@1") as served:

        def models(secret: str) -> int:
            headers = {"x-api-key": secret}
            return httpx.get(f"{served.url}/v1/models", headers=headers).status_code

        assert (models(OLD), models(NEW)) == (200, 401)
        written(keys, ("new", NEW, None))
        settled(lambda: (models(OLD), models(NEW)) == (401, 200))
