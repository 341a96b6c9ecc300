"""The service's log: a line for each record, with its fields, and without secrets."""

import json
import logging
import math
import re
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from promptjobs.cli.logs import JsonLines, TextLines, is_heard
from promptjobs.telemetry.context import JOB_ID, REQUEST_ID, bound


def record(
    message: str, *args: object, name: str = "promptjobs.jobs.worker", level: int = 30, **fields: Any
) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": name, "levelno": level, "levelname": logging.getLevelName(level)})
    made.msg, made.args, made.created = message, args, 1_777_887_000.5
    vars(made).update(fields)
    return made


def formatted(*args: Any, **fields: Any) -> str:
    return TextLines().format(record(*args, **fields))


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


# --- JSON ------------------------------------------------------------------------------------------------------------


def json_line(*args: Any, **fields: Any) -> dict[str, Any]:
    line = JsonLines().format(record(*args, **fields))
    assert "\n" not in line
    decoded = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert isinstance(decoded, dict)
    return decoded


def test_json_line_has_time_level_logger_message_and_fields():
    found = json_line(
        "a call failed", job_id="pl_1", seconds=0.5, ids=("a", "b"), facts={"status": 429}, cause=OSError(5)
    )
    assert found == {
        "time": "2026-05-04T09:30:00.500Z",
        "level": "warning",
        "logger": "promptjobs.jobs.worker",
        "message": "a call failed",
        "job_id": "pl_1",
        "fields": {"seconds": 0.5, "ids": ["a", "b"], "facts": {"status": 429}, "cause": "5"},
    }


def test_json_line_without_fields_has_none():
    assert set(json_line("started")) == {"time", "level", "logger", "message"}


def test_what_json_has_no_word_for_becomes_text():
    found = json_line("spent", ratio=math.nan, most=math.inf, raw=b"\xff", lone="\ud800", text="a\nb\u2028c")
    assert found["fields"] == {"ratio": "nan", "most": "inf", "raw": "\ufffd", "lone": "\ud800", "text": "a\nb\u2028c"}


def test_mapping_without_an_end_ends():
    endless: dict[str, Any] = {}
    endless["self"] = endless
    assert "{...}" in json.dumps(json_line("a call", facts=endless))


def test_traceback_is_a_field_of_the_json_line():
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        found = json_line("a job failed", exc_info=sys.exc_info())
    assert found["trace"].startswith("Traceback (most recent call last):\n")
    assert found["trace"].endswith("ValueError: first\nsecond")


# --- what a line belongs to ------------------------------------------------------------------------------------------


def test_lines_name_the_request_and_the_job_that_they_belong_to():
    with bound(REQUEST_ID, "req_1"), bound(JOB_ID, "pl_1"):
        assert formatted("a call failed", n=1).endswith("a call failed request_id=req_1 job_id=pl_1 n=1")
        assert (found := json_line("a call failed"))["request_id"] == "req_1"
        assert found["job_id"] == "pl_1"
    assert formatted("a call failed").endswith("a call failed")


def test_record_that_names_its_job_is_believed():
    with bound(JOB_ID, "pl_1"):
        assert formatted("told", job_id="pl_2").endswith("told job_id=pl_2")
        assert json_line("told", job_id="pl_2")["job_id"] == "pl_2"


# --- secrets ---------------------------------------------------------------------------------------------------------

CANARY = "canary0123456789ABCDEFcanary"
SECRETS = {
    "our own key": f"pj_{CANARY}",
    "OpenAI's": f"sk-proj-{CANARY}",
    "Anthropic's": f"sk-ant-api03-{CANARY}",
    "Groq's": f"gsk_{CANARY}",
    "Google's": f"AIza{CANARY}",
    "a webhook's": f"whsec_{CANARY}",
    "bearer": f"Bearer {CANARY}",
    "basic": f"basic  {CANARY}==",
    "a header": f"x-api-key: {CANARY}",
    "a header in Python": f"{{'X-API-Key': '{CANARY}', 'accept': '*/*'}}",
    "a header in JSON": f'{{"authorization": "{CANARY}"}}',
    "an assignment": f"GROQ_API_KEY={CANARY}",
    "a database": f"postgresql://user:{CANARY}@host/name",
    "a rollout's token": f"http://127.0.0.1:8700/interceptor/v1/{CANARY}/trace_1/chat/completions",
    "a query": f"https://host/v1/models?alt=json&key={CANARY}&page=2",
}


def in_message(secret: str) -> dict[str, Any]:
    return {"args": (f"cannot use {secret} here",), "fields": {}}


def in_arguments(secret: str) -> dict[str, Any]:
    return {"args": ("cannot use %s here", secret), "fields": {}}


def in_field(secret: str) -> dict[str, Any]:
    return {"args": ("failed",), "fields": {"cause": OSError(secret)}}


def in_nested_field(secret: str) -> dict[str, Any]:
    return {"args": ("failed",), "fields": {"facts": {"tried": [{"with": secret}], secret: 1}}}


def in_traceback(secret: str) -> dict[str, Any]:
    try:
        raise ValueError(f"first\n{secret}")
    except ValueError as error:
        try:
            raise RuntimeError("second") from error
        except RuntimeError:
            return {"args": ("failed",), "fields": {"exc_info": sys.exc_info()}}


@pytest.mark.parametrize("form", [TextLines, JsonLines])
@pytest.mark.parametrize("place", [in_message, in_arguments, in_field, in_nested_field, in_traceback])
@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_no_secret_is_legible(secret: str, place: Callable[[str], dict[str, Any]], form: type[logging.Formatter]):
    given = place(secret)
    line = form().format(record(*given["args"], **given["fields"]))
    assert CANARY not in line
    assert "canary" not in line
    assert "[redacted]" in line


@pytest.mark.parametrize(
    "name", ["api_key", "X-API-Key", "OPENAI_API_KEY", "password", "webhook_secret", "key", "token", "cookie"]
)
def test_what_is_named_like_a_secret_is_none_of_the_logs_business(name: str):
    for given in ({name: CANARY}, {"facts": {name: CANARY}}, {"facts": [{name: {"is": CANARY}}]}):
        for form in (TextLines(), JsonLines()):
            line = form.format(record("failed", **given))
            assert CANARY not in line
            assert "[redacted]" in line


@pytest.mark.parametrize(
    "text",
    [
        "job pl_0123456789abcdef0123456789abcdef has 12 prompt_tokens, key_count=3",
        "task-app asked for risk-assessment-of-a-bank, disk-usage-of-the-server",
        "http://127.0.0.1:8700/interceptor/v1",
        "candidate c_0123456789abcdef, digest 0123456789abcdef0123456789abcdef",
    ],
)
def test_what_is_no_secret_is_left_alone(text: str):
    assert text in formatted(text)


def test_lines_of_any_length_are_read_in_linear_time():
    for text in ("a" * 100_000, "?a" * 50_000, "sk-" * 40_000, "bearer " * 16_000, "://" * 40_000, "key=" * 20_000):
        began = time.perf_counter()
        formatted(text)
        assert time.perf_counter() - began < 5.0


def test_control_characters_cannot_forge_a_line():
    line = formatted("told\r2026-05-04T09:30:00.500Z ERROR \x1b[2K", n=1)
    assert re.search(r"[\x00-\x1f\x7f]", line) is None
