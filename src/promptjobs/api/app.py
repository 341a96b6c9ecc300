"""The app: the API, and the interceptor beside it."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from promptjobs.api import events, health, jobs, problems, results, schemas
from promptjobs.api.auth import Access, authenticated
from promptjobs.api.middleware import RequestIds
from promptjobs.api.parameters import Owners
from promptjobs.api.rate_limits import RateLimits
from promptjobs.api.sse import EventHub, StreamTiming
from promptjobs.db.session import Database
from promptjobs.db.vault import Vault
from promptjobs.jobs.service import JobService

JOBS_PATH = "/api/prompt-learning/online/jobs"
INTERCEPTOR_PATH = "/interceptor/"

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class Service:
    """Sends calls of task apps straight to the interceptor, without the API's layers in between."""

    def __init__(self, api: FastAPI, interceptor: ASGIApp | None) -> None:
        self.api = api
        self._named = RequestIds(api)
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
    vault: Vault | None = None,
    access: Access | None = None,
    lifespan: Lifespan | None = None,
    timing: StreamTiming | None = None,
) -> Service:
    """The whole service as one ASGI app. access: who may use it; without it, whoever is on this machine.

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
        title="promptjobs",
        summary="Optimizes prompts.",
        version=version("promptjobs"),
        lifespan=whole_lifespan,
        redoc_url=None,
        responses={"4XX": {"model": schemas.Problem}, "5XX": {"model": schemas.Problem}},
    )
    api.state.database, api.state.service, api.state.hub = database, service, hub
    api.state.vault, api.state.owners = vault, Owners(database)
    api.state.access = access or Access(database, RateLimits(1000.0, 1000), is_open_without_keys=True)
    problems.install(api)
    for part in (jobs, events, results):
        api.include_router(part.router, prefix=JOBS_PATH, dependencies=[authenticated])
    api.include_router(health.router)
    return Service(api, interceptor)
