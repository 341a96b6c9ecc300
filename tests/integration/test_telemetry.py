"""What is counted and told as spans is what happened: the same calls, rollouts and retries as the database has."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import orjson
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from promptjobs.core.asks import Ask
from promptjobs.core.verifier import PURPOSE as JUDGE
from promptjobs.db.connections import Connections
from promptjobs.db.journal import AnswerRecord, open_session
from promptjobs.db.session import Database
from promptjobs.jobs.claims import Claims
from promptjobs.jobs.reaper import Reaper
from promptjobs.telemetry import tracing
from promptjobs.telemetry.context import JOB_ID
from promptjobs.telemetry.loop_lag import LoopLag
from promptjobs.telemetry.metrics import REGISTRY
from tests.fakes.interceptor_world import MESSAGES, completes, running_world, streams, until
from tests.fakes.journaled import Journaled, new_job
from tests.fakes.searches import Evolving
from tests.fakes.span_collector import attributes, running_collector
from tests.fakes.worlds import HashWorld
from tests.integration.test_completions import ask, has_no_text, refuses, running, says, stalls

pytestmark = pytest.mark.slow

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
POLICY = {"category": "policy", "provider": "openai", "model": "gpt-4o-mini"}
PROPOSAL = {"category": "proposal", "provider": "mine", "model": "m"}


class Change:
    """How much samples of this process have grown since the start of the block."""

    def __init__(self) -> None:
        self._before = self._now()

    def _now(self) -> Counter[tuple[str, frozenset[tuple[str, str]]]]:
        found: Counter[tuple[str, frozenset[tuple[str, str]]]] = Counter()
        for family in REGISTRY.collect():
            for sample in family.samples:
                found[sample.name, frozenset(sample.labels.items())] = sample.value  # type: ignore[assignment]
        return found

    def of(self, name: str, **labels: str) -> float:
        key = name, frozenset(labels.items())
        return self._now()[key] - self._before[key]

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """The growth of all samples with these labels, summed up by another one of their labels."""
        now, found = self._now(), Counter[str]()
        for key, value in now.items():
            if key[0] == name and set(labels.items()) <= key[1]:
                found[dict(key[1])[label]] += value - self._before[key]
        return {value: growth for value, growth in found.items() if growth}


# --- calls of task apps ----------------------------------------------------------------------------------------------


async def test_calls_of_task_apps_are_counted_as_they_are_recorded(database: Database) -> None:
    async with running_world(database) as world:
        change = Change()
        for handler, is_streamed in ((completes, False), (streams, True), (refuses(429), False), (refuses(500), False)):
            world.upstream.handler = handler
            await world.post(await world.token(), stream=is_streamed)
        await world.post(await world.token(), messages=[{"role": "user", "content": "something else"}])
        await world.post(await world.token(phase="test"))
        rows = await world.connection.fetch("SELECT phase, status, error, prompt_tokens, cost_usd, seconds FROM calls")
        assert change.by("promptjobs_calls_total", "outcome", **POLICY) == {
            "ok": 2,
            "upstream_rate_limited": 1,
            "upstream_error": 1,
            "prompt_not_matched": 1,
        }
        assert change.by("promptjobs_calls_total", "outcome", category="test") == {"upstream_error": 1}
        assert change.by("promptjobs_tokens_total", "kind", **POLICY) == {"prompt": 200, "completion": 20}
        spent = sum(row["cost_usd"] for row in rows)
        assert change.of("promptjobs_cost_usd_total", **POLICY) == pytest.approx(spent)
        assert spent > 0
        model = {"provider": "openai", "model": "gpt-4o-mini"}
        assert change.of("promptjobs_call_seconds_count", **model) == len(rows) == 6
        assert change.of("promptjobs_call_seconds_sum", **model) == pytest.approx(sum(row["seconds"] for row in rows))
        assert change.by("promptjobs_unpriced_calls_total", "category") == {}


@contextmanager
def spans(url_of_openai: str) -> Iterator[list[Span]]:
    """Those that are sent in the block; they are there when it has ended."""
    found: list[Span] = []
    with running_collector() as collector:
        assert tracing.start(collector.url, "1", {"openai": url_of_openai})
        try:
            yield found
        finally:
            tracing.stop()
            found.extend(collector.spans)
            for word in ("banking", "Answer", "Yes."):
                assert word.encode() not in b"".join(collector.raw), "prompts and replies are not recorded"


async def test_call_of_a_task_app_is_a_span_of_its_trace(database: Database) -> None:
    async with running_world(database) as world:
        world.upstream.handler = streams
        with spans(world.upstream.url) as found:
            token = await world.token()
            body = orjson.dumps({"messages": MESSAGES, "stream": True})
            url = world.url_of(token, "/chat/completions")
            async with world.http.post(url, data=body, headers={"traceparent": PARENT}) as response:
                assert response.status == 200
                await response.read()
            world.upstream.handler = refuses(500)
            await world.post(await world.token())
        answered, failed = found
        assert (answered.trace_id.hex(), answered.parent_span_id.hex()) == tuple(PARENT.split("-")[1:3])
        known = attributes(answered)
        assert known["promptjobs.cost_usd"] > 0
        assert {name: value for name, value in known.items() if name != "promptjobs.cost_usd"} == {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "gpt-4o-mini",
            "gen_ai.request.temperature": 0.25,
            "gen_ai.request.max_tokens": known["gen_ai.request.max_tokens"],
            "gen_ai.request.stream": True,
            "gen_ai.usage.input_tokens": 100,
            "gen_ai.usage.output_tokens": 10,
            "gen_ai.response.finish_reasons": ["stop"],
            "server.address": "127.0.0.1",
            "server.port": int(world.upstream.url.split(":")[2].split("/")[0]),
            "promptjobs.job_id": "pl_1",
            "promptjobs.candidate_id": "candidate",
            "promptjobs.phase": "optimization",
            "promptjobs.category": "policy",
        }
        assert attributes(failed)["error.type"] == "upstream_error"
        assert failed.parent_span_id == b""


# --- the optimizer's own calls ---------------------------------------------------------------------------------------


async def test_every_attempt_at_a_completion_is_a_call(database: Database) -> None:
    change = Change()
    async with running(database, refuses(429), refuses(503), says(finish="stop")) as world:
        with spans("http://127.0.0.1") as found:
            await world.completions.answer(ask())
            world.handlers[:] = [has_no_text]
            await world.completions.answer(ask(draw=1))
            world.handlers[:] = [says()]
            await world.completions.answer(ask(JUDGE, draw=2))
        settled = (await world.account()).settled
    assert change.by("promptjobs_calls_total", "outcome", **PROPOSAL) == {
        "upstream_rate_limited": 1,
        "upstream_error": 2,
        "ok": 1,
    }
    assert change.by("promptjobs_calls_total", "outcome", category="judge") == {"ok": 1}
    assert change.by("promptjobs_tokens_total", "kind", **PROPOSAL) == {"prompt": 2_000, "completion": 200}
    assert change.of("promptjobs_cost_usd_total", **PROPOSAL) == pytest.approx(float(settled.usd))
    assert change.by("promptjobs_retries_total", "kind") == {"provider_error": 2}
    errors = [attributes(span).get("error.type") for span in found]
    assert errors == ["upstream_error", "upstream_error", None, "upstream_error", None]
    assert [attributes(span)["promptjobs.category"] for span in found] == ["proposal"] * 4 + ["judge"]
    assert attributes(found[2])["gen_ai.usage.input_tokens"] == 1_000


async def test_attempts_that_come_to_nothing_count_by_what_became_of_them(database: Database) -> None:
    change = Change()
    async with running(database, stalls) as world:
        answering = asyncio.create_task(world.completions.answer(ask()))
        await world.arrived.wait()
        answering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answering
        await world.completions.answer(ask(timeout=0.05))
        await world.completions.answer(ask(provider="down"))
    assert change.by("promptjobs_calls_total", "outcome", provider="mine") == {"interrupted": 1, "upstream_timeout": 2}
    assert change.by("promptjobs_calls_total", "outcome", provider="down") == {"upstream_unreachable": 1}
    assert change.by("promptjobs_unpriced_calls_total", "provider") == {"mine": 3}
    assert change.by("promptjobs_retries_total", "kind") == {"timeout": 1}


# --- jobs ------------------------------------------------------------------------------------------------------------


class Noting(HashWorld):
    """Notes the job that an ask belongs to, as a log line would."""

    def __init__(self, failing: float) -> None:
        super().__init__(failing=failing)
        self.noted: set[str | None] = set()

    async def answer(self, ask: Ask) -> AnswerRecord:
        self.noted.add(JOB_ID.get())
        return await super().answer(ask)


async def test_rollouts_count_once_however_often_their_job_is_resumed(database: Database) -> None:
    change = Change()
    job = Journaled(database, await new_job(database), lambda: Evolving(lanes=4, budget=80))
    world = Noting(failing=0.2)
    await job.run(world)
    await job.run(Noting(failing=0.2))
    rows = await job.fetch(
        "SELECT phase, coalesce(reason, 'ok') AS outcome, count(*) FROM rollouts WHERE job_id = $1 GROUP BY 1, 2"
    )
    counted = {
        (phase, outcome): count
        for phase in ("bootstrap", "optimization", "validation", "test")
        for outcome, count in change.by("promptjobs_rollouts_total", "outcome", phase=phase).items()
    }
    assert counted == {(row["phase"], row["outcome"]): row["count"] for row in rows}
    assert ("optimization", "task_app_error") in counted
    assert world.noted == {job.job_id}
    assert JOB_ID.get() is None


async def test_lost_leases_and_reaped_jobs_are_counted(database: Database) -> None:
    change = Change()
    connection = await database.connect()
    connections = Connections(database.connect, 2, open_session)
    try:
        await new_job(database)
        claims = Claims(connections, database.connect, "worker-1", 60.0, lambda _: None)
        held = await claims.claim()
        assert held is not None
        await connection.execute("UPDATE jobs SET lease_until = clock_timestamp() - interval '1 ms'")
        await reaped(database, connection)
        held.lose()
        await claims.let_go(held)
        claims.ended(held)
    finally:
        connections.close()
        await connection.close()
    assert change.of("promptjobs_reaped_jobs_total") == 1
    assert change.of("promptjobs_leases_lost_total") == 1


async def reaped(database: Database, connection: asyncpg.Connection) -> None:
    """Return when a reaper has put the job back."""
    told = asyncio.Event()
    await connection.add_listener("promptjobs_jobs", lambda *_: told.set())
    reaper = Reaper(database.connect, lease_seconds=1.0)
    reaping = asyncio.create_task(reaper.run())
    try:
        async with asyncio.timeout(20):
            await told.wait()
    finally:
        reaper.stop()
        await reaping


async def test_loop_that_is_held_up_shows() -> None:
    change = Change()
    lag = LoopLag(every_seconds=0.01)
    running = asyncio.create_task(lag.run())
    await until(lambda: change.of("promptjobs_event_loop_lag_seconds_count") >= 1)
    free_again = time.perf_counter() + 0.1
    while time.perf_counter() < free_again:
        pass  # a task that does not give way
    await until(lambda: change.of("promptjobs_event_loop_lag_seconds_sum") >= 0.08)
    lag.stop()
    await running
