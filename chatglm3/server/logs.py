"""Log lines, for people or as JSON for programs, each with the id of the request it belongs to."""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from typing import Any, Literal, TypeAlias

from starlette.requests import Request

LogFormat: TypeAlias = Literal["text", "json"]

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Set at the gate; tasks of the request inherit it."""

_STANDARD = {*logging.makeLogRecord({}).__dict__, "message", "asctime"}


def configure(log_format: LogFormat) -> None:
    """Log to stderr, at level INFO and above."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if log_format == "json" else Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for chatty in ("httpx", "httpx2", "uvicorn.error"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record and its extra fields."""
        entry: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


class Text(logging.Formatter):
    """One line for people, the extra fields as name=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line, before an exception is added."""
        shown = {"method", "path", "status"}  # the message has them
        fields = [f"{name}={value}" for name, value in _fields(record).items() if name not in shown]
        return " ".join([super().formatMessage(record), *fields])


def record(request: Request) -> dict[str, Any]:
    """What the log's line of a request will say besides path and status."""
    fields: dict[str, Any] = request.scope["state"]["record"]
    return fields


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
    request_id = REQUEST_ID.get()
    return {"request_id": request_id, **fields} if request_id else fields
