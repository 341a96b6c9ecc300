"""The interceptor as an ASGI app: what task apps call in place of their model's provider."""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import asyncpg
import orjson

from promptjobs.clients.http import Outgoing
from promptjobs.clients.pricing import load_prices
from promptjobs.clients.providers import OwnKeys, Providers, prepare_body
from promptjobs.db.ledger import Ledger
from promptjobs.db.session import Database
from promptjobs.db.vault import Vault
from promptjobs.errors import (
    CallBudgetExhausted,
    CallerGone,
    CallInvalid,
    CallTooLarge,
    EndpointUnknown,
    MethodNotAllowed,
    PromptError,
    PromptjobsError,
    ProviderNotConfigured,
    SecretUnreadable,
)
from promptjobs.interceptor.forward import TIMEOUT_SECONDS, Upstream, Upstreams, complete
from promptjobs.interceptor.grants import PATIENCE_SECONDS, TTL_SECONDS, Grant, Grants, boot_seconds, digest_of
from promptjobs.interceptor.keyring import Keyring
from promptjobs.interceptor.meter import INTERRUPTED, Call, Meter, Outcome
from promptjobs.interceptor.relay import Relay
from promptjobs.interceptor.request import MAX_BODY_BYTES, Request, check_tools, read_request
from promptjobs.interceptor.reservation import Reservations
from promptjobs.interceptor.rewrite import JsonObject, plain_messages, rewrite
from promptjobs.interceptor.wire import JSON_TYPE, Headers, Receive, Scope, Send, error_body, read_body, send_reply
from promptjobs.telemetry import tracing

PREFIX = "/interceptor/v1/"
OTHER_ENDPOINTS = frozenset(
    {"audio", "completions", "embeddings", "files", "images", "messages", "moderations", "responses"}
)
"""First segments of OpenAI's and Anthropic's other endpoints, which must not be taken for a correlation id."""

USUAL = re.compile(rf"{PREFIX}([A-Za-z0-9_-]{{32,128}})(?:/([^/]+))?/chat/completions")
"""The path of nearly every call: the token, a correlation id or not."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Route:
    digest: bytes
    lists_models: bool


def read_route(method: str, path: str, query: bytes) -> Route:
    """Which token is meant, in every form of URL that clients make of the one they were given.

    {PREFIX}{secret}[/{correlation id}] with /v1, /chat/completions or both after it, also twice; the query, which
    some clients append the path to, does not matter. Raises EndpointUnknown, MethodNotAllowed, TokenUnknown.
    """
    usual = USUAL.fullmatch(path) if method == "POST" and not query else None
    if usual is not None and usual[2] not in OTHER_ENDPOINTS:
        return Route(digest_of(usual[1]), lists_models=False)
    if not path.startswith(PREFIX):
        raise EndpointUnknown(f"the path must be {PREFIX}<token>/chat/completions")
    secret, *rest = [segment for segment in path[len(PREFIX) :].split("/") if segment] or [""]
    digest = digest_of(secret)
    if rest[-1:] == ["models"] or query.rstrip(b"/").endswith(b"/models"):
        if method != "GET":
            raise MethodNotAllowed(method, "GET")
        return Route(digest, lists_models=True)
    while rest[-1:] == ["v1"] or rest[-2:] == ["chat", "completions"]:
        del rest[-1 if rest[-1] == "v1" else -2 :]
    if len(rest) > 1 or OTHER_ENDPOINTS.intersection(rest):
        raise EndpointUnknown(f"/{'/'.join(rest)} is not offered: only chat completions and models are")
    if method != "POST":
        raise MethodNotAllowed(method, "POST")
    return Route(digest, lists_models=False)


class Interceptor:
    """Checks the token, swaps the prompt, forwards, meters.

    `start` before the first call, `stop` after the last; `wait` raises if the background work fails. `grants` is where
    a worker in this process makes tokens known and revokes them.
    """

    grants: Grants
    meter: Meter

    def __init__(
        self,
        database: Database,
        outgoing: Outgoing,
        providers: Providers,
        ledger: Ledger,
        *,
        vault: Vault,
        token_ttl_seconds: float = TTL_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
        timeout_seconds: float = TIMEOUT_SECONDS,
        clock: Callable[[], float] = boot_seconds,
    ) -> None:
        """ledger: runs from before `start` until after `stop`. patience_seconds: how long a call waits in an outage of
        the database. timeout_seconds: for the provider.
        """
        self._database, self._outgoing = database, outgoing
        self._upstreams = Upstreams(providers)
        self._timeout_seconds = timeout_seconds
        self.grants = Grants(
            self._connect, ttl_seconds=token_ttl_seconds, patience_seconds=patience_seconds, clock=clock
        )
        self.meter = Meter(self._connect, patience_seconds=patience_seconds)
        self._keyring = Keyring(self._connect, vault, patience_seconds=patience_seconds, clock=clock)
        self._ledger = ledger
        self._reservations = Reservations(ledger, self.grants, timeout_seconds)
        self._background: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect. Raises DatabaseUnavailable or MeteringUnavailable where the database cannot be reached."""
        await asyncio.to_thread(load_prices)
        self._background = asyncio.create_task(self._work(), name="interceptor")
        try:
            await self.grants.groups.wait_up()
            await self.meter.groups.wait_up()
            await self._keyring.groups.wait_up()
            await self._ledger.groups.wait_up()
        except PromptjobsError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Write what is still to be recorded, for a few seconds at most, and disconnect. Raises like `wait`."""
        self.grants.groups.stop()
        self.meter.groups.stop()
        self._keyring.groups.stop()
        await self.wait()

    async def wait(self) -> None:
        """Return after `stop`; raise what has ended the background work before."""
        if self._background is not None:
            await asyncio.shield(self._background)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise EndpointUnknown(f"the interceptor speaks http, not {scope['type']}")
        started = time.perf_counter()
        try:
            route = read_route(scope["method"], scope["path"], scope.get("query_string", b""))
            grant = await self.grants.get(route.digest)
            if route.lists_models:
                await send_reply(send, 200, _models(grant), [JSON_TYPE])
            else:
                traceparent = tracing.traceparent_of(scope["headers"])
                call = Call(self.meter, grant, grant.terms.policy, started, traceparent=traceparent)
                await self._serve(call, receive, send)
        except CallerGone:
            pass
        except PromptjobsError as exc:
            await _send_error(send, exc)

    async def _serve(self, call: Call, receive: Receive, send: Send) -> None:
        """A call with a valid token. One that is refused is recorded too: the job's user has to learn of it."""
        try:
            request = read_request(await read_body(receive, MAX_BODY_BYTES))
            call.streamed = request.streamed
            call.messages = _text(request.messages)
        except (CallInvalid, CallTooLarge) as exc:
            await self._record_refusal(call, exc)
            raise
        await self.meter.groups.wait_up()
        grant, terms = call.grant, call.grant.terms
        own = await self._keyring.keys(grant.job_id, grant.epoch, terms.organisation, terms.use_byok)
        # The body may have taken its time, and so may the database: from here on nothing is awaited before the call
        # but its reservation, after which the grant is asked for once more.
        call.grant = await self.grants.get(call.grant.digest)
        try:
            body, upstream = self._prepared(call, request, own)
            raw = orjson.dumps(body)
            if call.grant.terms.is_limited:
                await self._reservations.make(call, body, len(raw), receive)
        except (PromptError, CallInvalid, ProviderNotConfigured, SecretUnreadable, CallBudgetExhausted) as exc:
            await self._record_refusal(call, exc)
            raise
        try:
            await self._forward(call, request, upstream, raw, receive, send)
        finally:
            if not call.is_put:
                call.put(INTERRUPTED)

    async def _record_refusal(self, call: Call, exc: PromptjobsError) -> None:
        # Not in an outage: what nobody has paid for must not pile up in memory.
        await self.meter.groups.wait_up()
        await call.record(Outcome(_status(exc), error=f"{exc.code}: {exc}", may_cost=False, is_sent=False))

    async def _forward(
        self, call: Call, request: Request, upstream: Upstream, body: bytes, receive: Receive, send: Send
    ) -> None:
        if request.streamed:
            relay = Relay(self._outgoing, upstream, call, receive, send)
            await relay.run(body, wants_usage=request.wants_usage, timeout_seconds=self._timeout_seconds)
            return
        answer = await complete(self._outgoing, upstream, body, self._timeout_seconds)
        await call.record(answer.outcome)
        await send_reply(send, answer.status, answer.body, answer.headers)

    def _prepared(self, call: Call, request: Request, own: OwnKeys) -> tuple[JsonObject, Upstream]:
        """The body to send, its messages in JSON already, and whereto. own: keys of the job's organisation.

        Raises PromptNotMatched, ToolNotAllowed, ProviderNotConfigured, SecretUnreadable.
        """
        grant = call.grant
        if grant.swap is not None:
            program, candidate = grant.swap.pattern, grant.swap.candidate
            found = program.undivided or program.find(plain_messages(request.messages[: program.longest]))
            call.policy = grant.terms.policy_for(found.module)
            allowed = grant.terms.tools.get(found.module)
            if allowed is not None:
                check_tools(request.body, found.module, allowed)
            messages = rewrite(request.messages, found.pattern, candidate.part(found.module))
            call.messages = _text(messages)
        upstream = self._upstreams.get(call.policy.provider, own)
        body = request.under(call.policy)
        # The messages are encoded once, for the provider and for the record.
        body["messages"] = orjson.Fragment(call.messages)
        return prepare_body(upstream.provider, body), upstream

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.grants.groups.run())
            tasks.create_task(self.meter.groups.run())
            tasks.create_task(self._keyring.groups.run())

    async def _connect(self) -> asyncpg.Connection:
        return await self._database.connect("promptjobs-interceptor")


def _status(exc: PromptjobsError) -> int:
    """The status for a task app: clients must not take a refusal for something that a retry mends."""
    return 400 if isinstance(exc, PromptError | SecretUnreadable) or exc.status == 422 else exc.status


async def _send_error(send: Send, exc: PromptjobsError) -> None:
    status = _status(exc)
    headers: Headers = [JSON_TYPE]
    if isinstance(exc, MethodNotAllowed):
        headers.append((b"allow", exc.allowed.encode()))
    if status == 503:
        headers.append((b"retry-after", b"1"))
    param = exc.param if isinstance(exc, CallInvalid) else None
    kind = "invalid_request_error" if status < 500 else "server_error"
    await send_reply(send, status, error_body(str(exc), exc.code, kind, param), headers)


def _models(grant: Grant) -> bytes:
    """The job's model first, then those that modules have instead."""
    policies = (grant.terms.policy, *grant.terms.modules.values())
    named = dict.fromkeys((policy.model, policy.provider) for policy in policies)
    models = [{"id": model, "object": "model", "created": 0, "owned_by": provider} for model, provider in named]
    return orjson.dumps({"object": "list", "data": models})


def _text(messages: Sequence[JsonObject]) -> str:
    return orjson.dumps(messages).decode()
