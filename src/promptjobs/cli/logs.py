"""Logging of the service's processes: one line per record on stderr, fields behind the message, no secrets."""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

LEVELS = ("debug", "info", "warning", "error", "critical")
CHATTY = ("aiohttp", "alembic", "asyncio", "httpcore", "httpx", "uvicorn")
"""Libraries that are heard from a warning on; at debug, entirely."""

STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
SECRET_NAME = re.compile(r"(?i)(^|_)(key|api_?key|token|secret|password|authorization)$")
REDACTED = "[redacted]"
SECRETS = (
    (re.compile(r"(://)[^/\s@\"']+@"), r"\1" + REDACTED + "@"),
    (re.compile(r"(/interceptor/v1/)[^/\s\"']+"), r"\1" + REDACTED),
    (re.compile(r"(?i)\b(bearer|basic) +[^\s\"',\\]+"), r"\1 " + REDACTED),
)
"""Credentials in URLs, tokens of rollouts, and headers, wherever they stand in a line."""

PLAIN = re.compile(r"[^\s\"'=\\\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class OneLine(logging.Formatter):
    """`2026-05-04T09:30:00.123Z WARNING promptjobs.jobs.worker a job's lease was lost job_id=pl_…`"""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        message = record.getMessage()
        parts = [when, record.levelname, record.name, _escaped(message) if "\n" in message else message]
        fields = {name: value for name, value in vars(record).items() if name not in STANDARD}
        parts += [f"{name}={_field(name, value)}" for name, value in fields.items()]
        if record.exc_info:
            parts.append(f"trace={_escaped(self.formatException(record.exc_info))}")
        line = " ".join(parts)
        for secret, instead in SECRETS:
            line = secret.sub(instead, line)
        return line


def _field(name: str, value: Any) -> str:
    if SECRET_NAME.search(name):
        return REDACTED
    text = str(value)
    return text if PLAIN.fullmatch(text) else _escaped(text)


def _escaped(text: str) -> str:
    """As a JSON string, so that it stays on its line."""
    return json.dumps(text)


def is_heard(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or record.name.partition(".")[0] not in CHATTY


def log_to_stderr(level: str) -> None:
    """level: one of LEVELS."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine())
    if level != "debug":
        handler.addFilter(is_heard)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
