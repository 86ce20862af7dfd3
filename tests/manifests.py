"""A manifest of an artifact that exists in tests only."""

from collections.abc import Mapping
from typing import Any

from aigc.artifact import Manifest, Signature


def manifest(signatures: Mapping[str, Signature], **fields: Any) -> Manifest:
    """A whole manifest, with nothing proven, of these signatures; `fields` win over it."""
    return Manifest(
        **{
            "name": "tiny",
            "version": "1",
            "family": "gan",
            "model": "fc_gan",
            "preset": "mlp",
            "created": "2026-01-01T00:00:00+00:00",
            "licence": "MIT",
            "signatures": dict(signatures),
            "reproducibility": {},
            "parity": {},
            **fields,
        }
    )
