"""The stream of an experiment over real HTTP: every event of every job, each job's in order, then one end."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import httpx
import pytest

from promptjobs import AsyncClient
from promptjobs.api.app import EXPERIMENTS_PATH, JOBS_PATH, create_app
from promptjobs.api.channel import RECENT_EVENTS
from promptjobs.api.sse import StreamTiming
from promptjobs.db.session import Database
from promptjobs.sdk.experiment_following import ExperimentEvent
from tests.fakes.experiment_streams import Http, Running, all_of, id_of, keys, reading, whole, written_experiment
from tests.fakes.experiments import new_experiment as created
from tests.fakes.recorded_jobs import job_service
from tests.fakes.served import Served, served

pytestmark = pytest.mark.slow

QUICK = StreamTiming(terminal_delay=0.05, read_seconds=0.0, sweep=3600.0)
"""Nothing is found by the sweep."""

Serve = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
def serve(database: Database) -> Serve:
    def app(timing: StreamTiming = QUICK) -> AbstractAsyncContextManager[Served]:
        return served(create_app(database=database, service=job_service(database), timing=timing))

    return app


@pytest.fixture
async def three(database: Database) -> Running:
    return await written_experiment(database, 3)


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=30) as client:
        yield client


# --- what is sent ----------------------------------------------------------------------------------------------------


async def test_history_comes_first_then_what_happens_then_the_one_event_that_ends_it(
    serve: Serve, http: Http, three: Running
) -> None:
    await three.write(2, 2)
    async with serve() as here, reading(http, here, three) as stream:
        history = [await anext(stream) for _ in range(5)]
        assert keys(history) == [(1, 1), (2, 1), (2, 2), (2, 3), (3, 1)]
        for position in (3, 1, 3):
            await three.write(position)
            assert (await anext(stream)).event["position"] == position
        await three.end(1, 3)
        await three.end(2, outcome="failed")
        *rest, last = [each async for each in stream]
    assert sorted(keys(rest)) == [(1, 3), (2, 4), (3, 4)]
    assert (id_of(last), last.event) == (
        "end",
        {
            "experiment_id": three.experiment_id,
            "type": "experiment.completed",
            "message": "The experiment is completed: 2 of 3 jobs have succeeded.",
            "status": "completed",
            "counts": {
                "pending": 0,
                "queued": 0,
                "running": 0,
                "paused": 0,
                "succeeded": 2,
                "failed": 1,
                "cancelled": 0,
            },
        },
    )
    assert "event: experiment.completed\n" in last.block


async def test_each_event_is_the_jobs_own_with_its_place(serve: Serve, http: Http, three: Running) -> None:
    await three.write(1)
    async with serve() as here, reading(http, here, three) as stream:
        received = [await anext(stream) for _ in range(2)]
        page = (await http.get(f"{here.base_url}{JOBS_PATH}/{three.jobs[0]}/events")).json()["events"]
    place = {"experiment_id": three.experiment_id, "position": 1, "label": "job \u2028 1"}
    assert [each.event for each in received] == [each | place for each in page]
    assert all("\u2028" not in each.block for each in received)
    assert all(f"\nevent: {each.event['type']}\n" in f"\n{each.block}" for each in received)


async def test_the_end_says_how_the_experiment_has_ended(serve: Serve, http: Http, database: Database) -> None:
    async with serve() as here:
        for outcomes, status in (
            (("failed", "failed"), "failed"),
            (("failed", "cancelled", "complete"), "completed"),
            (("cancelled", "cancelled"), "cancelled"),
        ):
            running = await written_experiment(database, len(outcomes))
            for position, outcome in enumerate(outcomes, 1):
                await running.end(position, outcome=outcome)
            last = (await all_of(http, here, running))[-1].event
            assert (last["type"], last["status"]) == (f"experiment.{status}", status)
            assert sum(last["counts"].values()) == len(outcomes)


async def test_the_end_comes_alone_half_a_second_after_the_others(serve: Serve, http: Http, three: Running) -> None:
    await three.end_all()
    async with serve(StreamTiming()) as here:
        *others, last = await all_of(http, here, three)
    assert len(others) == 6
    assert last.arrived - others[-1].arrived >= 0.45


@pytest.mark.slow
async def test_two_hundred_jobs_are_followed_on_one_connection_by_many(
    serve: Serve, http: Http, database: Database
) -> None:
    running = await written_experiment(database, 200)
    async with serve() as here, asyncio.TaskGroup() as tasks:
        readers = [tasks.create_task(all_of(http, here, running)) for _ in range(2)]

        async def work(first: int) -> None:
            for position in range(first, 201, 4):
                await running.write(position, 3)
                await running.end(position)

        async with asyncio.TaskGroup() as workers:
            for first in range(1, 5):
                workers.create_task(work(first))
            readers.append(tasks.create_task(all_of(http, here, running)))
    expected = whole(dict.fromkeys(range(1, 201), 5))
    for reader in readers:
        received = reader.result()
        assert received[-1].event["type"] == "experiment.completed"
        found = keys(received)
        assert sorted(found) == expected
        by_job = [seq for position in (1, 77, 200) for at, seq in found if at == position]
        assert by_job == 3 * [1, 2, 3, 4, 5]
        assert max(len(id_of(each) or "") for each in received) < 2_000


@pytest.mark.slow
async def test_a_history_longer_than_what_is_kept_is_sent_whole(serve: Serve, http: Http, three: Running) -> None:
    await three.write(1, RECENT_EVENTS + 100)
    async with serve() as here, reading(http, here, three) as stream:
        first = [await anext(stream) for _ in range(RECENT_EVENTS + 103)]
        for position in (1, 2, 3):
            await three.write(position, RECENT_EVENTS)
        await three.end_all()
        received = first + [each async for each in stream]
    assert sorted(keys(received)) == whole(await three.last_seqs())
    for position in (1, 2, 3):
        seqs = [seq for at, seq in keys(received) if at == position]
        assert seqs == sorted(seqs)


# --- where it starts -------------------------------------------------------------------------------------------------


async def test_a_stream_resumes_at_every_point_without_a_loss(serve: Serve, http: Http, three: Running) -> None:
    """At each id a reader comes back, and finds exactly what lies behind it."""
    await three.write(1, 3)
    async with serve() as here:
        async with reading(http, here, three) as stream:
            received = [await anext(stream) for _ in range(6)]
            for position in (2, 3, 1):
                await three.write(position)
                received.append(await anext(stream))
        await three.end_all()
        seqs = await three.last_seqs()
        ids = [(at, cursor) for at, each in enumerate(received) if (cursor := id_of(each)) is not None]
        assert len(ids) >= 6
        for at, cursor in ids:
            behind = set(whole(seqs)) - set(keys(received[: at + 1]))
            for request in ({"headers": {"Last-Event-ID": cursor}}, {"params": {"cursor": cursor}}):
                resumed = await all_of(http, here, three, **request)
                assert sorted(keys(resumed)) == sorted(behind)
                assert resumed[-1].event["type"] == "experiment.completed"


async def test_what_happened_while_a_reader_was_away_is_sent_when_it_comes_back(
    serve: Serve, http: Http, three: Running
) -> None:
    async with serve() as here:
        async with reading(http, here, three) as stream:
            received = [await anext(stream) for _ in range(3)]
        await three.write(1, 150)
        await three.end(1, 2)
        async with reading(http, here, three, headers={"Last-Event-ID": id_of(received[-1])}) as stream:
            received += [await anext(stream) for _ in range(152)]
            await three.end(3)
            received += [each async for each in stream]
    assert sorted(keys(received)) == whole(await three.last_seqs())
    assert len(keys(received)) == len(set(keys(received)))


async def test_nothing_follows_the_end(serve: Serve, http: Http, three: Running) -> None:
    await three.end_all()
    async with serve() as here:
        *_, before, last = await all_of(http, here, three)
        for request in ({"headers": {"Last-Event-ID": id_of(last)}}, {"params": {"cursor": "end"}}):
            answer = await http.get(here.base_url + three.path, **request)  # type: ignore[arg-type]
            assert (answer.status_code, answer.content) == (204, b"")
        # One who has all events of the jobs, but not the end, is told the end.
        resumed = await all_of(http, here, three, headers={"Last-Event-ID": id_of(before)})
        assert [each.event["type"] for each in resumed] == ["experiment.completed"]


async def test_a_cursor_that_is_no_place_in_the_stream_is_refused(serve: Serve, http: Http, three: Running) -> None:
    """Waiting for what follows an event that does not exist would be waiting for ever."""
    async with serve() as here:
        for cursor in ("x", "1", "1:", "1:2", "4:1", "0:1", "1:1.1:1", "1:1.", "end", "1:²", "9" * 9000):
            answer = await http.get(here.base_url + three.path, headers={"Last-Event-ID": cursor.encode()})
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), cursor
            assert answer.json()["param"] == "Last-Event-ID"
            answer = await http.get(here.base_url + three.path, params={"cursor": cursor})
            assert answer.status_code == 422
            assert answer.json()["param"] in ("cursor", "query.cursor")


async def test_an_unknown_experiment_is_told_before_the_stream_begins(serve: Serve, http: Http, three: Running) -> None:
    async with serve() as here:
        for unknown in (f"exp_{'f' * 32}", three.jobs[0], "x"):
            answer = await http.get(f"{here.base_url}{EXPERIMENTS_PATH}/{unknown}/events/stream")
            assert (answer.status_code, answer.json()["code"]) == (404, "experiment_not_found")


# --- the client ------------------------------------------------------------------------------------------------------


async def test_the_client_follows_through_a_restart_of_the_service(serve: Serve, database: Database) -> None:
    """Each event once, though what a broken chunk held is sent again."""
    made = await created(database, matrix={"algorithm": ["gepa"], "seed": [1, 2, 3]})
    running = Running(database, made.row.id, [job.id for job in made.jobs])
    await running.write(2, 30)
    told: list[ExperimentEvent] = []
    async with serve() as here, AsyncClient(here.base_url, "") as client:
        following = client.follow_experiment(running.experiment_id)
        told += [await anext(following) for _ in range(10)]
    await running.end(1, 2)
    async with serve() as here, AsyncClient(here.base_url, "") as client:
        following = client.follow_experiment(running.experiment_id, told[-1].cursor)
        again = [await anext(following) for _ in range(3)]
        await running.end(3)
        again += [event async for event in following]
        shown = await client.wait_for_experiment(running.experiment_id, 10.0)
    assert [event.is_terminal for event in again] == [False] * (len(again) - 1) + [True]
    found = {(event.position or 0, event.seq or 0) for event in [*told, *again[:-1]]}
    assert sorted(found) == whole(await running.last_seqs())
    assert [event.label for event in told[:1]] == [made.jobs[0].experiment_label]
    assert (again[-1].data["status"], shown["status"]) == ("completed", "completed")
    assert again[-1].data["counts"] == shown["counts"]
