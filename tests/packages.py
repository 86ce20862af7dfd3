"""Packages that an extra installs."""

from importlib.metadata import PackageNotFoundError, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TRAINING_ONLY = {"torch", "onnx", "onnxscript", "scikit-learn", "tensorboard", "safetensors"}


def closure(*extras: str) -> set[str]:
    """Every package that `pip install 'aigc[extras]'` brings, by the metadata of what is here."""
    seen: set[tuple[str, str]] = set()
    queue = [("aigc", extra) for extra in ("", *extras)]
    while queue:
        name, extra = queue.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue  # an environment marker of another platform
        for requirement in map(Requirement, lines):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                needed = canonicalize_name(requirement.name)
                queue += [(needed, wanted) for wanted in ("", *requirement.extras)]
    return {name for name, _ in seen} - {"aigc", "setuptools"}  # pip freeze leaves setuptools out
