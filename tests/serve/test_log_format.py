"""Traces of a failed request: in the log, and in the client's answer."""

import json
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from serve import log_format
from serve.settings import Settings
from tests.serve.client import Client, serving


@pytest.fixture
def client(store: Path, metrics_dir: Path) -> Iterator[Client]:
    """A replica whose graph falls over."""

    def fall(inputs: Any) -> Any:
        raise RuntimeError("the graph fell over: secret detail")

    with serving(Settings(metrics_dir=str(metrics_dir)), f"{store}/tiny@1") as client:
        client.probe.runner().run = fall  # type: ignore[method-assign]
        yield client


@pytest.fixture
def restored() -> Iterator[None]:
    """The loggers as they were."""
    kept = {
        name: (logging.getLogger(name).handlers, logging.getLogger(name).propagate)
        for name in ("aigc", "serve")
    }
    yield
    for name, (handlers, propagate) in kept.items():
        logging.getLogger(name).handlers = handlers
        logging.getLogger(name).propagate = propagate


def _print_as_serve(real: Any, *objects: object, **options: Any) -> None:
    """As Serve's own, in a replica: it hands on its arguments as one tuple."""
    real(objects, **options)


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("form", ["json", "text"])
def test_the_log_has_the_trace_and_the_client_the_request_s_id(
    form: Any,
    client: Client,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log_format.configure(form)
    monkeypatch.setattr("builtins.print", partial(_print_as_serve, print))
    answer = client.request(
        "POST", "/v1/samples", json={"model": "tiny"}, headers={"x-request-id": "order-66"}
    )
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    log = capfd.readouterr().err
    if form == "json":
        (line,) = log.splitlines()
        record = json.loads(line)
        assert record["request_id"] == "order-66"
        assert record["message"] == "POST /v1/samples failed"
        assert record["exception"].startswith("Traceback (most recent call last):\n  File ")
        assert record["level"] == "ERROR"
        assert record["exception"].endswith("RuntimeError: the graph fell over: secret detail")
        assert record["time"].endswith("+00:00")
    else:
        assert "ERROR serve.http: POST /v1/samples failed (request order-66)\n" in log
        assert "\nTraceback (most recent call last):\n  File " in log


@pytest.mark.usefixtures("restored")
def test_what_a_client_sends_cannot_forge_a_line(
    client: Client, capfd: pytest.CaptureFixture[str]
) -> None:
    log_format.configure("json")
    client.request(
        "POST", "/v1/samples", json={"model": "tiny"}, headers={"x-request-id": '"}\\n{"'}
    )
    (line,) = capfd.readouterr().err.splitlines()
    assert json.loads(line)["request_id"] == '"}\\n{"'


def test_broken_multipart_forms_are_not_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("aigc", "serve", "python_multipart"):
        logger = logging.getLogger(name)
        for field in ("handlers", "level", "propagate"):
            monkeypatch.setattr(logger, field, getattr(logger, field))
    log_format.configure("text")
    assert logging.getLogger("python_multipart").level > logging.WARNING
