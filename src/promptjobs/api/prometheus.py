"""The metrics of this process, and those of the database, for Prometheus."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import APIRouter, Depends, Header, Request
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import Response

from promptjobs.api.auth import require_metrics_access
from promptjobs.db.fleet import Live, count_ended, read_live
from promptjobs.db.session import Database
from promptjobs.db.transactions import reading
from promptjobs.errors import DatabaseUnavailable
from promptjobs.telemetry.metrics import REGISTRY

T = TypeVar("T")

log = logging.getLogger(__name__)

router = APIRouter(tags=["operations"], dependencies=[require_metrics_access])

LIVE_SECONDS = 5.0
ENDED_SECONDS = 60.0
"""Jobs that are over are many, and counting them takes its time."""

PATIENCE_SECONDS = 3.0
OPENMETRICS = "application/openmetrics-text"
OPENMETRICS_TYPE = f"{OPENMETRICS}; version=1.0.0; charset=utf-8"
TEXT = {"schema": {"type": "string"}}


@dataclass(frozen=True, slots=True)
class Fleet:
    """live: None where the database cannot be reached. ended: as it was counted last; empty where it never was."""

    live: Live | None
    ended: Mapping[str, int]


class FleetReadings:
    """What the database says, looked up once in LIVE_SECONDS and ENDED_SECONDS, however many ask."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database, self._clock = database, clock
        self._asking = asyncio.Lock()
        self._live: Live | None = None
        self._ended: Mapping[str, int] = {}
        self._live_until = self._ended_until = -math.inf

    async def read(self) -> Fleet:
        """Never raises for a database that is away, and waits for one that is slow for a few seconds only."""
        async with self._asking:
            if self._clock() >= self._live_until:
                self._live = await self._asked(read_live)
                self._live_until = self._clock() + LIVE_SECONDS
            if self._live is not None and self._clock() >= self._ended_until:
                self._ended = await self._asked(count_ended) or self._ended
                self._ended_until = self._clock() + ENDED_SECONDS
            return Fleet(self._live, self._ended)

    async def _asked(self, question: Callable[[AsyncConnection], Awaitable[T]]) -> T | None:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS), reading(self._database) as connection:
                return await question(connection)
        except (DatabaseUnavailable, TimeoutError) as error:
            log.warning("the database cannot be measured", extra={"cause": type(error).__name__})
            return None


class Exposed(Collector):
    """Everything that one answer holds."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def collect(self) -> Iterator[Metric]:
        yield from REGISTRY.collect()
        yield from fleet_metrics(self._fleet)


def fleet_metrics(fleet: Fleet) -> Sequence[Metric]:
    """The same from every replica: not to be summed up. What is not known is left out."""
    live = fleet.live
    is_up = GaugeMetricFamily("promptjobs_database_up", "Whether the database answers.", value=live is not None)
    if live is None:
        return (is_up,)
    jobs = GaugeMetricFamily("promptjobs_jobs", "Jobs in the database.", labels=("status",))
    for status, count in {**live.jobs, **fleet.ended}.items():
        jobs.add_metric((status,), count)
    age = GaugeMetricFamily(
        "promptjobs_queue_age_seconds",
        "For how long the job has been queued that waits longest; 0 where none does.",
        value=live.queue_age_seconds,
    )
    return is_up, jobs, age


async def _readings(request: Request) -> FleetReadings:
    """The app's, made by the first who asks."""
    state = request.app.state
    if not hasattr(state, "fleet_readings"):
        state.fleet_readings = FleetReadings(state.database)
    readings: FleetReadings = state.fleet_readings
    return readings


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"description": "Prometheus' text format.", "content": {"text/plain": TEXT, OPENMETRICS: TEXT}}},
)
async def scrape_metrics(
    readings: Annotated[FleetReadings, Depends(_readings)], accept: Annotated[str, Header(include_in_schema=False)] = ""
) -> Response:
    """In OpenMetrics' form where `Accept` names it. Without the database `promptjobs_database_up` is 0, and what comes
    from there is left out."""
    exposed = Exposed(await readings.read())
    # With all the models that are told apart this takes tenths of a second, which nothing else has to wait for.
    if OPENMETRICS in accept:
        body = await asyncio.to_thread(openmetrics.generate_latest, exposed, version="1.0.0")
        return Response(body, media_type=OPENMETRICS_TYPE)
    return Response(await asyncio.to_thread(generate_latest, exposed), media_type=CONTENT_TYPE_PLAIN_0_0_4)
