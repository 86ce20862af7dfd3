"""A retry draws the same seed and is charged once; another request under its name is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.access.api_keys import Key
from serve.access.charge import Charge
from serve.access.idempotency import KEEP_S, Attempt, Idempotency
from serve.access.rate_ledger import MAX_FREE_RETRIES, Policy
from serve.errors import HTTPError
from serve.settings import MAX_SEED

PATH = "/v1/samples"
BODY = b'{"model": "tiny"}'


def key(name: str) -> Key:
    policy = Policy(samples_per_s=None, burst=0, concurrency=None)
    digest = name.encode().ljust(32, b"\0")
    return Key(name=name, digest=digest, scopes=frozenset({"sample"}), policy=policy)


ALICE, BOB = key("alice"), key("bob")


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def replica(clock: Clock) -> Idempotency:
    return Idempotency(clock)


def attempt(
    replica: Idempotency,
    header: bytes = b"order-1",
    *,
    key: Key | None = ALICE,
    path: str = PATH,
    body: bytes = BODY,
) -> Attempt:
    found = replica.attempt(key, header, path, body)
    assert found is not None
    return found


def is_free(replica: Idempotency, attempt: Attempt) -> bool:
    """True if it is a retry that shares what was paid."""
    return bool(replica.charges(attempt))


def test_without_the_header_there_is_no_attempt(replica: Idempotency) -> None:
    assert replica.attempt(ALICE, None, PATH, BODY) is None


def test_every_replica_draws_the_same_seed_for_the_same_request(replica: Idempotency) -> None:
    first = attempt(replica)
    replica.remember(first, [Charge()])
    retry, elsewhere = attempt(replica), attempt(Idempotency())
    assert first.seed == retry.seed == elsewhere.seed
    assert first.charge == retry.charge == elsewhere.charge
    assert is_free(replica, retry)
    assert not is_free(Idempotency(), elsewhere)


def test_a_seed_is_what_it_was_in_the_last_release() -> None:
    assert attempt(Idempotency()).seed == 8831474301362470
    assert attempt(Idempotency(), key=None).seed == 8736486805054688


def test_key_header_path_and_body_each_change_the_seed(replica: Idempotency) -> None:
    seeds = [
        attempt(replica).seed,
        attempt(replica, b"order-2").seed,
        attempt(replica, key=BOB).seed,
        attempt(replica, key=None).seed,
        attempt(replica, body=BODY + b" ").seed,
        attempt(replica, path="/v1/images/generations").seed,
        attempt(replica, path=PATH[:-1], body=b"s" + BODY).seed,
    ]
    assert len(set(seeds)) == len(seeds)


@given(st.binary(max_size=40))
def test_seeds_are_in_range(body: bytes) -> None:
    assert 0 <= attempt(Idempotency(), body=body).seed <= MAX_SEED


def test_seeds_fill_their_range() -> None:
    seeds = [attempt(Idempotency(), b"%d" % i).seed for i in range(200)]
    assert max(seeds) > 0.9 * MAX_SEED
    assert min(seeds) < 0.1 * MAX_SEED


def test_quoted_and_bare_are_the_same_key(replica: Idempotency) -> None:
    assert attempt(replica, b'"order-1"') == attempt(replica, b"order-1")


@pytest.mark.parametrize(
    "header", [b"", b'""', b'"', b'"a', b'a"', b"a b", b"a\xc3\xa9", b"a\\", b"x" * 256, b'"a"b"']
)
def test_malformed_idempotency_keys_are_refused(replica: Idempotency, header: bytes) -> None:
    with pytest.raises(HTTPError) as caught:
        replica.attempt(ALICE, header, PATH, BODY)
    assert (caught.value.status, caught.value.code) == (400, "idempotency_key_malformed")


def test_an_idempotency_key_cannot_be_reused_for_another_request(
    replica: Idempotency, clock: Clock
) -> None:
    replica.remember(attempt(replica), [Charge()])
    for path, body in ((PATH, b"{}"), ("/v1/images/generations", BODY)):
        with pytest.raises(HTTPError) as caught:
            replica.attempt(ALICE, b"order-1", path, body)
        assert (caught.value.status, caught.value.code) == (422, "idempotency_key_reused")
    another = attempt(replica, key=BOB, body=b"{}")
    assert not is_free(replica, another), "another's key of the same name"
    clock.now_s = KEEP_S
    assert not is_free(replica, attempt(replica, body=b"{}")), "long ago"


def test_retries_of_an_unpaid_request_are_not_free(replica: Idempotency) -> None:
    attempt(replica)  # refused with 429, say
    assert not is_free(replica, attempt(replica))
    charges = [Charge()]
    replica.remember(attempt(replica), charges)
    replica.forget(attempt(replica), [])  # of another attempt at the same time
    assert is_free(replica, attempt(replica))
    replica.forget(attempt(replica), charges)  # nothing was drawn, its samples were given back
    assert not is_free(replica, attempt(replica))


def test_max_free_retries_bounds_the_free_retries(replica: Idempotency) -> None:
    found = [attempt(replica) for _ in range(MAX_FREE_RETRIES + 3)]  # all at once
    free = []
    for one in found:
        charges = replica.charges(one)
        free.append(bool(charges))
        if charges == []:
            charges.append(Charge())
            replica.remember(one, charges)
    assert free == [False, *[True] * MAX_FREE_RETRIES, False, False]
    assert len({one.seed for one in found}) == 1


def test_attempts_are_forgotten_by_age_and_by_number(
    replica: Idempotency, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.access.idempotency.MAX_ATTEMPTS", 20)
    for i in range(20 + 10):
        replica.remember(attempt(replica, b"%d" % i), [Charge()])
    assert len(replica) == 20
    assert not is_free(replica, attempt(replica, b"0"))
    assert is_free(replica, attempt(replica, b"10"))
    clock.now_s = KEEP_S
    assert not is_free(replica, attempt(replica, b"10"))
    assert len(replica) == 0
