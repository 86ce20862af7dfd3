"""Requests of the command line to a server, with the key that AIGC_KEY holds. Needs no torch."""

import json
import os
import urllib.error
import urllib.request
from typing import Any

ENVIRONMENT = "AIGC_KEY"
"""Holds the secret that a server with keys asks for: options would be seen by all of a machine."""

TIMEOUT_S = 60


class AnswerError(ValueError):
    """The server's answer was no success. `status` is its number, `retry_after_s` what it asks."""

    def __init__(self, url: str, status: int, message: str, retry_after_s: float | None) -> None:
        super().__init__(f"{url} answered {status}: {message}")
        self.status = status
        self.retry_after_s = retry_after_s


def ask(url: str, body: dict[str, Any] | None = None, timeout_s: float = TIMEOUT_S) -> Any:
    """The JSON answer to a GET, or to a POST of `body`.

    Raises AnswerError for an answer that is no success, ValueError if there is none.
    """
    headers = {"content-type": "application/json"}
    if os.environ.get(ENVIRONMENT):
        headers["authorization"] = f"Bearer {os.environ[ENVIRONMENT]}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise _answer_error(url, error) from None
    except (urllib.error.URLError, TimeoutError) as error:
        reason = getattr(error, "reason", error)
        raise ValueError(f"{url} does not answer: {reason}; is `aigc serve` up?") from None


def _answer_error(url: str, error: urllib.error.HTTPError) -> AnswerError:
    try:
        message = json.load(error)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = error.reason
    if error.code == 401:
        message += f"; the environment variable {ENVIRONMENT} may hold the key"
    after = error.headers.get("retry-after", "")
    return AnswerError(url, error.code, message, float(after) if after.isdigit() else None)
