"""The streams of whole experiments: the events of all their jobs on one connection, then the one that ends them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from sse_starlette import EventSourceResponse

from promptjobs.api.experiment_channel import Ending, ExperimentChannel, Merged, Seqs, chunk_of
from promptjobs.api.outages import read_at_last
from promptjobs.api.stream_readers import CONNECTED, Reader, Readers
from promptjobs.db import events, experiment_events, experiments
from promptjobs.db.session import Database
from promptjobs.db.transactions import reading
from promptjobs.errors import DatabaseUnavailable
from promptjobs.errors.experiments import ExperimentNotFound

PAGE_EVENTS = 100


class ExperimentStreams:
    """Watches the experiments that are read in this process, and serves their readers."""

    def __init__(self, database: Database, readers: Readers) -> None:
        self._database, self._readers = database, readers
        self._channels: dict[str, ExperimentChannel] = {}
        self._experiments: dict[str, str] = {}
        self._dirty: dict[str, set[int]] = {}
        self._is_dirty = asyncio.Event()

    def response(self, experiment_id: str, seqs: Mapping[int, int]) -> EventSourceResponse:
        """A stream of what follows `seqs`, the numbers of events by the positions of their jobs."""
        return self._readers.response(self.stream(experiment_id, seqs))

    async def stream(self, experiment_id: str, seqs: Mapping[int, int]) -> AsyncIterator[bytes]:
        """What follows `seqs`: what has happened, job by job, then what happens, until the event that ends it all."""
        yield CONNECTED
        sent, place = dict(seqs), 0
        async with self._reading(experiment_id) as (reader, channel):
            while not (self._readers.is_closing or channel.is_gone):
                if (position := channel.missing(sent)) is not None:
                    found = await self._stored(channel, position, sent)
                else:
                    place, found = channel.after(place, sent)
                if found:
                    sent.update((each.position, each.seq) for each in found)
                    with reader.handed(len(found)):
                        yield chunk_of(found, sent)
                elif position is not None:
                    # Events that are missing are gone only together with their experiment.
                    return
                elif channel.ending is not None:
                    await reader.pause_before_end()
                    yield channel.ending.sent
                    return
                else:
                    await channel.bell.rung()

    # --- the readers' side ---

    @asynccontextmanager
    async def _reading(self, experiment_id: str) -> AsyncIterator[tuple[Reader, ExperimentChannel]]:
        """The experiment's channel, which lives as long as it has readers."""
        if experiment_id not in self._channels:
            opened = await self._opened(experiment_id)
            if experiment_id not in self._channels:
                self._channels[experiment_id] = opened
                self._experiments.update(dict.fromkeys(opened.positions, experiment_id))
                # What was notified since it was read went to nobody.
                self._mark(experiment_id, opened.open)
        channel = self._channels[experiment_id]
        channel.readers += 1
        try:
            with self._readers.reader() as reader:
                yield reader, channel
        finally:
            channel.readers -= 1
            if channel.readers == 0:
                del self._channels[experiment_id]
                for job_id in channel.positions:
                    del self._experiments[job_id]

    async def _opened(self, experiment_id: str) -> ExperimentChannel:
        members = await read_at_last(
            self._database,
            self._readers.timing.retry_most,
            lambda connection: experiment_events.members(connection, experiment_id),
        )
        return ExperimentChannel(experiment_id, members)

    async def _stored(self, channel: ExperimentChannel, position: int, sent: Seqs) -> list[Merged]:
        """A page from the database."""
        job_id, seq = channel.jobs[position], sent.get(position, 0)
        rows = await read_at_last(
            self._database,
            self._readers.timing.retry_most,
            lambda connection: events.read_after(connection, job_id, seq, PAGE_EVENTS),
        )
        return channel.merged(rows)

    # --- the database's side ---

    def wake(self) -> None:
        """Let all readers look again."""
        for channel in self._channels.values():
            channel.bell.ring()

    def mark(self, job_id: str) -> None:
        """There is something new of the job."""
        experiment_id = self._experiments.get(job_id)
        if experiment_id is not None:
            self._mark(experiment_id, {self._channels[experiment_id].positions[job_id]})

    def _mark(self, experiment_id: str, positions: set[int]) -> None:
        self._dirty.setdefault(experiment_id, set()).update(positions)
        self._is_dirty.set()

    async def pump(self) -> None:
        """Fetch each new event once. What an outage leaves behind is found by `mark_behind`."""
        while True:
            await self._is_dirty.wait()
            self._is_dirty.clear()
            while self._dirty:
                experiment_id, positions = self._dirty.popitem()
                channel = self._channels.get(experiment_id)
                if channel is not None:
                    with contextlib.suppress(DatabaseUnavailable):
                        await self._refresh(experiment_id, channel, positions)

    async def _refresh(self, experiment_id: str, channel: ExperimentChannel, positions: set[int]) -> None:
        async with reading(self._database) as connection:
            for position in sorted(positions):
                is_full = True
                while is_full:
                    job_id, head = channel.jobs[position], channel.heads[position]
                    rows = await events.read_after(connection, job_id, head, PAGE_EVENTS)
                    if rows:
                        channel.add(rows)
                    is_full = len(rows) == PAGE_EVENTS
            if channel.open or channel.ending is not None:
                return
            # The status of a job is written together with its last event, which has been read.
            with contextlib.suppress(ExperimentNotFound):
                channel.ending = Ending.of(await experiments.read(connection, experiment_id))
                channel.bell.ring()

    async def mark_behind(self) -> None:
        """Mark the experiments of which something was missed, and end the channels of those that have been deleted.

        Raises DatabaseUnavailable.
        """
        read = list(self._channels)
        if not read:
            return
        async with reading(self._database) as connection:
            found = await experiment_events.last_seqs(connection, read)
        for experiment_id in read:
            channel = self._channels.get(experiment_id)
            if channel is None:
                continue
            if experiment_id not in found:
                channel.end()
                continue
            behind = {
                position for position, seq in found[experiment_id].items() if channel.heads.get(position, 0) < seq
            }
            if behind or not (channel.open or channel.ending):
                self._mark(experiment_id, behind)
