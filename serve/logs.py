"""A replica's log: text, or a JSON object per line with the request's id."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal


class JsonFormatter(logging.Formatter):
    """time (ISO 8601, UTC), level, logger, message; request_id and exception where there are."""

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


class TextFormatter(logging.Formatter):
    """The same for people."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        found = getattr(record, "request_id", "")
        if not found:
            return text
        first, newline, rest = text.partition("\n")
        return f"{first} (request {found}){newline}{rest}"


def configure(form: Literal["text", "json"]) -> None:
    """Send what this project logs, from WARNING on, to stderr in one form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    for name in ("aigc", "serve"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.WARNING)
        logger.propagate = False
    # Of every broken form it would say once more what its sender is told.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
