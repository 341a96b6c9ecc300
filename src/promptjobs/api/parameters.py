"""What routes take: the app's parts, ids and pages.

The dependencies are coroutines because any other function would be sent to a thread.
"""

import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Path, Query, Request
from pydantic import AfterValidator, BeforeValidator
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.api.auth import TheOrganisation
from promptjobs.api.sse import EventHub
from promptjobs.db import experiments, ownership
from promptjobs.db.results import Page
from promptjobs.db.session import Database
from promptjobs.db.transactions import reading
from promptjobs.db.vault import Vault
from promptjobs.errors import JobNotFound
from promptjobs.errors.experiments import ExperimentNotFound
from promptjobs.errors.shown import MAX_SHOWN
from promptjobs.jobs.experiments import ExperimentService
from promptjobs.jobs.service import JobService

T = TypeVar("T")

JOB_ID = re.compile(r"pl_[0-9a-f]{32}")
MAX_LIMIT = 200
MAX_OFFSET = 10_000
MAX_OWNERS = 50_000
MAX_NUMBER = 2**31 - 1
"""The largest number of an event, trial or candidate that can be stored."""

EXPERIMENT_ID = re.compile(r"exp_[0-9a-f]{32}")
EXAMPLE_ID = "pl_5b0f7c1e9d8a4b6f8c2d3e4f5a6b7c8d"
EXAMPLE_EXPERIMENT = "exp_0c4d1e7a2b9f4c6d8e3f5a7b9c1d2e4f"


async def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


async def _service(request: Request) -> JobService:
    service: JobService = request.app.state.service
    return service


async def _hub(request: Request) -> EventHub:
    hub: EventHub = request.app.state.hub
    return hub


async def _vault(request: Request) -> Vault:
    vault: Vault = request.app.state.vault
    return vault


async def _experiments(request: Request) -> ExperimentService:
    service: ExperimentService = request.app.state.experiments
    return service


TheDatabase = Annotated[Database, Depends(_database)]
TheService = Annotated[JobService, Depends(_service)]
TheHub = Annotated[EventHub, Depends(_hub)]
TheVault = Annotated[Vault, Depends(_vault)]
TheExperiments = Annotated[ExperimentService, Depends(_experiments)]


class Owners:
    """Whose jobs and experiments are whose, as far as it was asked. They never change hands; what is gone is missed
    later."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: OrderedDict[str, str] = OrderedDict()

    async def check_job(self, job_id: str, organisation: str) -> None:
        """Raises JobNotFound, for another organisation's job as well as for one that does not exist."""
        if await self._owner(job_id, ownership.organisation_of) != organisation:
            raise JobNotFound(job_id)

    async def check_experiment(self, experiment_id: str, organisation: str) -> None:
        """Raises ExperimentNotFound, in the same cases."""
        if await self._owner(experiment_id, experiments.organisation_of) != organisation:
            raise ExperimentNotFound(experiment_id)

    async def _owner(self, item_id: str, read: Callable[[AsyncConnection, str], Awaitable[str | None]]) -> str | None:
        owner = self._known.get(item_id)
        if owner is None:
            async with reading(self._database) as connection:
                owner = await read(connection, item_id)
            if owner is not None:
                self._known[item_id] = owner
                if len(self._known) > MAX_OWNERS:
                    self._known.popitem(last=False)
        return owner


async def _job_id(
    request: Request,
    organisation: TheOrganisation,
    job_id: Annotated[str, Path(description="The job's id.", examples=[EXAMPLE_ID])],
) -> str:
    """A job of the caller's. What cannot be an id is an unknown job, and never reaches the database."""
    if JOB_ID.fullmatch(job_id) is None:
        raise JobNotFound(job_id[:MAX_SHOWN])
    owners: Owners = request.app.state.owners
    await owners.check_job(job_id, organisation)
    return job_id


async def _experiment_id(
    request: Request,
    organisation: TheOrganisation,
    experiment_id: Annotated[str, Path(description="The experiment's id.", examples=[EXAMPLE_EXPERIMENT])],
) -> str:
    """As `_job_id`."""
    if EXPERIMENT_ID.fullmatch(experiment_id) is None:
        raise ExperimentNotFound(experiment_id[:MAX_SHOWN])
    owners: Owners = request.app.state.owners
    await owners.check_experiment(experiment_id, organisation)
    return experiment_id


JobId = Annotated[str, Depends(_job_id)]
ExperimentId = Annotated[str, Depends(_experiment_id)]


def _unescaped(value: Any) -> Any:
    """`+` is a space in a query: "…T12:00:00+02:00" arrives as "…T12:00:00 02:00". Numbers are no dates here."""
    if not isinstance(value, str):
        return value
    if re.match(r"\d{4}-\d\d-\d\d", value) is None:
        raise ValueError("expected an ISO 8601 date or time")
    return re.sub(r"(?<=\d) (?=\d\d:?\d\d$)", "+", value) if "T" in value else value


def _in_utc(value: datetime) -> datetime:
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        raise ValueError("the time must lie between the years 1 and 9999") from None


Since = Annotated[
    datetime | None,
    BeforeValidator(_unescaped),
    AfterValidator(lambda value: None if value is None else _in_utc(value)),
    Query(description="Only what was created then or later; ISO 8601, UTC unless it says otherwise."),
]
Limit = Annotated[int, Query(ge=1, description=f"Items of a page; more than {MAX_LIMIT} are cut to {MAX_LIMIT}.")]
Offset = Annotated[int, Query(ge=0, le=MAX_OFFSET, description="Items to skip; to go further, follow `Link`.")]
After = Annotated[
    int | None, Query(ge=0, le=MAX_NUMBER, description="Number `n` of the item behind which the page starts.")
]
CandidateId = Annotated[
    str | None, Query(pattern=r"^[A-Za-z0-9_.:-]{1,200}$", description="Only those of this candidate.")
]


async def _page(limit: Limit = 50, after: After = None, offset: Offset = 0, since: Since = None) -> Page:
    return Page(min(limit, MAX_LIMIT), after, offset, since)


ThePage = Annotated[Page, Depends(_page)]


def cut(items: Sequence[T], limit: int) -> tuple[Sequence[T], bool]:
    """A page of at most `limit` of `items`, of which one more was asked for; and whether there are more."""
    return items[:limit], len(items) > limit
