"""The service's log: a line for each record, with its fields, and without secrets."""

import logging
import sys
from typing import Any

import pytest

from promptjobs.cli.logs import OneLine, is_heard


def record(
    message: str, *args: object, name: str = "promptjobs.jobs.worker", level: int = 30, **fields: Any
) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": name, "levelno": level, "levelname": logging.getLevelName(level)})
    made.msg, made.args, made.created = message, args, 1_777_887_000.5
    vars(made).update(fields)
    return made


def formatted(*args: Any, **fields: Any) -> str:
    return OneLine().format(record(*args, **fields))


def test_record_is_time_level_name_message_and_fields():
    line = formatted("a job's lease was lost", job_id="pl_1", seconds=0.5, cause='it is\n"gone"')
    assert line == (
        "2026-05-04T09:30:00.500Z WARNING promptjobs.jobs.worker a job's lease was lost "
        'job_id=pl_1 seconds=0.5 cause="it is\\n\\"gone\\""'
    )


def test_foreign_records_are_filled_in_and_stay_on_their_line():
    line = formatted("started %d\nof %s", 3, "many", color_message="colours")
    assert line.endswith('"started 3\\nof many"')


def test_traceback_stays_on_the_line():
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        line = formatted("a job failed", exc_info=sys.exc_info())
    assert "\n" not in line
    assert 'trace="Traceback (most recent call last):\\n' in line
    assert 'ValueError: first\\nsecond"' in line


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        ("a call", {"api_key": "test-key"}),
        ("a call", {"OPENAI_API_KEY": "test-key"}),
        ("a call", {"authorization": "Bearer test-key"}),
        ("a call", {"headers": {"authorization": "Bearer test-key"}}),
        ("a call", {"cause": "OSError('postgresql://user:test-key@host/name')"}),
        ("cannot reach postgresql+asyncpg://user:test-key@host/name", {}),
        ("POST http://127.0.0.1:8700/interceptor/v1/test-key/chat/completions", {}),
    ],
)
def test_secrets_are_not_in_the_log(message: str, fields: dict[str, Any]):
    line = formatted(message, **fields)
    assert "test-key" not in line
    assert "[redacted]" in line


def test_counts_of_tokens_are_no_secrets():
    assert formatted("spent", prompt_tokens=12, key_count=3).endswith("spent prompt_tokens=12 key_count=3")


@pytest.mark.parametrize(
    ("name", "level", "is_told"),
    [
        ("promptjobs.jobs.worker", logging.INFO, True),
        ("alembic.runtime.migration", logging.INFO, False),
        ("httpx", logging.INFO, False),
        ("uvicorn.error", logging.INFO, False),
        ("uvicorn.error", logging.ERROR, True),
    ],
)
def test_libraries_are_heard_when_something_is_wrong(name: str, level: int, is_told: bool):
    assert is_heard(record("said", name=name, level=level)) == is_told
