"""What a service answers to one who follows a job: events, and streams of them."""

import json
from typing import Any

from promptjobs.sdk.job_requests import JOBS_PATH

URL = "http://service.test:8700"
JOB = "pl_5b0f7c1e9d8a4b6f8c2d3e4f5a6b7c8d"
STREAM = f"{URL}{JOBS_PATH}/{JOB}/events/stream"


def event(seq: int, message: str = "a message", **data: Any) -> dict[str, Any]:
    return {
        "seq": seq,
        "type": "prompt.learning.trial.results",
        "message": message,
        "level": "info",
        "data": data,
        "created_at": "2026-05-04T09:30:00.123456+00:00",
    }


def ending(seq: int, outcome: str = "complete") -> dict[str, Any]:
    """The job's last event."""
    return event(seq, "the job is over") | {"type": f"prompt.learning.gepa.{outcome}"}


def stream(*events: dict[str, Any]) -> bytes:
    parts = [
        f"id: {each['seq']}\nevent: {each['type']}\ndata: {json.dumps(each, ensure_ascii=False)}\n\n" for each in events
    ]
    return (": connected\n\n" + ": heartbeat\n\n".join(parts)).encode()
