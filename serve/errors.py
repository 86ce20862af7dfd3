"""Errors of the HTTP API: their codes, their JSON body, and the exception that carries them.

    raise HTTPError(400, "n_out_of_range", "n must be in [1, 64], got 65", param="n")

A new code is added to the Literal of its status; the OpenAPI document lists it from there.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import msgspec

BadRequest = Literal[
    "malformed_request",
    "malformed_body",
    "malformed_header",
    "idempotency_key_malformed",
    "malformed_image",
    "malformed_sound",
    "n_out_of_range",
    "n_over_burst",
    "seed_out_of_range",
    "first_index_out_of_range",
    "frames_out_of_range",
    "frame_duration_out_of_range",
    "label_out_of_range",
    "label_count",
    "unknown_label",
    "label_not_supported",
    "format_needs_one_sample",
    "format_needs_image",
    "format_needs_sound",
    "format_needs_text",
    "signature_needs_input",
    "unknown_setting",
    "setting_out_of_range",
    "unknown_axis",
    "size_out_of_range",
    "stop_not_supported",
    "stop_out_of_range",
    "unknown_input",
    "unknown_output",
    "malformed_input",
    "inputs_count",
    "unknown_characters",
    "text_too_long",
    "input_too_long",
    "end_missing",
    "ends_twice",
    "no_effect",
    "unsupported_value",
    "unknown_prompt",
    "prompt_contradicts_label",
    "model_gives_no_image",
    "model_gives_no_sound",
    "model_gives_no_text",
    "artifact_scheme",
    "artifact_relative",
]
Unauthorized = Literal["key_needed", "unknown_key"]
Forbidden = Literal["scope_needed", "no_keys", "foreign_sender", "forbidden"]
NotFound = Literal["unknown_model", "unknown_signature", "unknown_route"]
MethodNotAllowed = Literal["method_not_allowed"]
RequestTimeout = Literal["body_too_slow"]
Conflict = Literal["artifact_refused", "artifact_differs", "target_refused"]
ContentTooLarge = Literal["body_too_large"]
UnsupportedMediaType = Literal["compressed_body", "content_type"]
UnprocessableContent = Literal["idempotency_key_reused"]
TooManyRequests = Literal["rate_limited", "concurrency_limited", "bytes_limited"]
InternalServerError = Literal["internal", "model_output"]
ServiceUnavailable = Literal[
    "overloaded",
    "not_ready",
    "shutting_down",
    "pool_unavailable",
    "unavailable",
    "replica_lost",
    "admin_busy",
    "config_unavailable",
]
GatewayTimeout = Literal["deadline_exceeded", "run_too_long"]
Unsent = Literal[
    "hung_up",
    "not_local",
    "unknown_parameter",
    "malformed_parameter",
    "malformed_data",
    "data_missing",
    "data_twice",
    "duplicate_input",
    "duplicate_output",
    "label_twice",
    "missing_input",
    "n_differs",
    "not_finite",
    "setting_twice",
    "wrong_datatype",
    "wrong_shape",
    "wrong_size",
]
"""Codes that no client receives: the Open Inference Protocol sends the message alone."""

Code = (
    BadRequest
    | Unauthorized
    | Forbidden
    | NotFound
    | MethodNotAllowed
    | RequestTimeout
    | Conflict
    | ContentTooLarge
    | UnsupportedMediaType
    | UnprocessableContent
    | TooManyRequests
    | InternalServerError
    | ServiceUnavailable
    | GatewayTimeout
    | Unsent
)


class _Status(NamedTuple):
    codes: tuple[str, ...]
    note: str = ""


CATALOG: Mapping[int, _Status] = {
    400: _Status(
        get_args(BadRequest),
        "malformed_request is HAProxy's, for what is no HTTP. The Open Inference Protocol has no"
        " codes: its message says what is wrong.",
    ),
    401: _Status(get_args(Unauthorized)),
    403: _Status(
        get_args(Forbidden),
        "no_keys and foreign_sender are for the admin routes of a server without keys, forbidden is"
        " HAProxy's.",
    ),
    404: _Status(get_args(NotFound)),
    405: _Status(get_args(MethodNotAllowed), "The Allow header lists the methods of the route."),
    408: _Status(
        get_args(RequestTimeout),
        "HAProxy answers 408 in its own words where the request's head is late.",
    ),
    409: _Status(get_args(Conflict), "The models served do not change."),
    413: _Status(get_args(ContentTooLarge)),
    415: _Status(get_args(UnsupportedMediaType)),
    422: _Status(get_args(UnprocessableContent), "The key came with a different request before."),
    429: _Status(
        get_args(TooManyRequests),
        "The first two are limits of the key's budget, bytes_limited is on the bytes its requests"
        " hold. Retry-After says when to try again.",
    ),
    500: _Status(
        get_args(InternalServerError),
        "internal: a fault of the server, explained in its log. model_output: the model gave"
        " values that its manifest rules out, such as values that are not finite.",
    ),
    503: _Status(
        get_args(ServiceUnavailable),
        "replica_lost: the request may have begun to run. admin_busy and config_unavailable are"
        " for admin routes. Retry-After says when to try again.",
    ),
    504: _Status(
        get_args(GatewayTimeout),
        "deadline_exceeded: the request could not be begun within X-Request-Timeout. run_too_long:"
        " it was in a run that exceeded limits.max_batch_seconds; it is not repeated.",
    ),
}
"""Status -> the codes that are sent with it, and a note for the OpenAPI document."""


def describe(status: int) -> str:
    """The codes of a status and their note, for the OpenAPI document."""
    *codes, last = CATALOG[status].codes
    listed = f"{', '.join(codes)} or {last}." if codes else f"{last}."
    return f"{listed} {CATALOG[status].note}".rstrip()


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """An error, its code stable and its message for people."""

    code: str
    """Stable, for programs."""
    message: str
    """One sentence, for people: the value found, the values allowed, the remedy."""
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    """OpenAI's class of the error, by the status: 429 is rate_limit_error."""
    param: str | None = None
    """Field of the request that is at fault, if one is."""


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """Body of every error response, in all protocols that leave its form to the server."""

    error: ErrorDetail


class HTTPError(Exception):
    """An error response. `code` is stable, `message` one sentence for people.

    `param` is the field of the request that is at fault, None if no single field is.
    """

    def __init__(
        self,
        status: int,
        code: Code,
        message: str,
        headers: list[tuple[bytes, bytes]] | None = None,
        *,
        param: str | None = None,
    ) -> None:
        assert code in _UNSENT or code in CATALOG[status].codes, (status, code)
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or []
        self.param = param

    def body(self) -> bytes:
        """ErrorBody as JSON."""
        detail = ErrorDetail(
            code=self.code,
            message=self.message,
            type=(
                "server_error"
                if self.status >= 500
                else "rate_limit_error"
                if self.status == 429
                else "invalid_request_error"
            ),
            param=self.param,
        )
        return msgspec.json.encode(ErrorBody(error=detail))


_UNSENT = get_args(Unsent)


def internal_error() -> HTTPError:
    """A fault of the server, whose details are in its log only."""
    return HTTPError(500, "internal", "the server failed on this request; its log says why")
