"""The app: the API, and the interceptor beside it."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from promptjobs.api import (
    candidates,
    configs,
    contract,
    docs_page,
    events,
    experiment_events,
    experiment_results,
    experiments,
    health,
    jobs,
    openapi,
    plots,
    problems,
    prometheus,
    report,
    results,
    secrets,
    traces,
    webhooks,
)
from promptjobs.api.access_log import AccessLog
from promptjobs.api.auth import Access, authenticated
from promptjobs.api.caching import compressed
from promptjobs.api.figure_turns import figure_turns
from promptjobs.api.middleware import RequestIds
from promptjobs.api.parameters import Owners
from promptjobs.api.rate_limits import RateLimits
from promptjobs.api.sse import EventHub, StreamTiming
from promptjobs.clients.http import Outgoing
from promptjobs.db.session import Database
from promptjobs.jobs.experiments import ExperimentService
from promptjobs.jobs.service import JobService
from promptjobs.jobs.webhooks import WebhookCourier
from promptjobs.plots.pictures import Pictures

ROOT_PATH = "/api/prompt-learning"
JOBS_PATH = f"{ROOT_PATH}/online/jobs"
EXPERIMENTS_PATH = "/api/experiments"
INTERCEPTOR_PATH = "/interceptor/"

OF_JOBS = (jobs, events, results, candidates, traces, report)
OF_EXPERIMENTS = (experiments, experiment_results, experiment_events)

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class Service:
    """Sends calls of task apps straight to the interceptor, without the API's layers in between."""

    def __init__(self, api: FastAPI, interceptor: ASGIApp | None) -> None:
        self.api = api
        self._named = RequestIds(AccessLog(compressed(api)))
        self._interceptor = interceptor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_intercepted = scope["type"] == "http" and scope["path"].startswith(INTERCEPTOR_PATH)
        app = self._interceptor if is_intercepted and self._interceptor is not None else self._named
        await app(scope, receive, send)


def create_app(
    *,
    database: Database,
    service: JobService,
    interceptor: ASGIApp | None = None,
    access: Access | None = None,
    courier: WebhookCourier | None = None,
    lifespan: Lifespan | None = None,
    timing: StreamTiming | None = None,
) -> Service:
    """The whole service as one ASGI app. access: who may use it; without it, whoever is on this machine.
    courier: sends webhooks; without it, none can be sent from here.

    lifespan: what has to run around it (the database, a worker); it is entered before the event streams start, and left
    after they have ended.
    """
    hub = EventHub(database, timing)

    @asynccontextmanager
    async def whole_lifespan(app: FastAPI) -> AsyncIterator[None]:
        if lifespan is None:
            async with hub.running():
                yield
        else:
            async with lifespan(app), hub.running():
                yield

    api = FastAPI(
        **openapi.options(),
        lifespan=whole_lifespan,
        # The framework would export queries and the texts of errors by itself; what is exported is for us to say.
        telemetry={"auto_configure": False, "tracing": False, "metrics": False, "logs": False},
    )
    api.state.database, api.state.service, api.state.hub = database, service, hub
    api.state.experiments = ExperimentService(database, service)
    api.state.figure_turns, api.state.pictures = figure_turns(), Pictures()
    api.state.vault, api.state.owners = service.vault, Owners(database)
    api.state.access = access or Access(database, RateLimits(1000.0, 1000), is_open_without_keys=True)
    api.state.webhooks = courier or WebhookCourier(Outgoing(), service.vault)
    problems.install(api)
    # Some clients know jobs by another path.
    for prefix, is_described in ((JOBS_PATH, True), (contract.ALIAS_PATH, False)):
        for router in (*(part.router for part in OF_JOBS), plots.jobs_router):
            api.include_router(router, prefix=prefix, dependencies=[authenticated], include_in_schema=is_described)
    for router in (*(part.router for part in OF_EXPERIMENTS), plots.experiments_router):
        api.include_router(router, prefix=EXPERIMENTS_PATH, dependencies=[authenticated])
    for prefix, part in (
        ("/api", contract),
        ("/api", secrets),
        ("/api/webhooks", webhooks),
        (f"{ROOT_PATH}/configs", configs),
    ):
        api.include_router(part.router, prefix=prefix, dependencies=[authenticated])
    for part in (health, prometheus, docs_page):
        api.include_router(part.router)
    openapi.install(api)
    return Service(api, interceptor)
