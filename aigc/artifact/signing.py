"""Signatures of artifacts: OpenSSF Model Signing with an elliptic-curve key.

    sign(folder, "private.pem")                 # -> folder/model.sig; needs aigc[sign]
    trust = Trust.load("public.pem")
    SealedFolder.open(uri, trust)               # ArtifactError unless one of its keys signed it

    openssl ecparam -name prime256v1 -genkey -noout -out private.pem
    openssl ec -in private.pem -pubout -out public.pem

The signature covers the names and hashes of the manifest and of all files in it, as the library
`model_signing` writes and verifies it: https://github.com/sigstore/model-transparency. It is
checked here against the very bytes that are used, without the dependencies of that library for
other kinds of signatures: a replica needs `cryptography` only.
"""

import base64
import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc.artifact.manifest import MANIFEST, SIGNATURE_FILE, ArtifactError, Manifest
from aigc.files import replacing

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

ENVIRONMENT = "AIGC_TRUST"
"""Variable with the file of public keys, if no option names one."""

_PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----\n?", re.DOTALL)
_PAYLOAD = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://model_signing/signature/v1.0"
_CURVES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}
"""Hash of each curve in Model Signing."""


def sign(folder: Path, private_key: str | Path) -> None:
    """Sign a folder that was just sealed: its manifest and every file.

    Raises ValueError as check_key() does.
    """
    signer = check_key(private_key)
    with replacing(folder / SIGNATURE_FILE) as temporary:
        signer.sign(folder, temporary)


def check_key(private_key: str | Path) -> Any:
    """The signer of a private key. Raises ValueError for other files, or without the library."""
    try:
        from model_signing import hashing, signing
    except ImportError as error:
        raise ValueError(f"signing needs pip install 'aigc[sign]' ({error})") from None
    files = hashing.Config().set_ignored_paths(paths=[SIGNATURE_FILE], ignore_git_paths=False)
    try:
        config = signing.Config().use_elliptic_key_signer(private_key=private_key)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{private_key} is no private key that signs: a PEM file without a password is"
            f" expected, of the curve P-256, P-384 or P-521 ({error})"
        ) from None
    return config.set_hashing_config(files)


def wanted(file: str) -> "Trust | None":
    """Trust in the keys of a file, by default of AIGC_TRUST; None without either.

    Raises ValueError as load() does.
    """
    file = file or os.environ.get(ENVIRONMENT, "")
    return Trust.load(file) if file else None


@dataclass(frozen=True, kw_only=True)
class Trust:
    """Public keys whose signatures are accepted."""

    name: str
    """Name of the file with the keys."""
    keys: tuple["EllipticCurvePublicKey", ...]

    @classmethod
    def load(cls, file: str | Path) -> "Trust":
        """The public keys of a PEM file, one or several. Raises ValueError if it has none."""
        try:
            from cryptography.hazmat.primitives.asymmetric import ec
            from cryptography.hazmat.primitives.serialization import load_pem_public_key
        except ImportError:
            raise ValueError("to check signatures, pip install 'aigc[sign]'") from None
        try:
            data = Path(file).read_bytes()
        except OSError as error:
            raise ValueError(f"trust {file}: {error.strerror}") from None
        try:
            keys = tuple(load_pem_public_key(pem) for pem in _PEM.findall(data))
        except ValueError as error:
            raise ValueError(f"trust {file} holds no public key in PEM: {error}") from None
        good = tuple(key for key in keys if isinstance(key, ec.EllipticCurvePublicKey))
        if not keys or len(good) != len(keys) or any(k.curve.name not in _CURVES for k in good):
            raise ValueError(
                f"trust {file} must hold public keys in PEM, of the curves P-256, P-384 or P-521:"
                " openssl ec -in private.pem -pubout"
            )
        return cls(name=str(file), keys=good)

    def check(self, manifest_bytes: bytes, manifest: Manifest, signature: bytes) -> None:
        """Raise ArtifactError unless one of the keys signed exactly this manifest."""
        try:
            signed = self._signed(signature)
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise ArtifactError(
                f"{manifest.id}: {SIGNATURE_FILE} is no signature of a key in {self.name}: {error}"
            ) from None
        expected = {name: file.sha256 for name, file in manifest.files.items()}
        expected[MANIFEST] = hashlib.sha256(manifest_bytes).hexdigest()
        odd = sorted({name for name, _ in expected.items() ^ signed.items()})
        if odd:
            raise ArtifactError(
                f"{manifest.id} is not what was signed: {odd[0]!r} was changed, added or taken away"
                f" after a key in {self.name} signed it"
            )

    def _signed(self, bundle: bytes) -> dict[str, str]:
        """Signed sha256 by name. Raises ValueError, KeyError, TypeError or IndexError."""
        envelope = json.loads(bundle)["dsseEnvelope"]
        if envelope["payloadType"] != _PAYLOAD:
            raise ValueError(f"it signs {envelope['payloadType']!r}, not {_PAYLOAD}")
        payload = base64.b64decode(envelope["payload"], validate=True)
        (signature,) = envelope["signatures"]
        self._verify(base64.b64decode(signature["sig"], validate=True), payload)
        statement = json.loads(payload)
        kinds = statement["_type"], statement["predicateType"]
        if kinds != (_STATEMENT, _PREDICATE):
            raise ValueError(f"it states {kinds}, not the hashes of a model's files")
        digests: dict[str, str] = {}
        for resource in statement["predicate"]["resources"]:
            if resource["algorithm"] != "sha256" or resource["name"] in digests:
                raise ValueError(f"it has no single sha256 of {resource['name']!r}")
            digests[resource["name"]] = resource["digest"]
        return digests

    def _verify(self, signature: bytes, payload: bytes) -> None:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        # https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
        kind = _PAYLOAD.encode()
        message = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
        for key in self.keys:
            try:
                algorithm = getattr(hashes, _CURVES[key.curve.name])()
                key.verify(signature, message, ec.ECDSA(algorithm))
            except InvalidSignature:
                continue
            return
        raise ValueError("another key signed it, or it was altered")
