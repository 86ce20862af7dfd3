"""Digests of the images of manifests, for the `images:` of an overlay.

    python -m k8s.pin DIR|FILE|- ...

A registry is asked by whichever of crane, skopeo and docker is installed. What is printed replaces
tags by tags with digests; images that have one are left out.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable

from k8s.check import render
from k8s.check.manifests import Manifests
from k8s.check.objects import get_string
from k8s.check.rules.images import split

CLIENTS = {
    "crane": ("crane", "digest"),
    "skopeo": ("skopeo", "inspect", "--format", "{{.Digest}}"),
    "docker": ("docker", "buildx", "imagetools", "inspect", "--format", "{{.Manifest.Digest}}"),
}
"""Programs that ask a registry, the first that is installed; the image's name is added."""
TIMEOUT_S = 60
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def tagged(sources: Iterable[str]) -> list[str]:
    """Images that go by a tag. Raises ValueError for what cannot be read."""
    manifests = Manifests(render.manifests(sources))
    images = {
        get_string(container, "image")
        for pods in manifests.pods
        for _, container in pods.containers
    }
    return sorted(image for image in images if image and "@" not in image)


def digest(image: str) -> str:
    """Digest of an image in its registry. Raises ValueError if the registry does not tell it."""
    command = next((words for name, words in CLIENTS.items() if shutil.which(name)), None)
    if command is None:
        raise ValueError(f"no client of registries is installed: install {' or '.join(CLIENTS)}")
    named = f"docker://{image}" if command[0] == "skopeo" else image
    try:
        done = subprocess.run([*command, named], capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise ValueError(f"{image}: its registry did not answer within {TIMEOUT_S} s") from None
    found = _DIGEST.fullmatch(done.stdout.strip())
    if done.returncode or not found:
        raise ValueError(
            f"{image}: {command[0]} says {(done.stderr or done.stdout).strip()!r:.200}"
        )
    return found[0]


def main(argv: list[str]) -> int:
    """Print the `images:` of a kustomization. Exit status 0, or 1 where a digest is not known."""
    if not argv or argv[0] in ("-h", "--help"):
        print((__doc__ or "").strip())
        return 0 if argv else 2
    try:
        lines = ["images:"]
        for image in tagged(argv):
            name, tag = split(image)
            lines.append(f'  - {{name: {name}, newTag: "{tag}", digest: "{digest(image)}"}}')
    except ValueError as error:
        print(f"k8s.pin: {error}", file=sys.stderr)
        return 1
    print("\n".join(lines if len(lines) > 1 else ["images: []"]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
