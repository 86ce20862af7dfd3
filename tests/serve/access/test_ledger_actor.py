"""The ledger as an actor: one for all who ask, and another when it dies."""

import asyncio
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import suppress

import pytest

from serve.access.rate_ledger import LedgerReply, Policy, TokenRequest

# With `aigc serve`, test_two_replicas.py shows that all ask one ledger, single/test_admission.py
# that another takes its place when it dies.
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", os.environ.get("RAY_AUTH_TOKEN", secrets.token_hex(32)))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    import ray

    ray.init(
        address="local",
        num_cpus=1,
        num_gpus=None,
        object_store_memory=100 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=tempfile.mkdtemp(prefix="aigc-"),
    )
    try:
        yield
    finally:
        ray.shutdown()


def test_all_ask_one_ledger_and_a_new_one_when_it_dies(cluster: None) -> None:
    import ray

    from serve.access.ledger_actor import NAME, cluster_ledger
    from serve.detached_actor import NAMESPACE

    policy = Policy(samples_per_s=0.001, burst=100, concurrency=None)

    async def ask(replica: str, spent: int) -> LedgerReply:
        return await cluster_ledger()(
            replica, {"alice": TokenRequest(policy=policy, spent=spent, need=60)}
        )

    async def main() -> list[LedgerReply]:
        found = [await ask("one", 0), await ask("other", 0)]
        ray.kill(ray.get_actor(NAME, namespace=NAMESPACE), no_restart=False)
        for _ in range(100):
            with suppress(ray.exceptions.RayError):
                answer = await ask("other", 40)
                if answer.replicas == 1:  # else the old one answered before it died
                    return [*found, answer]
            await asyncio.sleep(0.1)
        raise AssertionError("the ledger did not come back")

    one, other, back = asyncio.run(main())
    assert [one.grants["alice"].limit, other.grants["alice"].limit] == [60, 40]
    assert (one.replicas, other.replicas, back.replicas) == (1, 2, 1)
    assert back.grants["alice"].limit == 40 + 60  # what was spent is past; the bucket is full
