"""What the OpenAPI document says of the fields of requests."""

from typing import Any

from msgspec import Meta

from serve.settings import MAX_SEED


def field(description: str, **schema: Any) -> Meta:
    """A field, and what JSON schema has of it beyond its type."""
    return Meta(description=description, extra_json_schema=schema)


def of_seed(description: str) -> Meta:
    """A seed, or an index within one."""
    return field(description, minimum=0, maximum=MAX_SEED)
