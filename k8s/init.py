"""`aigc k8s init DIR`: an overlay of one's own over these manifests, which are copied beside it.

DIR/kustomization.yaml     registry, keys, password, what is trained and served: yours to edit
DIR/aigc/                  manifests of this version, and kustomization.yaml with the components
DIR/redis-password.env     a new password, kept out of git by DIR/.gitignore
"""

import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent, indent
from typing import Annotated

import tyro

HERE = Path(__file__).parent
_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_REGISTRY = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?(/[a-z0-9._-]+)*")
_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]+(/[\w.=-]+)*")
_WORD = re.compile(r"[\w.:/@=+-]+", re.ASCII)
"""Words that mean themselves to a shell and to YAML."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
IMAGES = ("aigc-serve", "aigc-train")


@dataclass(frozen=True, kw_only=True)
class Init:
    """Write an overlay of your own over the manifests of this version, which are copied beside it.

    Nothing is overwritten. Then: aigc keys new NAME --file DIR/keys.toml; aigc k8s check DIR;
    kubectl apply -k DIR.
    """

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder to create, or an empty one."""
    registry: str = ""
    """Registry and path that the images are pulled from, such as ghcr.io/acme; without it the nodes
    must have them (kind load docker-image)."""
    pull_secret: str = ""
    """Secret in the namespace with which the images are pulled (kubectl create secret
    docker-registry)."""
    namespace: str = "aigc"
    """Namespace of all objects."""
    bucket: str = ""
    """S3 bucket or prefix of runs and artifacts, such as s3://acme/aigc, in place of claims that
    several nodes mount."""
    region: str = ""
    """Region of the bucket."""
    endpoint_url: str = ""
    """Address of a store other than Amazon's."""
    model: str = "dcgan:digits"
    """MODEL:PRESET that is trained."""
    data: str = ""
    """URI of the data that it is trained on; by default those of the preset."""
    name: str = ""
    """Name of run and artifact; MODEL-PRESET by default."""
    licence: str = ""
    """SPDX identifier of the weights' licence; unstated if not given."""

    def __post_init__(self) -> None:
        for field, pattern, example in (
            ("registry", _REGISTRY, "ghcr.io/acme"),
            ("pull_secret", _DNS_LABEL, "registry-credentials"),
            ("namespace", _DNS_LABEL, "aigc"),
            ("bucket", _BUCKET, "s3://acme/aigc"),
            ("region", _WORD, "eu-central-1"),
            ("endpoint_url", _WORD, "https://minio.example.com"),
            ("model", _WORD, "dcgan:digits"),
            ("data", _WORD, "s3://acme/pictures"),
            ("name", _NAME, "faces"),
            ("licence", _WORD, "Apache-2.0"),
        ):
            value = getattr(self, field)
            if not pattern.fullmatch(value) and (value or field == "model"):
                raise ValueError(f"{field} must be like {example}, got {value!r:.80}")
        if self.data and "://" not in self.data:
            raise ValueError(
                f"data must be a URI that pods can read, such as s3://acme/pictures, got"
                f" {self.data!r:.80}"
            )
        if (self.region or self.endpoint_url) and not self.bucket:
            raise ValueError("region and endpoint_url have no effect without bucket")

    @property
    def artifact(self) -> str:
        """Name of run and artifact."""
        return self.name or re.sub(r"[^a-z0-9._-]+", "-", self.model.lower()).strip("-.")


def write(init: Init) -> list[Path]:
    """Write the overlay; returns the files that are meant to be edited.

    Raises ValueError if the folder has anything in it.
    """
    folder = Path(init.folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not empty; give a folder that does not exist yet")
    manifests = folder / "aigc"
    manifests.mkdir(parents=True)
    for part in ("base", "components"):
        shutil.copytree(HERE / part, manifests / part, ignore=shutil.ignore_patterns("__pycache__"))
    components = ["training-job", *(["s3"] if init.bucket else [])]
    (manifests / "kustomization.yaml").write_text(_components(init, components))
    shutil.copyfile(HERE / "base" / "keys.toml", folder / "keys.toml")
    password = folder / "redis-password.env"
    password.touch(mode=0o600)
    password.write_text(f"password={secrets.token_hex(32)}\n")
    (folder / ".gitignore").write_text("redis-password.env\n")
    (folder / "kustomization.yaml").write_text("\n".join(_overlay(init)) + "\n")
    return [folder / "kustomization.yaml", folder / "keys.toml"]


def _components(init: Init, components: list[str]) -> str:
    lines = [
        "# The manifests as aigc brings them; what is yours stands in the folder above.",
        "apiVersion: kustomize.config.k8s.io/v1beta1",
        "kind: Kustomization",
        f"namespace: {init.namespace}",
        "resources: [base]",
        "# In this order; others are in components/, see the README of the manifests.",
        "components:",
        *(f"  - components/{name}" for name in components),
    ]
    return "\n".join(lines) + "\n"


def _overlay(init: Init) -> Iterator[str]:
    yield f"""# Yours to edit. Check it with `aigc k8s check .`, apply it with `kubectl apply -k .`
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization

namespace: {init.namespace}

resources: [aigc]

secretGenerator:
  # Let somebody in: aigc keys new NAME --file keys.toml
  - name: api-keys
    behavior: replace
    files: [keys.toml]
    options: {{disableNameSuffixHash: true}}
  # Written with a new password, and kept out of git.
  - name: redis-password
    behavior: replace
    envs: [redis-password.env]
    options:
      disableNameSuffixHash: true
      annotations: {{aigc/plain-text: redis-password.env is kept out of git}}"""
    if init.registry:
        yield "\nimages:"
        for image in IMAGES:
            yield f"  - {{name: {image}, newName: {init.registry}/{image}}}"
    if init.bucket:
        yield "\nconfigMapGenerator:\n  - name: s3\n    behavior: merge\n    literals:"
        yield f"      - AIGC_STORE={init.bucket}/artifacts"
        yield f"      - AIGC_RUNS={init.bucket}/runs"
        yield from (
            f"      - {name}={value}"
            for name, value in (
                ("AWS_DEFAULT_REGION", init.region),
                ("AWS_ENDPOINT_URL", init.endpoint_url),
            )
            if value
        )
    yield "\npatches:"
    yield from _patches(init)


def _patches(init: Init) -> Iterator[str]:
    yield f"""  # What is trained, and exported at its end.
  - target: {{kind: RayJob, name: training}}
    patch: |
      - op: replace
        path: /spec/entrypoint
        value: >-
{indent(_entrypoint(init), " " * 10)}
  # What is served: the artifacts, at the end.
  - target: {{kind: RayService, name: sampling}}
    patch: |
      - op: replace
        path: /spec/serveConfigV2
        value: |
{indent(_serve_config(init.artifact), " " * 10)}"""
    if init.pull_secret:
        yield f"""  # The Secret with which images are pulled.
  - target: {{kind: ServiceAccount}}
    patch: |
      - op: add
        path: /imagePullSecrets
        value: [{{name: {init.pull_secret}}}]
      - op: add
        path: /metadata/annotations
        value: {{aigc/external: Secret/{init.pull_secret}}}"""


def _entrypoint(init: Init) -> str:
    """Entrypoint of the training job, with another model, data and name."""
    text = _block("components/training-job/training.yaml", "entrypoint")
    text = text.replace("/digits", f"/{init.artifact}").replace(" digits", f" {init.artifact}")
    licence = f" --licence {init.licence}" if init.licence else ""
    text = re.sub(r" --licence [\w.-]+", licence, text)  # that of the base is its own model's
    data = f"\n--data.path {init.data}\n" if init.data else " "
    return text.replace("dcgan:digits ", f"{init.model}{data}")


def _serve_config(artifact: str) -> str:
    """serveConfigV2 of the base, with another artifact."""
    text = _block("base/sampling.yaml", "serveConfigV2")
    return text.replace("$AIGC_STORE/digits/", f"$AIGC_STORE/{artifact}/")


def _block(file: str, key: str) -> str:
    """The text of a field of a spec that is a block scalar."""
    text = (HERE / file).read_text()
    block = re.search(rf"^  {key}: [|>]-?\n((?:    .*\n|\n)+)", text, re.MULTILINE)
    assert block is not None
    return dedent(block[1].rstrip())
