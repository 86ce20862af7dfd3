"""Secrets in plain text, readable in the repository and by `kubectl describe`."""

import base64
import binascii
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from k8s.check.finding import Finding, finding
from k8s.check.manifests import Manifests
from k8s.check.objects import Object, get_mapping, get_string, iter_mappings, iter_strings
from k8s.check.rules.serve_config import runtime_environments

PLAIN_TEXT = "aigc/plain-text"
"""Annotation of a Secret that says why its content may stand there."""
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_ENDINGS = ("PASSWORD", "PASSWD", "PASSPHRASE", "APIKEY", "ACCESSKEY", "SECRETKEY", "AUTHTOKEN")
"""Endings of names that are written as one word, such as PGPASSWORD."""
_WORDS = {"PASS", "PWD", "TOKEN", "SECRET", "CREDENTIAL", "CREDENTIALS", "KEY"}
_ALONE = {"PASS", "PWD"}
"""Words that mean something else where nothing stands before them: PWD is the folder."""
_BEHIND = {
    *("BASE", "VALUE", "STRING", "PROD", "PRODUCTION", "STAGING", "DEV", "TEST", "LIVE"),
    *("OLD", "NEW", "PREVIOUS", "CURRENT", "NEXT", "RW", "RO", "B64", "BASE64", "HEX", "V"),
}
"""Words behind it that leave it a secret; behind others, as in KEY_FILE, it is none."""
_PUBLIC_KEYS = {
    *(
        "PUBLIC",
        "PUB",
        "CACHE",
        "PARTITION",
        "SORT",
        "PRIMARY",
        "FOREIGN",
        "ROUTING",
        "IDEMPOTENCY",
    ),
    *("LABEL", "GROUP", "SHARD", "LOOKUP", "ROW", "COLUMN", "FIELD", "METRIC", "TOPIC", "OBJECT"),
    *("CONFIG", "CONFIGMAP", "TAG", "TAINT", "TOPOLOGY", "HOT"),
}
_TEXT_TOKENS = {"PAD", "EOS", "BOS", "UNK", "CLS", "SEP", "MASK", "STOP", "END", "START", "SPECIAL"}
"""Before TOKEN: a piece of text that models know."""
_PUBLIC_ENTRY = re.compile(r"(^|[._-])(user(name)?|host|port|database|ca\.crt|tls\.crt|url)$")
"""Entries of a Secret that stand beside the secret itself."""
_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@'\"]*:([^\s/@'\"]+)@")
_ARGUMENT = re.compile(
    r"(?:^|\s)--?(?:requirepass|masterauth|redis-password|password|passwd|token|api-key|secret-key)"
    r"(?:=|\s+)(\S+)"
)
_SETTING = re.compile(r"^\s*(?:requirepass|masterauth)\s+(\S+)", re.MULTILINE)
_SWITCHES = {
    *("true", "false", "none", "null", "yes", "no", "on", "off", "auto"),
    *("enabled", "disabled", "required", "optional"),
}
_FILLED_IN = re.compile(r"^['\"]?(\$|\{\{|<|%\()|\$\{?\w+\}?")
"""Placeholders: $(VAR), ${VAR}, {{ .Values.x }}, <password>."""
_FROM = "take it from a Secret that is not in the repository (valueFrom.secretKeyRef)"


def environment(manifests: Manifests) -> Iterator[Finding]:
    """A variable with the name of a secret has its value in the manifest."""
    seen = set()
    for by, path, name, value in _variables(manifests):
        if (id(by), path) in seen or not is_secret_name(name) or not _is_literal(value):
            continue
        seen.add((id(by), path))  # a config map is read by many
        there = manifests.find("Secret", value, by.namespace) is not None
        if not there and not manifests.is_external("Secret", value, by):
            yield finding(by, path, f"{name} stands here in plain text; {_FROM}")


def _variables(manifests: Manifests) -> Iterator[tuple[Object, str, str, str]]:
    """(object, path, name, value) of every variable whose value the set holds."""
    for pods in manifests.pods:
        for path, container in pods.containers:
            for index, each in iter_mappings(container, "env"):
                name, value = get_string(each, "name"), each.get("value")
                if isinstance(value, str | int | float):
                    yield pods.owner, f"{path}.env[{index}].value", name, str(value)
                named = get_mapping(each, "valueFrom", "configMapKeyRef")
                for by, key, text in _entries(manifests, pods.owner, named):
                    if key == named.get("key"):
                        yield by, f"data['{key}']", name, text
            for _, each in iter_mappings(container, "envFrom"):
                for by, key, text in _entries(
                    manifests, pods.owner, get_mapping(each, "configMapRef")
                ):
                    yield by, f"data['{key}']", f"{get_string(each, 'prefix')}{key}", text
    for owner, path, environment in runtime_environments(manifests):
        for name, value in get_mapping(environment, "env_vars").items():
            yield owner, f"{path}.env_vars.{name}", name, str(value)


def _entries(
    manifests: Manifests, by: Object, named: Mapping[str, Any]
) -> Iterator[tuple[Object, str, str]]:
    """(ConfigMap, key, text) of what a ConfigMap of the set holds."""
    found = manifests.find("ConfigMap", get_string(named, "name"), by.namespace)
    if found is not None:
        for key, text in get_mapping(found.document, "data").items():
            yield found, key, str(text)


def is_secret_name(name: str) -> bool:
    """True if the words of a variable or entry name say that it holds a secret."""
    words = [each.upper() for each in _WORD.findall(name)]
    at = next((i for i in reversed(range(len(words))) if _is_secret_word(words[i], i)), None)
    if at is None or not all(each in _BEHIND or each.isdigit() for each in words[at + 1 :]):
        return False
    before = words[at - 1] if at else ""
    if words[at] == "KEY":
        return before not in _PUBLIC_KEYS
    return words[at] != "TOKEN" or before not in _TEXT_TOKENS


def _is_secret_word(each: str, index: int) -> bool:
    return each.endswith(_ENDINGS) or (each in _WORDS and (index > 0 or each not in _ALONE))


def _is_literal(value: str) -> bool:
    """True for a literal value: not a switch, path or placeholder."""
    path = value.startswith(("/", "./")) and not re.search("[+=]", value)
    if len(value) < 2 or path or value.lower() in _SWITCHES:
        return False
    return not _FILLED_IN.search(value)


def objects(manifests: Manifests) -> Iterator[Finding]:
    """A Secret has its content in the manifest."""
    for by in manifests.of_kind("Secret"):
        if by.annotations.get(PLAIN_TEXT):
            continue
        for field in ("stringData", "data"):
            for key, value in get_mapping(by.document, field).items():
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
    """True for a keys file of `aigc serve`, which holds names and hashes only."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    entries = [each for _, each in iter_mappings(document, "key")]
    return set(document) == {"key"} and all("sha256" in each for each in entries)


def urls(manifests: Manifests) -> Iterator[Finding]:
    """A URL holds a password."""
    for by in manifests:
        for path, text in iter_strings(by.document):
            for password in _URL.findall(text):
                if not _FILLED_IN.search(password):
                    yield finding(by, path, f"a URL holds a password in plain text; {_FROM}")
                    break


def arguments(manifests: Manifests) -> Iterator[Finding]:
    """A command, a setting of Ray or a configuration file holds a password."""
    message = f"a password stands here in plain text; {_FROM}"
    for pods in manifests.pods:
        for path, container in pods.containers:
            for field in ("command", "args"):
                words = container.get(field)
                text = " ".join(map(str, words)) if isinstance(words, list) else ""
                if any(_is_literal(value) for value in _ARGUMENT.findall(text)):
                    yield finding(pods.owner, f"{path}.{field}", message)
    for cluster in manifests.clusters:
        for group in cluster.groups:
            if _is_literal(str(group.start_params.get("redis-password", ""))):
                path = f"{group.path}.rayStartParams.redis-password"
                yield finding(cluster.owner, path, message)
        if _is_literal(
            get_string(cluster.spec, "gcsFaultToleranceOptions", "redisPassword", "value")
        ):
            path = f"{cluster.path}.gcsFaultToleranceOptions.redisPassword.value"
            yield finding(cluster.owner, path, message)
    for by in manifests.of_kind("ConfigMap"):
        for key, text in get_mapping(by.document, "data").items():
            if any(_is_literal(value) for value in _SETTING.findall(str(text))):
                yield finding(by, f"data['{key}']", message)


RULES = (environment, objects, urls, arguments)
