"""Filters of lists by what clients keep with their jobs: `metadata.<key>=<value>` in the query."""

from typing import Annotated

from fastapi import Depends, Request

from promptjobs.errors import InvalidRequest
from promptjobs.errors.shown import MAX_SHOWN
from promptjobs.jobs.labels import MAX_KEY, MAX_LABELS, MAX_VALUE

NAME = "metadata"


async def _labels(request: Request) -> dict[str, str]:
    """Raises InvalidRequest for another form of such a filter, and for what no job can have."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name != NAME and not name.startswith((f"{NAME}.", f"{NAME}[")):
            continue
        key, param = name.removeprefix(f"{NAME}."), name[:MAX_SHOWN]
        if key == name or not 0 < len(key) <= MAX_KEY:
            raise InvalidRequest(f"a filter is metadata.<key>=<value>, the key of at most {MAX_KEY} characters", param)
        if len(value) > MAX_VALUE or "\x00" in key + value:
            raise InvalidRequest(f"expected a text of at most {MAX_VALUE} characters without NUL", param)
        if found.get(key, value) != value:
            raise InvalidRequest("is asked for twice, with different values", param)
        found[key] = value
    if len(found) > MAX_LABELS:
        raise InvalidRequest(f"expected at most {MAX_LABELS} filters, got {len(found)}", NAME)
    return found


TheLabels = Annotated[dict[str, str], Depends(_labels)]
