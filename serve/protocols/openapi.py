"""The OpenAPI 3.1 document of a replica, assembled from its routes and the models it hosts."""

import json
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

import msgspec

from aigc.artifact import Manifest
from serve.http import Route
from serve.operation import REFERENCE, SECURITY, ExampleModel, Operation
from serve.settings import Limits


def document(
    routes: Iterable[Route],
    manifests: Sequence[Manifest],
    limits: Limits,
    *,
    guarded: bool = False,
) -> bytes:
    """openapi.json for the models hosted now, as UTF-8 JSON.

    Routes without an operation are left out. `guarded`: the server has keys.
    """
    model = ExampleModel()
    if manifests:
        model = ExampleModel(name=manifests[0].name, version=manifests[0].version)
    paths: dict[str, dict[str, Any]] = {}
    operations: list[Operation] = []
    for route in routes:
        if route.operation is not None:
            operations.append(route.operation)
            methods = paths.setdefault(route.documented_path, {})
            methods[route.method.lower()] = route.operation.document(model, guarded=guarded)
    body = {
        "openapi": "3.1.0",
        "info": {
            "title": "aigc",
            "version": version("aigc"),
            "description": "Samples of generative models. A seed is a promise: sample *i* of seed"
            " *s* is the same alone, in a batch and on every replica, up to the reproducibility"
            " level that the answer states.\n\n" + _model_table(manifests),
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(operations, manifests, limits),
            **({"securitySchemes": SECURITY} if guarded else {}),
        },
    }
    return json.dumps(body).encode()


def _model_table(manifests: Sequence[Manifest]) -> str:
    lines = ["| model | family | signatures | classes |", "|---|---|---|---|"]
    for manifest in manifests:
        labels = [s.label for s in manifest.signatures.values() if s.label is not None]
        classes = ", ".join(labels[0].classes) if labels else "none"
        lines.append(
            f"| {manifest.id} | {manifest.family} | {', '.join(manifest.offered)} | {classes} |"
        )
    return "\n".join(lines)


def _schemas(
    operations: Sequence[Operation], manifests: Sequence[Manifest], limits: Limits
) -> dict[str, Any]:
    """Schemas by type name; requests for samples name the hosted models and their signatures."""
    types = dict.fromkeys(kind for operation in operations for kind in operation.types())
    _, schemas = msgspec.json.schema_components(types, ref_template=REFERENCE)
    signatures = sorted({name for manifest in manifests for name in manifest.offered})
    requests = {
        one.__name__
        for operation in operations
        for one in operation.request.values()
        if isinstance(one, type)
    }
    for name in requests:
        fields = schemas[name]["properties"]
        if "model" in fields and "signature" in fields:
            fields["model"]["examples"] = [manifest.id for manifest in manifests]
            fields["signature"]["examples"] = signatures
            if "n" in fields:
                fields["n"]["maximum"] = limits.max_n
    return schemas
