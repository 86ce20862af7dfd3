"""Keys: what a file may say, who is let in, and what a server may be started as."""

import hashlib
import hmac
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from serve.access import api_keys as keys
from serve.access.rate_ledger import Policy
from serve.cli import prepare
from serve.errors import HTTPError
from serve.local import exposure
from serve.options import ServeConfig


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


FILE = f"""
[[key]]
name = "alice"
sha256 = "{digest("one")}"
scopes = ["sample"]
samples_per_s = 100.5
concurrency = 4

[[key]]
name = "prometheus"
sha256 = "{digest("two")}"
scopes = ["metrics", "admin"]
"""


def test_load_reads_scopes_and_budgets_of_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(FILE)
    found = keys.load(str(path), {})
    assert found is not None
    alice, prometheus = found.all
    assert (alice.name, alice.scopes, alice.digest.hex()) == ("alice", {"sample"}, digest("one"))
    assert alice.policy == Policy(samples_per_s=100.5, burst=201, concurrency=4)
    assert prometheus.scopes == {"metrics", "admin"}
    assert prometheus.policy == Policy(samples_per_s=None, burst=0, concurrency=None)


def test_the_environment_holds_keys_where_there_is_no_file(tmp_path: Path) -> None:
    assert keys.load("", {}) is None
    assert keys.load("", {"AIGC_KEYS": ""}) is None
    held = keys.load("", {"AIGC_KEYS": FILE})
    assert held is not None
    assert [key.name for key in held.all] == ["alice", "prometheus"]
    with pytest.raises(FileNotFoundError):
        keys.load(str(tmp_path / "none.toml"), {"AIGC_KEYS": FILE})


ONE = f'name = "a"\nsha256 = "{digest("one")}"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[key]", "f.toml: Expected"),
        ("", "f.toml: Object missing required field `key`"),
        ("key = []", r"there must be 1 to 256 \[\[key\]\], got 0"),
        (f"[[key]]\n{ONE}secret = 1", r"unknown field `secret` - at `\$.key\[0\]`"),
        (f"[[key]]\n{ONE}[extra]", "unknown field `extra`"),
        (f"[[key]]\n{ONE}scopes = ['all']", r"Invalid enum value 'all' - at `\$.key\[0\].scopes"),
        (f"[[key]]\n{ONE}scopes = []", r"f.toml: key\[0\].scopes must name at least one"),
        (f"[[key]]\n{ONE}samples_per_s = '1'", r"at `\$.key\[0\].samples_per_s`"),
        (f"[[key]]\n{ONE}samples_per_s = 0", r"key\[0\].samples_per_s must be in \(0, 1e9\], got"),
        (f"[[key]]\n{ONE}samples_per_s = inf", r"key\[0\].samples_per_s must be in"),
        (f"[[key]]\n{ONE}samples_per_s = 100\nburst = 49", r"key\[0\].burst must be at least 50"),
        (f"[[key]]\n{ONE}burst = 49", r"key\[0\].burst has no effect without samples_per_s"),
        (f"[[key]]\n{ONE}concurrency = 0", r"key\[0\].concurrency must be at least 1, got 0"),
        (f"[[key]]\n{ONE}[[key]]\n{ONE}", r"key\[1\].name: key\[0\] has the same one"),
        (
            f"[[key]]\n{ONE}[[key]]\n{ONE}".replace('"a"', '"b"', 1),
            r"key\[1\].sha256: key\[0\] has the same one",
        ),
        ("[[key]]\nname = 'a'\nsha256 = 'abc'", r"key\[0\].sha256 must be 64 lower-case"),
        (f"[[key]]\nname = 'a b'\nsha256 = '{'0' * 64}'", r"key\[0\].name must be 1 to 64"),
        (f"[[key]]\nname = 'a\\n'\nsha256 = '{'0' * 64}'".replace("'", '"'), r"key\[0\].name"),
    ],
)
def test_load_names_what_is_wrong_in_a_keys_file(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        keys.parse(text, "f.toml")
    assert str(caught.value).startswith("f.toml: ")


def test_a_secret_is_found_in_either_header() -> None:
    found = keys.parse(FILE, "f")
    alice, prometheus = found.all
    assert found.find(b"Bearer one", None) is alice
    assert found.find(b"bearer  one ", None) is alice
    assert found.find(None, b"two") is prometheus
    assert found.find(b"Basic abc", b"two") is prometheus
    assert found.find(b"Bearer one", b"two") is alice
    for wrong in (b"Bearer", b"Bearer ", b"one", b"Basic one", b"Bearer three", b"Bearer One"):
        assert found.find(wrong, None) is None
    assert found.find(None, b"") is None
    assert found.find(None, digest("two").encode()) is None, "a hash is no secret"
    assert found.find(b"Bearer one" + b" " * 300, None) is None


def test_every_key_is_compared_in_constant_time_wherever_the_right_one_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def watched(a: bytes, b: bytes, compare: object = hmac.compare_digest) -> bool:
        compared.append((a, b))
        return bool(compare(a, b))  # type: ignore[operator]

    monkeypatch.setattr(hmac, "compare_digest", watched)
    found = keys.parse(FILE, "f")
    for secret in (b"one", b"two", b"three"):
        compared.clear()
        found.find(None, secret)
        assert [a for a, _ in compared] == [key.digest for key in found.all]


def test_authorize_checks_key_and_scope() -> None:
    found = keys.parse(FILE, "f")
    alice = found.all[0]
    assert keys.authorize(None, [], "sample") is None
    assert keys.authorize(found, [(b"authorization", b"Bearer one")], "sample") is alice
    assert keys.authorize(found, [(b"x-api-key", b"one")], "sample") is alice
    cases = [
        ([], "sample", 401, "key_needed"),
        ([(b"x-api-key", b"three")], "sample", 401, "unknown_key"),
        ([(b"x-api-key", b"two")], "sample", 403, "scope_needed"),
        ([(b"x-api-key", b"one")], "metrics", 403, "scope_needed"),
    ]
    for headers, scope, status, code in cases:
        with pytest.raises(HTTPError) as caught:
            keys.authorize(found, headers, scope)  # type: ignore[arg-type]
        assert (caught.value.status, caught.value.code) == (status, code)
        challenged = [name for name, _ in caught.value.headers] == [b"www-authenticate"]
        assert challenged == (status == 401)
        assert "three" not in caught.value.message


def test_keys_new_creates_a_key_that_authorizes(tmp_path: Path) -> None:
    script = (
        "import sys; from serve.access.api_keys import command; sys.exit(command(sys.argv[1:]))"
    )
    options = ["new", "bob", "--scope", "sample", "metrics", "--samples-per-s", "20", "--burst"]
    made = subprocess.run(
        [sys.executable, "-c", script, *options, "40"], capture_output=True, text=True, check=True
    )
    secret = made.stdout.strip()
    assert len(secret) == len("aigc_") + 43
    assert secret not in made.stderr
    tomllib.loads(made.stderr)
    found = keys.parse(made.stderr, "stderr")
    bob = found.find(b"Bearer " + secret.encode(), None)
    assert bob is not None
    assert (bob.name, bob.scopes) == ("bob", {"sample", "metrics"})
    assert bob.policy == Policy(samples_per_s=20.0, burst=40, concurrency=None)


def keys_new(*arguments: str, stderr: Any = subprocess.PIPE) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "aigc.cli", "keys", "new", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True)


@pytest.mark.process
def test_a_key_is_added_to_a_file_that_may_be_there(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    first = keys_new("alice", "--file", str(file))
    file.write_text("# who may\n" + file.read_text().rstrip())  # edited, without a last newline
    second = keys_new("bob", "--scope", "admin", "--file", str(file))
    assert (first.stderr, second.stderr) == ("", "")
    text = file.read_text()
    assert text.startswith("# who may\n")
    found = keys.parse(text, "file")
    for done, name in ((first, "alice"), (second, "bob")):
        key = found.find(b"Bearer " + done.stdout.strip().encode(), None)
        assert key is not None
        assert key.name == name


@pytest.mark.parametrize(
    ("arguments", "before", "said"),
    [
        (["alice"], None, "keys.toml has a key 'alice' already"),
        (["a b"], None, "a name is 1 to 64"),
        (["x", "--burst", "3"], None, "burst has no effect without samples_per_s"),
        (["x"], "[[key", "keys.toml: "),
        (["x"], "\udcff", "keys.toml is no text in UTF-8"),
    ],
)
def test_a_key_that_cannot_be_added_leaves_the_file_as_it_was(
    arguments: list[str], before: str | None, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "keys.toml"
    own = keys.key_entry(keys.CreateKey(action="new", name="alice"), "secret")
    file.write_bytes((own if before is None else before).encode(errors="surrogateescape"))
    whole = file.read_bytes()
    with pytest.raises(ValueError, match=re.escape(said)):
        keys.command(["new", *arguments, "--file", str(file)])
    assert file.read_bytes() == whole


@pytest.mark.process
def test_no_error_gets_into_a_file_that_stderr_is_appended_to(tmp_path: Path) -> None:
    """`aigc keys new NAME 2>> keys.toml`, as it was documented once."""
    file = tmp_path / "keys.toml"
    for name in ("alice", "bob"):
        with file.open("a") as stderr:
            made = keys_new(name, stderr=stderr)
        assert made.returncode == 0
        assert made.stdout.startswith("aigc_")
    whole = file.read_bytes()
    assert {key.name for key in keys.parse(whole.decode(), "file").all} == {"alice", "bob"}
    for arguments, status, said in (
        (["a b"], 1, "a name is 1 to 64"),
        (["alice"], 1, "has a key 'alice' already"),
        (["x", "--burst", "3"], 1, "burst has no effect"),
        (["x", "--scope", "root"], 2, "invalid choice"),
        ([], 2, "NAME"),
    ):
        with file.open("a") as stderr:
            refused = keys_new(*arguments, stderr=stderr)
        assert refused.returncode == status
        assert said in refused.stdout
        assert file.read_bytes() == whole


def test_the_command_makes_no_key_that_a_file_would_refuse() -> None:
    with pytest.raises(ValueError, match="a name is 1 to 64"):
        keys.command(["new", 'x"'])
    with pytest.raises(ValueError, match="burst must be at least 10"):
        keys.command(["new", "x", "--samples-per-s", "20", "--burst", "1"])


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_no_keys(host: str) -> None:
    assert exposure.is_loopback(host)
    assert exposure.check(host, keys=False, insecure=False, environment={}) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0"])
@pytest.mark.parametrize("mode", ["disabled", "DISABLED", "", "k8s"])
def test_ray_without_tokens_is_refused_on_any_host_unless_told_so(host: str, mode: str) -> None:
    off = {"RAY_AUTH_MODE": mode}
    with pytest.raises(ValueError, match=f"RAY_AUTH_MODE={mode} .*runs code on this machine"):
        exposure.check(host, keys=True, insecure=False, environment=off)
    warning = exposure.check(host, keys=True, insecure=True, environment=off)
    assert "runs code on this machine" in (warning or "")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.7"])
def test_an_address_of_others_is_refused_unless_it_is_guarded_or_told_so(host: str) -> None:
    def check(keys: bool, insecure: bool, mode: str | None) -> str | None:
        environment = {} if mode is None else {"RAY_AUTH_MODE": mode}
        return exposure.check(host, keys=keys, insecure=insecure, environment=environment)

    assert check(True, False, None) is None
    assert check(True, False, "token") is None
    with pytest.raises(ValueError, match="--keys") as caught:
        check(False, False, None)
    assert "--insecure" in str(caught.value)
    assert "RAY_AUTH_MODE" not in str(caught.value)
    with pytest.raises(ValueError, match="RAY_AUTH_MODE=disabled"):
        check(True, False, "disabled")
    assert "draws samples" in (check(False, True, None) or "")
    assert "no effect" in (check(True, True, None) or "")


def test_a_server_for_others_does_not_start_without_keys(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIGC_KEYS", raising=False)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    artifacts = (f"{store}/tiny@1",)
    free = {"host": "0.0.0.0", "port": 18_413, "metrics_port": 0}
    with pytest.raises(ValueError, match=r"--host 0.0.0.0 lets other machines in.*--keys"):
        prepare(ServeConfig(artifacts=artifacts, **free))  # type: ignore[arg-type]
    path = tmp_path / "keys.toml"
    path.write_text("[[key]]\nname = 'x'\n")
    with pytest.raises(ValueError, match=r"keys.toml: .*sha256"):
        prepare(ServeConfig(artifacts=artifacts, keys=str(path), **free))  # type: ignore[arg-type]
    path.write_text(FILE)
    settings, _ = prepare(
        ServeConfig(artifacts=artifacts, keys=str(path), **free)  # type: ignore[arg-type]
    )
    assert settings.keys == str(path)


@pytest.mark.parametrize("header", ["Authorization", "X-API-Key"])
def test_a_key_that_comes_twice_is_refused(header: str) -> None:
    """A proxy may have looked at one of them, and we at the other."""
    known = keys.parse(keys.key_entry(keys.CreateKey(action="new", name="alice"), "secret"), "keys")
    value = b"Bearer secret" if header == "Authorization" else b"secret"
    one = (header.lower().encode(), value)
    assert keys.authorize(known, [one], "sample") is not None
    with pytest.raises(HTTPError, match=f"{header} comes twice") as refused:
        keys.authorize(known, [one, one], "sample")
    assert (refused.value.status, refused.value.code) == (400, "malformed_header")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"# caf\xe9\n", "is no text in UTF-8: line 1 has the byte 0xe9; save it as UTF-8"),
        (b"\n\n\xff\xfe\x00", "is no text in UTF-8: line 3 has the byte 0xff"),
        (b"[[key]]\nname = '\x00'\n", "invalid character"),
        (b"\x00" * (1 << 24) + b"\x00", "it has more than 16777216 bytes"),
    ],
)
def test_a_keys_file_that_cannot_be_read_is_named(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(said)) as refused:
        keys.load(str(path), {})
    assert str(path) in str(refused.value)
    path.unlink()
    path.touch()
    file = keys.KeyFile(str(path))
    path.write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(said)) as refused:
        file.read_if_changed()
    assert str(path) in str(refused.value)


def test_a_folder_in_place_of_a_keys_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=re.escape(str(tmp_path))):
        keys.load(str(tmp_path), {})
