"""Secrets in plain text."""

import base64
from copy import deepcopy
from typing import Any

import pytest

from k8s.check.rules.secrets import is_secret_name
from serve.access.api_keys import CreateKey, key_entry
from tests.k8s.check.mutation import WHOLE, Mutation, copied, findings, one, set_at

WEB = "spec.template.spec.containers[0]"
MUTATIONS = [
    Mutation(
        rule="secrets/environment",
        object="ConfigMap/settings",
        path="data.SESSION_SECRET",
        value="hunter2",
        found="data['SESSION_SECRET']",
        says="SESSION_SECRET stands here in plain text",
    ),
    Mutation(
        rule="secrets/environment",
        object="RayService/sampling",
        path="spec.serveConfigV2.applications[1].runtime_env.env_vars.HF_TOKEN",
        value="hf_abc",
        says="HF_TOKEN stands here in plain text",
    ),
    Mutation(
        rule="secrets/environment",
        object="RayJob/training",
        path="spec.runtimeEnvYAML",
        value="env_vars: {WANDB_API_KEY: abc}",
        found="spec.runtimeEnvYAML.env_vars.WANDB_API_KEY",
        says="WANDB_API_KEY stands here in plain text",
    ),
    Mutation(
        rule="secrets/environment",
        object="StatefulSet/redis",
        path=f"{WEB}.env[1]",
        value={"name": "PIN_PASSWORD", "value": 12345},
        found=f"{WEB}.env[1].value",
        says="PIN_PASSWORD stands here in plain text",
    ),
    Mutation(
        rule="secrets/environment",
        object="Deployment/web",
        path=f"{WEB}.env[2]",
        value={"name": "OPENAI_API_KEY", "value": "sk-1234"},
        found=f"{WEB}.env[2].value",
        says="OPENAI_API_KEY stands here in plain text; take it from a Secret",
    ),
    Mutation(
        rule="secrets/environment",
        object="RayService/sampling",
        path="spec.rayClusterConfig.headGroupSpec.template.spec.containers[0].env",
        value=[{"name": "REDIS_PASSWORD", "value": "5241590000000000"}],
        found="spec.rayClusterConfig.headGroupSpec.template.spec.containers[0].env[0].value",
        says="REDIS_PASSWORD stands here in plain text",
    ),
    Mutation(
        rule="secrets/objects",
        object="Secret/redis-password",
        path="data.password",
        value=base64.b64encode(b"hunter2").decode(),
        found="data['password']",
        says="its value is in the manifest; make the Secret outside of the repository",
    ),
    Mutation(
        rule="secrets/objects",
        object="Secret/redis-password",
        path="stringData",
        value={"username": "web", "token": "hunter2"},
        found="stringData['token']",
        says="declare it with --external Secret/redis-password",
    ),
    Mutation(
        rule="secrets/objects",
        object="Secret/redis-password",
        path="data.url",
        value=base64.b64encode(b"redis://:hunter2@redis").decode(),
        found="data['url']",
        says="or it comes from a file that is not committed, say so in the annotation",
    ),
    Mutation(
        rule="secrets/urls",
        object="Deployment/web",
        path=f"{WEB}.args[3]",
        value="redis://:hunter2@redis:6379",
        says="a URL holds a password in plain text",
    ),
    Mutation(
        rule="secrets/urls",
        object="ConfigMap/settings",
        path="data.DATABASE",
        value="postgres://web:hunter2@db/web",
        says="a URL holds a password in plain text",
    ),
    Mutation(
        rule="secrets/arguments",
        object="StatefulSet/redis",
        path=f"{WEB}.args",
        value=["--requirepass", "hunter2"],
        says="a password stands here in plain text",
    ),
    Mutation(
        rule="secrets/arguments",
        object="ConfigMap/settings",
        path="data.redis",
        value="port 6379\nrequirepass hunter2\n",
        found="data['redis']",
        says="a password stands here in plain text",
    ),
    Mutation(
        rule="secrets/arguments",
        object="RayService/sampling",
        path="spec.rayClusterConfig.headGroupSpec.rayStartParams.redis-password",
        value="hunter2",
        says="a password stands here in plain text",
    ),
    Mutation(
        rule="secrets/arguments",
        object="RayService/sampling",
        path="spec.rayClusterConfig.gcsFaultToleranceOptions.redisPassword",
        value={"value": "hunter2"},
        found="spec.rayClusterConfig.gcsFaultToleranceOptions.redisPassword.value",
        says="a password stands here in plain text",
    ),
]

MEANT: list[tuple[str, str, Any]] = [
    ("Deployment/web", f"{WEB}.env[2]", {"name": "API_KEY", "value": "$(OTHER)"}),
    ("Deployment/web", f"{WEB}.env[2]", {"name": "API_TOKEN", "value": ""}),
    ("Deployment/web", f"{WEB}.env[2]", {"name": "USE_TOKEN", "value": "true"}),
    ("Deployment/web", f"{WEB}.env[2]", {"name": "TLS_KEY", "value": "/etc/tls/tls.key"}),
    ("Deployment/web", f"{WEB}.env[2]", {"name": "TOKENIZERS_PARALLELISM", "value": "x"}),
    ("Deployment/web", f"{WEB}.env[2]", {"name": "PASSWORD_FILE", "value": "x"}),
    ("Deployment/web", f"{WEB}.env[2]", {"name": "TLS_SECRET", "value": "redis-password"}),
    ("Deployment/web", f"{WEB}.env[2]", {"name": "EOS_TOKEN", "value": "</s>"}),
    ("Deployment/web", f"{WEB}.args[3]", "redis://:$(REDIS_PASSWORD)@redis:6379"),
    ("Deployment/web", f"{WEB}.args[3]", "http://example.com:8080/@x"),
    ("StatefulSet/redis", f"{WEB}.args", ["sh", "-c", 'redis-server --requirepass "$PASSWORD"']),
    ("Secret/redis-password", "stringData", {"username": "web", "host": "db"}),
    ("Secret/redis-password", "stringData", {"ca.pem": "-----BEGIN CERTIFICATE-----\nAA"}),
    ("Secret/redis-password", "metadata.annotations", {"aigc/plain-text": "an example"}),
]


@pytest.mark.parametrize(("object", "path", "value"), MEANT)
def test_harmless_values_are_no_secrets(object: str, path: str, value: Any) -> None:
    documents = deepcopy(WHOLE)
    if path == "metadata.annotations":
        set_at(one(documents, object), "stringData", {"password": "hunter2"})
    set_at(one(documents, object), path, value)
    assert findings(documents) == []


def test_keys_file_must_hold_hashes() -> None:
    entry = key_entry(CreateKey(action="new", name="alice"), "aigc_secret")
    documents, secret = copied("Secret/redis-password")
    secret["data"]["keys.toml"] = base64.encodebytes(entry.encode()).decode()
    assert findings(documents) == []
    secret["stringData"] = {"keys.toml": f'{entry}\n[other]\npassword = "x"\n'}
    assert [each.rule for each in findings(documents)] == ["secrets/objects"]


@pytest.mark.parametrize(
    "name",
    [
        *("PASSWORD", "PGPASSWORD", "db_password", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "KEY"),
        *("SECRET_KEY_BASE", "DB_PASS", "MYSQL_PWD", "dbPassword", "apiToken", "api-key", "TOKEN"),
        *("GITHUB_TOKEN_RW", "PASSWORD_2", "OPENAI_API_KEY", "JWT_SECRET_PROD", "APIKEY", "PASSWD"),
        *("RAY_AUTH_TOKEN", "AZURE_CLIENT_SECRET", "GOOGLE_CREDENTIALS", "ENCRYPTION_KEY_V2"),
    ],
)
def test_secret_names_are_recognised(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("SSH_PUBLIC_KEY", "KEYS", "MONKEY", "MAX_TOKENS", "SORT_KEY", "KEYSPACE", "AIGC_KEYS"),
        *("TLS_KEY_FILE", "TOKEN_PATH", "SECRET_NAME", "PASSWORD_TTL", "TOKEN_BUCKET", "PWD"),
        *(
            "OLDPWD",
            "KEY_COLUMN",
            "EOS_TOKEN",
            "PAD_TOKEN",
            "CACHE_KEY",
            "TOKENIZER",
            "PASSTHROUGH",
        ),
        *("KEYBOARD", "SECRETARY", "COMPASS", "TOKEN_LIMIT", "SECRET_ROTATION_DAYS", "BYPASS"),
        *("AWS_ACCESS_KEY_ID", "RAY_AUTH_TOKEN_PATH", "HOT_KEY", "KEY_VAULT_URL"),
    ],
)
def test_other_names_are_not_recognised(name: str) -> None:
    assert not is_secret_name(name)
