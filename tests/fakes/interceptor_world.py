"""What the interceptor's tests live in: a job in Postgres, a provider on loopback, the interceptor under uvicorn."""

import asyncio
import hashlib
import io
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import asyncpg
import orjson
import uvicorn
from aiohttp import web
from openai import AsyncOpenAI
from pydantic import SecretStr

from promptjobs.clients.http import Outgoing
from promptjobs.clients.providers import Providers
from promptjobs.core.ledger import Category
from promptjobs.core.prompt import PromptTemplate, Section
from promptjobs.db.calls import CallRecord, calls_of
from promptjobs.db.ledger import Ledger, Spending, read_spending
from promptjobs.db.session import Database
from promptjobs.db.vault import Vault
from promptjobs.interceptor.app import Interceptor
from tests.fakes.ledgers import running_ledger

VAULT = Vault(b"k" * 32)
PROVIDER_KEY = "sk-test-0123456789abcdef0123456789abcdef"
BASELINE = PromptTemplate((Section("system", "system", "Answer {topic} questions.", 0),), {"topic": True})
CANDIDATE = PromptTemplate((Section("system", "system", "You know all of {topic}. Be brief.", 0),), {"topic": True})
MESSAGES = [{"role": "system", "content": "Answer banking questions."}, {"role": "user", "content": "Is {topic} open?"}]
REWRITTEN = [
    {"role": "system", "content": "You know all of banking. Be brief."},
    {"role": "user", "content": "Is {topic} open?"},
]
COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o-mini",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
}

BLOCKED = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> bytes:
    """One event of a stream, in OpenAI's form."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    body = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **more}
    return b"data: " + orjson.dumps(body) + b"\n\n"


USAGE_CHUNK = chunk(usage={"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110})
STREAM = (chunk({"role": "assistant", "content": "Y"}), chunk({"content": "es."}), chunk({}, "stop"), USAGE_CHUNK)
DONE = b"data: [DONE]\n\n"


async def completes(request: web.Request) -> web.StreamResponse:
    return web.json_response(COMPLETION)


async def streams(request: web.Request) -> web.StreamResponse:
    return await stream_of([*STREAM, DONE])(request)


def stream_of(pieces: Sequence[bytes]) -> Handler:
    """Answers with these pieces, each in a packet of its own as far as the system lets us."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        await response.write_eof()
        return response

    return handler


@dataclass
class Upstream:
    """A provider whose behaviour is `handler`; it keeps what it was sent."""

    url: str = ""
    handler: Handler = completes
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(orjson.loads(await request.read()))
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        return await self.handler(request)


@asynccontextmanager
async def running_upstream() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", upstream.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    listening = listener()
    await web.SockSite(runner, listening).start()
    upstream.url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    try:
        yield upstream
    finally:
        await runner.cleanup()


def listener() -> socket.socket:
    """A listening socket on a port that the system picks: clients can connect from now on."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    return listening


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Token:
    secret: str

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.secret.encode()).digest()


@dataclass
class World:
    """A running job `pl_1` with a baseline and a candidate, its interceptor at `url`, its provider."""

    database: Database
    connection: asyncpg.Connection
    home: asyncpg.Connection
    ledger: Ledger
    interceptor: Interceptor
    upstream: Upstream
    url: str
    clock: Clock
    http: aiohttp.ClientSession

    async def token(
        self,
        candidate_id: str = "candidate",
        job_id: str = "pl_1",
        lifetime: str = "1 hour",
        phase: str = "optimization",
    ) -> Token:
        """A token in the database, of which the interceptor has not been told."""
        token = Token(secrets.token_urlsafe(24))
        await self.connection.execute(
            "INSERT INTO tokens(digest, job_id, key, candidate_id, seed, phase, attempt, epoch, expires_at) "
            "SELECT $1, $2, $3, $4, 7, $6, 1, epoch, clock_timestamp() + $5::text::interval "
            "FROM jobs WHERE id = $2",
            token.digest, job_id, b"k" * 16, candidate_id, lifetime, phase,
        )  # fmt: skip
        return token

    def url_of(self, token: Token, suffix: str = "") -> str:
        return f"{self.url}/interceptor/v1/{token.secret}{suffix}"

    @asynccontextmanager
    async def openai(self, token: Token, suffix: str = "/trace_1") -> AsyncIterator[AsyncOpenAI]:
        async with AsyncOpenAI(base_url=self.url_of(token, suffix), api_key="env-key", max_retries=0) as client:
            yield client

    async def post(self, token: Token, suffix: str = "/chat/completions", **body: Any) -> tuple[int, bytes]:
        """Status and body of a call with MESSAGES, unless `body` says otherwise."""
        return await self.send(token, orjson.dumps({"messages": MESSAGES, **body}), suffix)

    async def send(self, token: Token, raw: bytes, suffix: str = "/chat/completions") -> tuple[int, bytes]:
        async with self.http.post(self.url_of(token, suffix), data=io.BytesIO(raw)) as response:
            return response.status, await response.read()

    async def recorded(self, token: Token) -> list[CallRecord]:
        """The token's calls as soon as there is one: a client that has gone does not wait for the record."""
        async with asyncio.timeout(10):
            while not (calls := await self.calls(token)):
                pass
        return calls

    async def until_blocked(self) -> None:
        """Return when the interceptor waits for a lock that this connection's transaction holds."""
        async with asyncio.timeout(10):
            while not await self.connection.fetchval(BLOCKED):
                # Within a transaction the statistics are a snapshot, unless it is dropped.
                await self.connection.execute("SELECT pg_stat_clear_snapshot()")

    async def shut_database(self) -> None:
        """No connection to the database survives, and none can be made, until `open_database`."""
        await self.home.execute(f"ALTER DATABASE {self.name} ALLOW_CONNECTIONS false")
        await self.home.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", self.name)
        groups = (self.interceptor.meter.groups, self.interceptor.grants.groups, self.ledger.groups)
        await until(lambda: not any(group.is_up for group in groups))

    async def open_database(self) -> None:
        await self.home.execute(f"ALTER DATABASE {self.name} ALLOW_CONNECTIONS true")
        self.connection = await self.database.connect()

    @property
    def name(self) -> str:
        """The name of the database."""
        return str(self.database.engine.url.database)

    async def spending(self, job_id: str = "pl_1") -> Spending:
        return await read_spending(self.connection, job_id)

    async def calls(self, token: Token) -> list[CallRecord]:
        return (await calls_of(self.connection, [token.digest]))[token.digest]


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Let the event loop run until the condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0)


async def make_job(
    connection: asyncpg.Connection,
    job_id: str = "pl_1",
    *,
    search: Mapping[str, Any] | None = None,
    organisation: str = "default",
    **policy: Any,
) -> None:
    """A running job: candidates `baseline`, `candidate`, and `probe`, which has no prompt."""
    job_policy = {"provider": "openai", "model": "gpt-4o-mini", "temperature": 0.25, **policy}
    config = {"algorithm": "gepa", "policy": job_policy, "gepa": {"modules": [], **(search or {})}}
    await connection.execute(
        "INSERT INTO jobs(id, organisation, algorithm, status, config_sent, config, epoch, lease_until) "
        "VALUES ($1, $2, 'gepa', 'running', '{}', $3, 1, clock_timestamp() + interval '1 hour')",
        job_id, organisation, orjson.dumps(config).decode(),
    )  # fmt: skip
    await connection.execute(
        "INSERT INTO ledger(job_id, category) SELECT $1, unnest($2::text[])", job_id, [*map(str, Category)]
    )
    candidates = [("baseline", BASELINE, "baseline"), ("candidate", CANDIDATE, "baseline"), ("probe", None, None)]
    for n, (candidate_id, prompt, baseline_id) in enumerate(candidates):
        text = None if prompt is None else orjson.dumps(prompt.to_json()).decode()
        await connection.execute(
            "INSERT INTO candidates(job_id, candidate_id, n, baseline_id, prompt, parents, operator, generation, turn) "
            "VALUES ($1, $2, $3, $4, $5, '[]', 'baseline', 0, 0)",
            job_id, candidate_id, n, baseline_id, text,
        )  # fmt: skip


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """The app under uvicorn, in this event loop; yields its address."""
    listening = listener()
    config = uvicorn.Config(app, http="httptools", lifespan="off", log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def running_world(
    database: Database,
    *,
    more: Mapping[str, tuple[str, SecretStr | None]] | None = None,
    search: Mapping[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[World]:
    """A world that lives until the end of the block.

    more: providers beside its own. search: of the job's config. options: of the interceptor. Its clock is the world's,
    which stands still.
    """
    clock = Clock()
    async with AsyncExitStack() as stack:
        connection = await database.connect()
        await make_job(connection, search=search)
        # Another database on the same server, for what cannot be done from within.
        dsn = database.engine.url.set(database="promptjobs", drivername="postgresql").render_as_string(False)
        home = await asyncpg.connect(dsn)
        stack.push_async_callback(home.close)
        # A bound port on which nobody listens: connections are refused.
        nobody = stack.enter_context(socket.socket())
        nobody.bind(("127.0.0.1", 0))
        upstream = await stack.enter_async_context(running_upstream())
        outgoing = await stack.enter_async_context(Outgoing(allow_loopback=True))
        providers = Providers(
            {
                "openai": (upstream.url, SecretStr(PROVIDER_KEY)),
                "vllm": (f"http://127.0.0.1:{nobody.getsockname()[1]}/v1", None),
                **(more or {}),
            }
        )
        ledger = await stack.enter_async_context(running_ledger(database.connect))
        interceptor = Interceptor(database, outgoing, providers, ledger, vault=VAULT, clock=clock, **options)
        await interceptor.start()
        stack.push_async_callback(interceptor.stop)
        url = await stack.enter_async_context(served(interceptor))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        world = World(database, connection, home, ledger, interceptor, upstream, url, clock, http)
        try:
            yield world
        finally:
            await world.connection.close()
