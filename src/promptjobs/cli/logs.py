"""Logging of the service's processes: one line per record on stderr, with its fields, and without secrets."""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from promptjobs.telemetry.context import JOB_ID, REQUEST_ID
from promptjobs.telemetry.log_redaction import redacted, redacted_value

LEVELS = ("debug", "info", "warning", "error", "critical")
CHATTY = ("aiohttp", "alembic", "asyncio", "httpcore", "httpx", "opentelemetry", "urllib3", "uvicorn")
"""Libraries that are heard from a warning on; at debug, entirely."""

STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
PLAIN = re.compile(r"[^\s\"'=\\\x00-\x1f\x7f-\x9f\u2028\u2029]+")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


class TextLines(logging.Formatter):
    """`2026-05-04T09:30:00.123Z WARNING promptjobs.jobs.worker a job's lease was lost job_id=pl_…`"""

    def format(self, record: logging.LogRecord) -> str:
        message = redacted(record.getMessage())
        parts = [
            _time(record),
            record.levelname,
            record.name,
            _escaped(message) if CONTROL.search(message) else message,
        ]
        parts += [f"{name}={_shown(value)}" for name, value in {**_bound(record), **_fields(record)}.items()]
        trace = _trace(self, record)
        if trace is not None:
            parts.append(f"trace={_escaped(trace)}")
        return " ".join(parts)


class JsonLines(logging.Formatter):
    """An object with time, level, logger and message; request_id, job_id, fields and trace where there are any."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        own: dict[str, Any] = {name: fields.pop(name) for name in ("request_id", "job_id") if name in fields}
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redacted(record.getMessage()),
            **_bound(record),
            **own,
        }
        if fields:
            line["fields"] = fields
        trace = _trace(self, record)
        if trace is not None:
            line["trace"] = trace
        return json.dumps(line)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _bound(record: logging.LogRecord) -> dict[str, str]:
    """What the record belongs to, where it does not say so itself."""
    known = {"request_id": REQUEST_ID.get(), "job_id": JOB_ID.get()}
    return {name: value for name, value in known.items() if value is not None and name not in vars(record)}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: redacted_value(name, value) for name, value in vars(record).items() if name not in STANDARD}


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str | None:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info else []
    parts += [record.stack_info] if record.stack_info else []
    return redacted("\n".join(parts)) if parts else None


def _shown(value: Any) -> str:
    text = str(value)
    return text if PLAIN.fullmatch(text) else _escaped(text)


def _escaped(text: str) -> str:
    """As a JSON string, so that it stays on its line."""
    return json.dumps(text)


def is_heard(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or record.name.partition(".")[0] not in CHATTY


def log_to_stderr(level: str, form: str = LogFormat.TEXT) -> None:
    """level: one of LEVELS. form: one of LogFormat."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if LogFormat(form) is LogFormat.JSON else TextLines())
    if level != "debug":
        handler.addFilter(is_heard)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
