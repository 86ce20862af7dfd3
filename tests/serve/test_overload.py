"""Ten times what a server can do is offered to it: it goes on doing what it can."""

from pathlib import Path

import pytest

from benchmarks import servers
from benchmarks.artifacts import untrained
from benchmarks.serving_limits import overload_of

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def dcgan() -> Path:
    return Path(untrained())


def test_goodput_latency_and_memory_hold_at_ten_times_the_capacity(
    dcgan: Path,
) -> None:
    with servers.ours(str(dcgan)) as server:
        seen = overload_of(server)
    assert seen.goodput >= 0.9 * seen.capacity
    assert seen.p99_s <= 1.5 * seen.bound_s
    assert set(seen.statuses) <= {200, 503}
    assert seen.statuses[503] > 5 * seen.statuses[200]
    assert seen.silent == 0
    assert seen.most_rss - seen.rss < 256 * 2**20
