"""Annotations of request fields for the OpenAPI document."""

from typing import Any

from msgspec import Meta

from serve.settings import MAX_SEED


def field(description: str, **schema: Any) -> Meta:
    """A description and further JSON schema keywords."""
    return Meta(description=description, extra_json_schema=schema)


def seed_field(description: str) -> Meta:
    """A seed, or an index within a seed."""
    return field(description, minimum=0, maximum=MAX_SEED)
