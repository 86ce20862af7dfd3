"""Signatures: whoever can write the store cannot seal a signed artifact again."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from aigc.artifact import Artifact, ArtifactError, Store
from aigc.artifact.manifest import SIGNATURE, parse, seal
from aigc.artifact.signing import Trust, sign, wanted
from tests.artifact.hostile import model, write, zeros_graph
from tests.artifact.keys import write_keys


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "stranger", model(zeros_graph()), extra={".gitignore": b"x"})


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return write_keys(tmp_path)


def refused(folder: Path | str, public: Path, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        Artifact.open(folder, verify=False, trust=Trust.load(public))


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_signed_artifact_opens_and_model_signing_agrees(
    tmp_path: Path, curve: ec.EllipticCurve
) -> None:
    """Third parties check it with `model_signing verify key`."""
    from model_signing import verifying

    folder = write(tmp_path / "stranger", model(zeros_graph()), extra={"README.md": b"x"})
    private, public = write_keys(tmp_path, "curve", curve)
    sign(folder, private)
    assert Artifact.open(folder, trust=Trust.load(public)).id == "stranger@1"
    verifier = verifying.Config().use_elliptic_key_verifier(public_key=public)
    verifier.verify(folder, folder / SIGNATURE)
    signed = json.loads(statement(folder))["predicate"]["resources"]
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {one["name"] for one in signed} == names - {SIGNATURE}
    (folder / "README.md").write_bytes(b"y")
    with pytest.raises(ValueError, match="mismatch"):
        verifier.verify(folder, folder / SIGNATURE)


def statement(folder: Path) -> bytes:
    envelope = json.loads((folder / SIGNATURE).read_bytes())["dsseEnvelope"]
    return base64.b64decode(envelope["payload"])


def test_unsigned_artifact_is_refused_where_trust_is_set(
    folder: Path, keys: tuple[Path, Path]
) -> None:
    refused(folder, keys[1], r"stranger@1 in .* is not signed: it holds no model.sig")
    assert Artifact.open(folder).id == "stranger@1"


def test_signature_of_another_key_is_refused(
    folder: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    other, other_public = write_keys(tmp_path, "other")
    sign(folder, other)
    refused(folder, keys[1], "another key signed it, or it was altered")
    both = tmp_path / "both.pub"
    both.write_bytes(keys[1].read_bytes() + other_public.read_bytes())
    assert Artifact.open(folder, trust=Trust.load(both)).id == "stranger@1"


def test_resealed_artifact_is_refused(folder: Path, keys: tuple[Path, Path]) -> None:
    """The old signature is there, and every hash is right."""
    private, public = keys
    sign(folder, private)
    signature = (folder / SIGNATURE).read_bytes()
    manifest = parse((folder / "manifest.json").read_bytes())
    for change in (
        lambda: seal(folder, replace(manifest, licence="other")),
        lambda: (folder / "README.md").write_text("more") and seal(folder, manifest),
        lambda: (folder / ".gitignore").write_text("z") and seal(folder, manifest),
        lambda: (folder / ".gitignore").unlink() or seal(folder, manifest),
    ):
        change()
        assert not (folder / SIGNATURE).exists(), "sealing takes the signature away"
        (folder / SIGNATURE).write_bytes(signature)
        assert Artifact.open(folder).id == "stranger@1"
        refused(folder, public, "stranger@1 is not what was signed: '.*' was changed, added or")


def test_signature_of_another_artifact_is_refused(
    folder: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    other = write(tmp_path / "other", model(zeros_graph()), version="2")
    sign(other, keys[0])
    (folder / SIGNATURE).write_bytes((other / SIGNATURE).read_bytes())
    refused(folder, keys[1], "is not what was signed")


def test_altered_file_is_refused_before_the_signature_counts(
    folder: Path, keys: tuple[Path, Path]
) -> None:
    sign(folder, keys[0])
    (folder / ".gitignore").write_bytes(b"y")
    refused(folder, keys[1], "'.gitignore' was altered")


def altered(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def changed(data: bytes) -> bytes:
        bundle = json.loads(data)
        change(bundle)
        return json.dumps(bundle).encode()

    return changed


def resaid(data: bytes) -> bytes:
    """The statement with other hashes, the signature as it was."""
    bundle = json.loads(data)
    envelope = bundle["dsseEnvelope"]
    said = json.loads(base64.b64decode(envelope["payload"]))
    said["predicate"]["resources"][0]["digest"] = "0" * 64
    envelope["payload"] = base64.b64encode(json.dumps(said).encode()).decode()
    return json.dumps(bundle).encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: b"[]",
        lambda data: b"null",
        lambda data: b"{}",
        lambda data: b"[" * 100_000,
        lambda data: b"\xff" + data,
        resaid,
        altered(lambda b: b["dsseEnvelope"].update(payloadType="text/plain")),
        altered(lambda b: b["dsseEnvelope"].update(signatures=[])),
        altered(lambda b: b["dsseEnvelope"].update(signatures=b["dsseEnvelope"]["signatures"] * 2)),
        altered(lambda b: b["dsseEnvelope"]["signatures"][0].update(sig="AAAA")),
        altered(lambda b: b["dsseEnvelope"]["signatures"][0].update(sig=7)),
        altered(lambda b: b["dsseEnvelope"].update(payload="%%%")),
        altered(lambda b: b["dsseEnvelope"].update(payload=None)),
    ],
)
def test_malformed_signature_is_refused(
    folder: Path, keys: tuple[Path, Path], change: Callable[[bytes], bytes]
) -> None:
    sign(folder, keys[0])
    file = folder / SIGNATURE
    file.write_bytes(change(file.read_bytes()))
    refused(folder, keys[1], "stranger@1: model.sig is no signature of a key in")


def test_statement_of_another_type_is_refused(folder: Path, keys: tuple[Path, Path]) -> None:
    """Signed by the very key, but for something else."""
    from cryptography.hazmat.primitives import hashes

    sign(folder, keys[0])
    private = serialization.load_pem_private_key(keys[0].read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    said = json.loads(statement(folder))
    for name, value in (("predicateType", "https://example.org/licence/v1"), ("_type", "other")):
        payload = json.dumps({**said, name: value}).encode()
        kind = b"application/vnd.in-toto+json"
        message = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
        signature = private.sign(message, ec.ECDSA(hashes.SHA256()))
        bundle = json.loads((folder / SIGNATURE).read_bytes())
        bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
        bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(signature).decode()
        (folder / SIGNATURE).write_bytes(json.dumps(bundle).encode())
        refused(folder, keys[1], "not the hashes of a model's files")


def test_signatures_travel_to_every_kind_of_store(
    folder: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    sign(folder, keys[0])
    fs = fsspec.filesystem("memory")
    trust = Trust.load(keys[1])
    for store in (Store(tmp_path / "store"), Store("memory://signed-store")):
        uri = store.publish(folder)
        assert Artifact.open(uri, trust=trust).id == "stranger@1"
    fs.rm_file("/signed-store/stranger/1/model.sig")
    refused("memory://signed-store/stranger", keys[1], "is not signed")
    fs.rm("/signed-store", recursive=True)


def test_unusable_keys_are_refused_with_the_fix(
    folder: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    private, public = keys
    weak = rsa.generate_private_key(65537, 2048)
    pem, spki = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    (tmp_path / "rsa.pub").write_bytes(weak.public_key().public_bytes(pem, spki))
    (tmp_path / "rsa.pem").write_bytes(
        weak.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (tmp_path / "none").write_bytes(b"none")
    _, odd = write_keys(tmp_path, "odd", ec.SECP256K1())
    broken = tmp_path / "broken"
    broken.write_bytes(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    for file in (private, tmp_path / "rsa.pub", tmp_path / "none", odd, broken):
        with pytest.raises(ValueError, match=r"trust .* (must hold public keys|no public key)"):
            Trust.load(file)
    with pytest.raises(ValueError, match=r"trust .*nowhere: No such file"):
        Trust.load(tmp_path / "nowhere")
    for file in (public, tmp_path / "rsa.pem", tmp_path / "none", tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="is no private key that signs"):
            sign(folder, file)
    assert not (folder / SIGNATURE).exists()


def test_environment_names_keys_without_options(
    keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert wanted("") is None
    monkeypatch.setenv("AIGC_TRUST", str(keys[1]))
    found, other = wanted(""), write_keys(tmp_path, "other")[1]
    assert found.name == str(keys[1])
    chosen = wanted(str(other))
    assert chosen.name == str(other)


@pytest.mark.process
def test_verifying_needs_no_signing_packages(folder: Path, keys: tuple[Path, Path]) -> None:
    sign(folder, keys[0])
    script = (
        "import sys; sys.modules.update(dict.fromkeys(('model_signing', 'sigstore', 'OpenSSL')));"
        "from aigc.artifact import Artifact; from aigc.artifact.signing import Trust;"
        "print(Artifact.open(sys.argv[1], trust=Trust.load(sys.argv[2])).id)"
    )
    command = [sys.executable, "-c", script, folder, keys[1]]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert found.stdout == "stranger@1\n", found.stderr
