"""Kills, freezes and ends processes of the fleet at random, and watches how long clients are refused meanwhile."""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.acceptance.client import JOBS
from tests.chaos.fleet import Fleet, Member

PAUSE_SECONDS = (1.5, 5.0)
DOWN_SECONDS = (0.0, 1.5)
FROZEN_SECONDS = (1.0, 7.0)
PROBE_SECONDS = 0.1


@dataclass
class Monkey:
    """deeds: how often each was done. unclean: processes that did not end well on SIGTERM."""

    fleet: Fleet
    rng: random.Random
    deeds: Counter[str] = field(default_factory=Counter)
    unclean: list[str] = field(default_factory=list)
    enough: asyncio.Event = field(default_factory=asyncio.Event)

    async def rage(self) -> None:
        """Until it is `enough`; what was begun is finished."""
        async with asyncio.TaskGroup() as group:
            while not self.enough.is_set():
                deed = self._next()
                if deed is not None:
                    group.create_task(deed)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.rng.uniform(*PAUSE_SECONDS)):
                        await self.enough.wait()

    def _next(self) -> Coroutine[Any, Any, None] | None:
        """What to do next; None where nobody is left to do it to."""
        chosen = self.rng.randrange(16)
        if chosen < 2:
            return self._kill_postgres()
        if chosen == 2:
            return self._kill_all()
        idle = [member for member in self.fleet.members if not member.is_busy and member.is_alive]
        if not idle:
            return None
        deed = self._end_one if chosen < 5 else self._freeze_one if chosen < 9 else self._kill_one
        member = self.rng.choice(idle)
        member.is_busy = True
        return self._with(member, deed)

    async def _with(self, member: Member, deed: Callable[[Member], Awaitable[None]]) -> None:
        try:
            await deed(member)
        finally:
            member.is_busy = False

    async def _kill_one(self, member: Member) -> None:
        self._did("SIGKILL", member)
        await member.kill()
        await asyncio.sleep(self.rng.uniform(*DOWN_SECONDS))
        await member.start()

    async def _end_one(self, member: Member) -> None:
        self._did("SIGTERM", member)
        status = await member.terminate()
        if status != 0:
            self.unclean.append(f"{member.name}: status {status}")
        await member.start()

    async def _freeze_one(self, member: Member) -> None:
        self._did("SIGSTOP", member)
        member.signal(signal.SIGSTOP)
        await asyncio.sleep(self.rng.uniform(*FROZEN_SECONDS))
        member.signal(signal.SIGCONT)

    async def _kill_postgres(self) -> None:
        self.deeds["Postgres killed"] += 1
        await self.fleet.kill_postgres(self.rng.uniform(*DOWN_SECONDS))

    async def _kill_all(self) -> None:
        """As when the machine loses its power."""
        self.deeds["everything killed"] += 1
        idle = [member for member in self.fleet.members if not member.is_busy]
        async with asyncio.TaskGroup() as group:
            for member in idle:
                member.is_busy = True
                group.create_task(self._with(member, self._kill_and_start))
            await self.fleet.kill_postgres(0.0)

    async def _kill_and_start(self, member: Member) -> None:
        await member.kill()
        await member.start()

    def _did(self, what: str, member: Member) -> None:
        self.deeds[f"{what} {member.name.split()[0]}"] += 1


@dataclass
class Watch:
    """longest: for how long one replica answered nothing but 5xx, in seconds."""

    urls: list[str]
    longest: float = 0.0
    answers: Counter[str] = field(default_factory=Counter)

    async def look(self) -> None:
        """Until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            for url in self.urls:
                group.create_task(self._look_at(url))

    async def _look_at(self, url: str) -> None:
        clock = asyncio.get_running_loop().time
        refused_since: float | None = None
        async with httpx.AsyncClient(base_url=url, timeout=10) as http:
            while True:
                try:
                    status = (await http.get(JOBS, params={"limit": 1})).status_code
                except httpx.HTTPError:
                    # Killed or frozen: no answer is neither a success nor a refusal.
                    self.answers["none"] += 1
                    refused_since = None
                else:
                    self.answers[str(status)] += 1
                    if status < 500:
                        refused_since = None
                    else:
                        refused_since = clock() if refused_since is None else refused_since
                        self.longest = max(self.longest, clock() - refused_since)
                await asyncio.sleep(PROBE_SECONDS)
