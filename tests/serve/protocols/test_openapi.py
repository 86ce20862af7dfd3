"""The OpenAPI document is complete and true: schemathesis asks what it allows, and what it forbids.

Against a replica behind a real socket: what is answered is held against what the document says of
status codes, media types, headers and bodies.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode, checks
from schemathesis.core.failures import Failure, FailureGroup

from serve.settings import Limits, Settings
from tests.serve.listening import listening

pytestmark = pytest.mark.process

ASKED = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
    checks.allow_header_conformance,
]


@pytest.fixture(scope="module")
def document(store: Path, words: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("metrics")
    limits = Limits(max_batch=16, max_n=64)
    settings = Settings(metrics_dir=str(folder), limits=limits)
    with listening(settings, f"{store}/tiny@1", words) as served:
        yield schemathesis.openapi.from_url(f"{served.url}/openapi.json")


def name_what_is_there(case: Any) -> None:
    """Ask for the model that is hosted, where any name would be allowed."""
    for place in (case.path_parameters, case.body):
        if isinstance(place, dict):
            model = "words" if "completions" in case.path else "tiny"
            place |= {k: v for k, v in {"model": model, "version": "1"}.items() if k in place}
            place |= {"signature": "sample"} if "signature" in place else {}


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_every_answer_is_one_that_the_document_names(document: Any, mode: GenerationMode) -> None:
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) > 15
    failures = {}
    answered: list[int] = []
    for operation in operations:

        @settings(
            max_examples=20,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            if mode is GenerationMode.POSITIVE:
                name_what_is_there(case)
            answered.append(case.call_and_validate(checks=ASKED).status_code)

        try:
            ask()
        except (FailureGroup, Failure) as failure:
            failures[operation.label] = str(getattr(failure, "exceptions", [failure])[0])
        except Unsatisfiable:
            pass  # nothing that could be asked wrongly
    if mode is GenerationMode.POSITIVE:
        assert answered.count(200) > 80, "the models were hardly reached"
    assert not failures, "\n\n".join(f"{label}\n{text}" for label, text in failures.items())
