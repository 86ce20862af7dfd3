"""Secrets in plain text: whoever reads the repository, or `kubectl describe`, has them."""

import base64
import binascii
import re
import tomllib
from collections.abc import Iterator

from k8s.check.finding import Finding, finding
from k8s.check.manifests import Manifests
from k8s.check.objects import strings, table, tables, word

PLAIN_TEXT = "aigc/plain-text"
"""Annotation of a Secret that says why its content may stand there."""
_NAME = re.compile(
    r"((PASSWORD|PASSWD|PASSPHRASE)|(^|[_-])(TOKEN|SECRET|CREDENTIALS|APIKEY|KEY))$", re.IGNORECASE
)
_PUBLIC_NAME = re.compile(
    r"(PUBLIC|CACHE|PARTITION|SORT|PRIMARY|FOREIGN|ROUTING|IDEMPOTENCY|LABEL)[_-]?KEY$",
    re.IGNORECASE,
)
_PUBLIC_ENTRY = re.compile(r"(^|[._-])(user(name)?|host|port|database|ca\.crt|tls\.crt|url)$")
"""Entries of a Secret that stand beside the secret itself."""
_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@'\"]*:([^\s/@'\"]+)@")
_ARGUMENT = re.compile(
    r"(?:^|\s)--?(?:requirepass|masterauth|redis-password|password|passwd|token|api-key|secret-key)"
    r"(?:=|\s+)(\S+)"
)
_SETTING = re.compile(r"^\s*(?:requirepass|masterauth)\s+(\S+)", re.MULTILINE)
_FILLED_IN = re.compile(r"^['\"]?(\$|\{\{|<|%\()|\$\{?\w+\}?")
"""What is no value but the place of one: $(VAR), ${VAR}, {{ .Values.x }}, <password>."""
_FROM = "take it from a Secret that is not in the repository (valueFrom.secretKeyRef)"


def environment(manifests: Manifests) -> Iterator[Finding]:
    """A variable with the name of a secret has its value in the manifest."""
    for pods in manifests.pods:
        for path, container in pods.containers:
            for index, each in tables(container, "env"):
                name, value = word(each, "name"), word(each, "value")
                if is_secret_name(name) and _is_literal(value):
                    yield finding(
                        pods.owner,
                        f"{path}.env[{index}].value",
                        f"{name} stands here in plain text; {_FROM}",
                    )


def is_secret_name(name: str) -> bool:
    """Whether a variable or entry of this name holds a secret."""
    return bool(_NAME.search(name)) and not _PUBLIC_NAME.search(name)


def _is_literal(value: str) -> bool:
    """Whether this is a value itself: no switch, no path, no place to be filled in."""
    if not value or value.startswith("/") or value.lower() in ("true", "false", "none"):
        return False
    return not _FILLED_IN.search(value)


def objects(manifests: Manifests) -> Iterator[Finding]:
    """A Secret has its content in the manifest."""
    for by in manifests.of_kind("Secret"):
        if by.annotations.get(PLAIN_TEXT):
            continue
        for field in ("stringData", "data"):
            for key, value in table(by.document, field).items():
                text = _decoded(value) if field == "data" else str(value)
                if _is_literal(text.strip()) and not _is_public(key, text):
                    yield finding(
                        by,
                        f"{field}['{key}']",
                        "its value is in the manifest; make the Secret outside of the repository"
                        " (kubectl create secret, external-secrets, sealed-secrets) and declare it"
                        f" with --external Secret/{by.name}. If all may read it, or it comes from a"
                        f" file that is not committed, say so in the annotation {PLAIN_TEXT}",
                    )


def _decoded(value: object) -> str:
    try:
        lines = "".join(str(value).split())
        return base64.b64decode(lines, validate=True).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return str(value)


def _is_public(key: str, text: str) -> bool:
    certificate = "BEGIN CERTIFICATE" in text and "PRIVATE KEY" not in text
    beside = bool(_PUBLIC_ENTRY.search(key)) and not _URL.search(text)
    return beside or certificate or _is_keys_file(text)


def _is_keys_file(text: str) -> bool:
    """Whether it is a keys file of `aigc serve`, which holds names and hashes only."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    entries = [each for _, each in tables(document, "key")]
    return set(document) == {"key"} and all("sha256" in each for each in entries)


def urls(manifests: Manifests) -> Iterator[Finding]:
    """A URL holds a password."""
    for by in manifests:
        for path, text in strings(by.document):
            for password in _URL.findall(text):
                if not _FILLED_IN.search(password):
                    yield finding(by, path, f"a URL holds a password in plain text; {_FROM}")
                    break


def arguments(manifests: Manifests) -> Iterator[Finding]:
    """A command, a setting of Ray or a configuration file holds a password."""
    said = f"a password stands here in plain text; {_FROM}"
    for pods in manifests.pods:
        for path, container in pods.containers:
            for field in ("command", "args"):
                words = container.get(field)
                text = " ".join(map(str, words)) if isinstance(words, list) else ""
                if any(_is_literal(found) for found in _ARGUMENT.findall(text)):
                    yield finding(pods.owner, f"{path}.{field}", said)
    for cluster in manifests.clusters:
        for group in cluster.groups:
            if _is_literal(str(group.start_params.get("redis-password", ""))):
                path = f"{group.path}.rayStartParams.redis-password"
                yield finding(cluster.owner, path, said)
        if _is_literal(word(cluster.spec, "gcsFaultToleranceOptions", "redisPassword", "value")):
            path = f"{cluster.path}.gcsFaultToleranceOptions.redisPassword.value"
            yield finding(cluster.owner, path, said)
    for by in manifests.of_kind("ConfigMap"):
        for key, text in table(by.document, "data").items():
            if any(_is_literal(found) for found in _SETTING.findall(str(text))):
                yield finding(by, f"data['{key}']", said)


RULES = (environment, objects, urls, arguments)
