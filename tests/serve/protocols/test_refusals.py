"""Every protocol refuses the same sampling parameters, with the same words and by their name."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.sampling_params import SamplingParams
from serve.settings import MAX_SEED
from tests.serve.client import limited
from tests.serve.listening import Listening, listening
from tests.serve.protocols.oip.wires import GRPC_CODES, connected

MAX_N = 20


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Error that a client gets; the Open Inference Protocol has neither code nor param."""

    status: str
    message: str
    code: str | None = None
    param: str | None = None
    retry_after: str | None = None


Send = Callable[[Listening, dict[str, Any]], Refusal]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One way to ask for samples."""

    send: Send
    path: str
    takes: Mapping[str, str]
    """Names on the wire of the fields that the protocol has."""
    model: str = "tiny@1"
    classes: str = "tiny@1"
    """A model with classes."""
    num_classes: int = 10
    no_classes: str = "colours@1"
    writes: str | None = None
    """A model that writes texts, where the protocol gives them."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Fields of every request."""
    inline: bool = False
    """True where settings are fields of their own."""
    statuses: Mapping[str, str] = field(default_factory=dict)
    has_codes: bool = True


def over_http(path: str, fixed: Mapping[str, Any]) -> Send:
    def send(served: Listening, fields: dict[str, Any]) -> Refusal:
        answer = httpx.post(f"{served.url}{path}", json={**fixed, **fields})
        assert answer.status_code >= 400, answer.text
        error = answer.json()["error"]
        assert error["type"] == (
            "server_error" if answer.is_server_error else "invalid_request_error"
        )
        return Refusal(
            status=str(answer.status_code),
            code=error["code"],
            param=error["param"],
            message=error["message"],
            retry_after=answer.headers.get("retry-after"),
        )

    return send


def over_oip(wire: str) -> Send:
    def send(served: Listening, fields: dict[str, Any]) -> Refusal:
        model = fields.pop("model").partition("@")[0]
        if "signature" in fields:
            model += f":{fields.pop('signature')}"
        with connected(wire, served) as client:
            found = client.refusal(model, **fields)
        return Refusal(status=found.status, message=found.message)

    return send


def http(path: str, takes: Mapping[str, str], **options: Any) -> Protocol:
    return Protocol(
        send=over_http(path, options.get("fixed", {})), path=path, takes=takes, **options
    )


ALWAYS = {name: name for name in ("model", "signature", "seed", "first_index")}
DRAWN = ALWAYS | {"n": "n", "label": "label"}
STOPS = {"stopping_criterion": "stop"}
SAMPLES = DRAWN | STOPS | {"settings": "settings"}
SIZES = {"sizes": "sizes"}
COMPLETIONS = {
    "model": "words@1",
    "classes": "moods@1",
    "num_classes": 2,
    "no_classes": "words@1",
    "writes": "words@1",
    "inline": True,
}
OIP: dict[str, Any] = {
    "path": "/v2/models/{model}/infer",
    "takes": SAMPLES,
    "writes": "words@1",
    "inline": True,
    "has_codes": False,
}
PROTOCOLS = {
    "native": http("/v1/samples", SAMPLES | SIZES, writes="words@1"),
    "native-stream": http(
        "/v1/samples", SAMPLES | SIZES, writes="words@1", fixed={"format": "ndjson"}
    ),
    "interpolate": http(
        "/v1/interpolate",
        ALWAYS
        | SIZES
        | {"seed": "from_seed", "first_index": "index", "label": "label", "settings": "settings"},
        writes="words@1",
        fixed={"from_seed": 1, "to_seed": 2},
    ),
    "images": http("/v1/images/generations", DRAWN, fixed={"prompt": ""}),
    "speech": http(
        "/v1/audio/speech",
        ALWAYS | SIZES,
        model="voices@1",
        fixed={"input": "one", "voice": "default"},
    ),
    "completions": http("/v1/completions", SAMPLES | {"prefix": "prompt"}, **COMPLETIONS),
    "completions-stream": http(
        "/v1/completions", SAMPLES | {"prefix": "prompt"}, **COMPLETIONS, fixed={"stream": True}
    ),
    "oip": Protocol(send=over_oip("rest"), **OIP),
    "oip-grpc": Protocol(
        send=over_oip("grpc"),
        **OIP,
        statuses=GRPC_CODES,
    ),
}


@dataclass(frozen=True)
class Bad:
    """A value that no protocol takes, and what each says of it."""

    value: Any
    code: str
    message: str
    status: str = "400"
    of: str = "model"
    """Attribute of the protocol with the model to ask; the row is for those that have it."""
    beside: Mapping[str, Any] = field(default_factory=dict)
    json_only: bool = False
    """True for a value that parameters of the Open Inference Protocol cannot have."""


def texts(*row: Any, **options: Any) -> Bad:
    return Bad(*row, of="writes", **options)


N = f"n must be in [1, {MAX_N}]"
ONE_CLASS = "label must be in [0, {classes}), got"
UNKNOWN = "has no signature 'dream', it has: sample"
TABLE: dict[str, list[Bad]] = {
    "model": [Bad("none", "unknown_model", "unknown model 'none'; hosted are: ", "404")],
    "signature": [Bad("dream", "unknown_signature", UNKNOWN, "404")],
    "n": [
        *(Bad(value, "n_out_of_range", N) for value in (0, -1, MAX_N + 1, 2**63 - 1)),
        Bad(2**80, "n_out_of_range", f"got {2**80}", json_only=True),
    ],
    "seed": [
        Bad(value, "seed_out_of_range", f"seed must be in [0, 2^53), got {value}")
        for value in (-1, MAX_SEED + 1)
    ],
    "first_index": [
        Bad(value, "first_index_out_of_range", "first_index must be in") for value in (-1, MAX_SEED)
    ],
    "label": [
        *(
            Bad(value, "label_out_of_range", f"{ONE_CLASS} {value}", of="classes")
            for value in (-1, 12)
        ),
        Bad([1], "label_count", "n is 2, got 1", of="classes", beside={"n": 2}, json_only=True),
        Bad(1, "label_not_supported", "takes no label", of="no_classes"),
    ],
    "settings": [
        texts({"temperature": -1.0}, "setting_out_of_range", "a number in [0, 100], got -1"),
        texts({"top_k": 14}, "setting_out_of_range", "a whole number in [0, 13], got 14"),
        texts({"max_tokens": 0}, "setting_out_of_range", "in [1, 24], got 0"),
        texts({"max_tokens": 25}, "setting_out_of_range", "in [1, 24], got 25"),
    ],
    "sizes": [
        Bad({"h": 5}, "unknown_axis", "has no axis 'h', it has: none, its sizes are fixed"),
    ],
    "stopping_criterion": [
        texts(["a"] * 5, "stop_out_of_range", "at most 4", json_only=True),
        texts("a" * 65, "stop_out_of_range", "1 to 64 characters"),
        texts("", "stop_out_of_range", "1 to 64 characters"),
    ],
    "prefix": [
        texts("Hello", "unknown_characters", "lacks: 'H', 'l', 'o'"),
        texts("ab" * 12, "text_too_long", "at most 23 tokens long"),
    ],
}
"""Rows by the field of SamplingParams, and for what chooses the runner."""


def cases() -> Iterator[Any]:
    for name, protocol in PROTOCOLS.items():
        for parameter in TABLE.keys() & protocol.takes.keys():
            for i, bad in enumerate(TABLE[parameter]):
                fits = bad.beside.keys() <= protocol.takes.keys()
                if getattr(protocol, bad.of) and fits and (protocol.has_codes or not bad.json_only):
                    yield pytest.param(protocol, parameter, bad, id=f"{name}-{parameter}-{i}")


ABSENT = [
    pytest.param(protocol, parameter, id=f"{name}-{parameter}")
    for name, protocol in PROTOCOLS.items()
    for parameter in sorted(TABLE.keys() - protocol.takes.keys())
]


@pytest.fixture(scope="module")
def models(store: Path, colours: str, words: str, moods: str, voices: str) -> tuple[str, ...]:
    return f"{store}/tiny@1", colours, words, moods, voices


@pytest.fixture(scope="module")
def served(
    models: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Listening]:
    settings = limited(tmp_path_factory.mktemp("metrics"), max_batch=4, max_n=MAX_N)
    with listening(settings, *models) as served:
        yield served


def test_the_table_has_rows_for_every_sampling_parameter_and_route(served: Listening) -> None:
    assert TABLE.keys() == {one.name for one in fields(SamplingParams)} | {"model", "signature"}
    paths = httpx.get(f"{served.url}/openapi.json").json()["paths"]
    posts = (path for path, operations in paths.items() if "post" in operations)
    drawing = {path.replace("/versions/{version}", "") for path in posts}
    assert drawing - {"/v1/verify", "/v1/images/edits"} <= {one.path for one in PROTOCOLS.values()}


@pytest.mark.parametrize(("protocol", "parameter", "bad"), sorted(cases(), key=lambda c: c.id))
def test_every_protocol_refuses_a_bad_parameter_by_name(
    served: Listening, protocol: Protocol, parameter: str, bad: Bad
) -> None:
    param = protocol.takes[parameter]
    asked: dict[str, Any] = {"model": getattr(protocol, bad.of), **bad.beside}
    if parameter == "settings":
        asked |= bad.value if protocol.inline else {param: bad.value}
        (param,) = bad.value
    else:
        asked[param] = bad.value
    found = protocol.send(served, asked)
    assert bad.message.format(classes=protocol.num_classes) in found.message
    assert found.status == protocol.statuses.get(bad.status, bad.status)
    if protocol.has_codes:
        assert (found.code, found.param) == (bad.code, param)


@pytest.mark.parametrize(("protocol", "parameter"), ABSENT)
def test_a_protocol_without_a_parameter_refuses_it_as_unknown(
    served: Listening, protocol: Protocol, parameter: str
) -> None:
    """None is ignored in silence."""
    found = protocol.send(served, {"model": protocol.model, parameter: 1})
    assert found.status == protocol.statuses.get("400", "400")
    unknown = f"unknown field `{parameter}`", f"unknown parameter '{parameter}'"
    assert found.message.startswith(unknown) or unknown[0] in found.message


def test_every_protocol_refuses_while_the_server_is_overloaded_or_shuts_down(
    models: tuple[str, ...], metrics_dir: Path
) -> None:
    """Before a stream begins, too."""
    with listening(limited(metrics_dir, max_batch=4, max_n=MAX_N), *models) as served:
        served.probe.batcher.admission.max_queue = 0
        for code, grpc in (("overloaded", "RESOURCE_EXHAUSTED"), ("shutting_down", "UNAVAILABLE")):
            for name, protocol in PROTOCOLS.items():
                found = protocol.send(served, {"model": protocol.model})
                assert found.status == (grpc if name == "oip-grpc" else "503"), name
                if protocol.has_codes:
                    assert (found.code, found.param) == (code, None), name
                    assert int(found.retry_after or 0) >= 1, name
            served.loop.call_soon_threadsafe(served.probe.batcher.close)
