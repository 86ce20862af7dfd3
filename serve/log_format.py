"""Format of a replica's log: text, or one JSON object per line with the request id."""

import json
import logging
import os
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal

from aigc.display import printable

COPY = "AIGC_LOG_COPY"
"""Environment variable with an existing file or pipe that gets a copy of a replica's log."""


class _Formatter(logging.Formatter):
    """Formats tracebacks without print(), for which Serve substitutes one that mangles them."""

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return "".join(traceback.format_exception(*ei)).rstrip("\n")


class JsonFormatter(_Formatter):
    """time (ISO 8601, UTC), level, logger, message; request_id and exception if present."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if getattr(record, "request_id", ""):
            fields["request_id"] = record.request_id  # type: ignore[attr-defined]
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


class TextFormatter(_Formatter):
    """The same fields as one line of text."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        # One line whatever the message quotes; only a traceback, added later, has more.
        text = super().formatMessage(record).replace("\n", "\\n")
        request_id = getattr(record, "request_id", "")
        return f"{text} (request {request_id})" if request_id else text


class Descriptors(logging.Handler):
    """Writes each record to file descriptors, or drops it if they do not accept it.

    Logging never fails a request: a full disk or a full pipe costs lines.
    """

    def __init__(self, *descriptors: int) -> None:
        super().__init__()
        self._descriptors = descriptors

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = printable(self.format(record), keep="\n\t")
            data = f"{text}\n".encode(errors="backslashreplace")
        except Exception:
            self.handleError(record)
            return
        for descriptor in self._descriptors:
            with suppress(OSError):
                rest = data
                while rest:
                    rest = rest[os.write(descriptor, rest) :]


def configure(form: Literal["text", "json"]) -> None:
    """Send this project's log, from WARNING on, to stderr in one form.

    To file descriptor 2 (Ray keeps a file of it), not `sys.stderr`, for which Serve substitutes a
    logger that drops records below its level. A copy goes to the file named by AIGC_LOG_COPY.
    """
    copy, refused = _open_copy()
    handler = Descriptors(2, *copy)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    for name in ("aigc", "serve"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.WARNING)
        logger.propagate = False
    # It would log every broken form, whose error its sender gets anyway.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    if refused:
        logging.getLogger("serve.log_format").warning("no copy of this log is written: %s", refused)


def _open_copy() -> tuple[list[int], str]:
    """Descriptors that get a copy of the log, and the reason if the file cannot be opened."""
    path = os.environ.get(COPY)
    if not path:
        return [], ""
    try:
        # O_NONBLOCK: a full pipe must not block a replica.
        flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return [os.open(path, flags)], ""
    except OSError as error:
        return [], f"{COPY}={path}: {error.strerror}"
