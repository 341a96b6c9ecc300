"""Finds the prompt that an argument names: a job's best one, a candidate's, or that of a snapshot."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptjobs.errors import OptionInvalid
from promptjobs.sdk.client import Client
from promptjobs.sdk.shapes import Job, Message

FORMS = "JOB, JOB:CANDIDATE or JOB@SNAPSHOT"
NAMED = re.compile(r"([^:@]+)(?:([:@])(.+))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Selected:
    """A prompt. label: as it was asked for. messages: all of them, with their placeholders. modules: of a program of
    several calls the messages of each, by module; empty for any other.
    """

    label: str
    job: Job
    messages: Sequence[Message]
    modules: Mapping[str, Sequence[Message]]


def select(client: Client, argument: str) -> Selected:
    """Raises OptionInvalid for what names no prompt, and NotFoundError for what does not exist."""
    named = NAMED.fullmatch(argument)
    if named is None:
        raise OptionInvalid(argument, f"expected {FORMS}")
    job_id, sign, part = named.groups()
    job = client.job(job_id)
    if sign == ":":
        candidate = client.candidate(job_id, part)
        return _selected(argument, job, candidate["messages"], _of_list(candidate["modules"] or ()))
    if sign == "@":
        payload = client.snapshot(job_id, part)["payload"]
        return _selected(argument, job, payload["messages"], _of_list(payload.get("modules", ())))
    published = job["best_snapshot"] or {}
    return _selected(argument, job, job["best_prompt_messages"], _of_list(published.get("modules", ())))


def _selected(
    label: str, job: Job, messages: Sequence[Message] | None, modules: Mapping[str, Sequence[Message]]
) -> Selected:
    if messages is None:
        raise OptionInvalid(label, "there is no prompt yet")
    return Selected(label, job, messages, modules)


def _of_list(modules: Sequence[Mapping[str, Any]]) -> dict[str, Sequence[Message]]:
    return {each["module_id"]: each["messages"] for each in modules}
