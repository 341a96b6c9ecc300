"""What a token allows: looked up in the database, kept for a second at most, revoked at once in this process."""

import hashlib
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import asyncpg
import orjson

from promptjobs.core.archive import Candidate
from promptjobs.core.asks import Key, Tier
from promptjobs.core.pipeline import ProgramPattern
from promptjobs.core.prompt import PromptTemplate
from promptjobs.core.trial import Phase
from promptjobs.db.calls import TokenState, load_config, load_prompts, load_tokens
from promptjobs.db.groups import Groups
from promptjobs.errors import CallRefused, DatabaseUnavailable, PromptError, TokenRevoked, TokenUnknown
from promptjobs.interceptor.bounded import Recent
from promptjobs.interceptor.terms import Terms

TTL_SECONDS = 1.0
PATIENCE_SECONDS = 5.0
MAX_TOKENS = 10_000
MAX_JOBS = 1_000
MAX_PROMPTS = 1_000
"""Compiled prompts, 20 KB each at worst, as a rule 1 to 4."""

UNREADABLE = (AttributeError, KeyError, TypeError, ValueError, PromptError)
SECRET = re.compile(r"[A-Za-z0-9_-]{32,128}")


@dataclass(frozen=True, slots=True)
class Swap:
    """What takes the place of what: the baseline's pattern, and the candidate's prompt."""

    pattern: ProgramPattern
    candidate: PromptTemplate


class Grant(NamedTuple):
    """What the holder of a token may do; a tuple, because one is made for each rollout.

    swap: None where the task app's messages pass unchanged.
    """

    digest: bytes
    job_id: str
    key: Key
    candidate_id: str
    seed: int
    phase: str
    attempt: int
    epoch: int
    terms: Terms
    swap: Swap | None


def boot_seconds() -> float:
    """Seconds since an arbitrary start, also while the machine is suspended: a lease goes on then."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def digest_of(secret: str) -> bytes:
    """SHA-256 of a token's secret. Raises TokenUnknown for what cannot be one."""
    if not SECRET.fullmatch(secret):
        raise TokenUnknown("the token in the URL is not one of this service")
    return hashlib.sha256(secret.encode()).digest()


class Grants:
    """Tokens and what they allow.

    A grant is used for `ttl_seconds` from the moment its question was sent to the database, and never past the job's
    lease. Questions are asked in groups, over a connection of their own.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[asyncpg.Connection]],
        *,
        ttl_seconds: float = TTL_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
        clock: Callable[[], float] = boot_seconds,
    ) -> None:
        self.groups: Groups[bytes, Grant | CallRefused] = Groups(
            "grants", connect, self._ask, _unavailable, keep=False, patience_seconds=patience_seconds
        )
        self._ttl_seconds, self._clock = ttl_seconds, clock
        self._known: Recent[bytes, tuple[Grant, float]] = Recent(MAX_TOKENS)
        self._terms: Recent[tuple[str, str, bool], Terms] = Recent(MAX_JOBS)
        self._templates: Recent[tuple[str, str], PromptTemplate | None] = Recent(MAX_PROMPTS)
        self._patterns: Recent[tuple[str, str], ProgramPattern] = Recent(MAX_JOBS)
        self._is_asking = False
        self._revoked_meanwhile: set[bytes | str] = set()

    async def get(self, digest: bytes) -> Grant:
        """Raises TokenUnknown, TokenRevoked, CallRefused for a job that cannot be used, DatabaseUnavailable."""
        known = self._known.get(digest)
        if known is not None and self._clock() < known[1]:
            return known[0]
        found = await self.groups.put(digest)
        if isinstance(found, CallRefused):
            raise found
        return found

    def admit(
        self,
        secret: str,
        *,
        job_id: str,
        key: Key,
        candidate: Candidate,
        baseline: PromptTemplate | None,
        seed: int,
        phase: Phase,
        attempt: int,
        epoch: int,
        terms: Terms,
        seconds_left: float,
    ) -> None:
        """Make a token known that this process has just committed, so that its first calls need no question.

        baseline: the template of candidate.baseline_id, None where messages pass unchanged. terms: of the rollout's
        tier. seconds_left: of the token or the lease, whichever ends first, counted from before the commit. Raises
        PromptError for a baseline that is no pattern.
        """
        digest = digest_of(secret)
        swap = None
        if candidate.baseline_id is not None and candidate.prompt is not None:
            if baseline is None:
                # Nothing may pass unchanged because somebody did not know better: the database is asked.
                return
            swap = Swap(self._pattern(job_id, candidate.baseline_id, baseline), candidate.prompt)
        grant = Grant(digest, job_id, key, candidate.candidate_id, seed, phase, attempt, epoch, terms, swap)
        self._known.put(digest, (grant, self._clock() + min(self._ttl_seconds, seconds_left)))

    def revoke(self, digests: Iterable[bytes]) -> None:
        """Forget tokens that are revoked in the database: their next call asks it."""
        for digest in digests:
            self._known.drop(digest)
            if self._is_asking:
                self._revoked_meanwhile.add(digest)

    def revoke_job(self, job_id: str) -> None:
        """Forget all tokens of a job that has ended here, or whose lease is lost."""
        self.revoke([digest for digest, (grant, _) in self._known.items() if grant.job_id == job_id])
        if self._is_asking:
            self._revoked_meanwhile.add(job_id)

    async def _ask(self, connection: asyncpg.Connection, digests: Sequence[bytes]) -> list[Grant | CallRefused]:
        """What was revoked in this process while the answer was on its way counts as revoked."""
        self._is_asking = True
        asked_at = self._clock()
        try:
            states = await load_tokens(connection, list(set(digests)))
            found = {digest: await self._read(connection, state) for digest, state in states.items()}
            self._keep(found, states, asked_at)
        finally:
            self._is_asking = False
            self._revoked_meanwhile.clear()
        return [found.get(digest) or TokenUnknown("the token in the URL is not known") for digest in digests]

    def _keep(
        self, found: dict[bytes, Grant | CallRefused], states: Mapping[bytes, TokenState], asked_at: float
    ) -> None:
        for digest, grant in found.items():
            if isinstance(grant, CallRefused):
                self._known.drop(digest)
            elif self._revoked_meanwhile & {digest, grant.job_id}:
                found[digest] = _revoked()
            else:
                until = asked_at + min(self._ttl_seconds, states[digest].seconds_left)
                self._known.put(digest, (grant, until))

    async def _read(self, connection: asyncpg.Connection, state: TokenState) -> Grant | CallRefused:
        if state.seconds_left <= 0:
            return _revoked()
        try:
            terms = await self._terms_of(connection, state)
            swap = await self._swap(connection, state)
        except UNREADABLE as exc:
            # A job that was stored by another version must not stop the calls of all the others.
            return CallRefused(f"job {state.job_id!r} cannot be served: {type(exc).__name__}")
        return Grant(
            state.digest, state.job_id, state.key, state.candidate_id, state.seed, state.phase, state.attempt,
            state.epoch, terms, swap,
        )  # fmt: skip

    async def _terms_of(self, connection: asyncpg.Connection, state: TokenState) -> Terms:
        name = (state.job_id, state.tier, state.has_balance)
        known = self._terms.get(name)
        if known is not None:
            return known
        config = await load_config(connection, state.job_id) or "{}"
        terms = Terms.stored(config, Tier(state.tier), organisation=state.organisation, has_balance=state.has_balance)
        return self._terms.put(name, terms)

    async def _swap(self, connection: asyncpg.Connection, state: TokenState) -> Swap | None:
        if state.baseline_id is None:
            return None
        wanted = [state.candidate_id, state.baseline_id]
        missing = [name for name in wanted if (state.job_id, name) not in self._templates]
        if missing:
            for name, text in (await load_prompts(connection, state.job_id, missing)).items():
                template = None if text is None else PromptTemplate.from_json(orjson.loads(text))
                self._templates.put((state.job_id, name), template)
        candidate, baseline = (self._templates[state.job_id, name] for name in wanted)
        if candidate is None:
            return None
        if baseline is None:
            raise PromptError(f"candidate {state.baseline_id!r} has no prompt that could be recognised")
        return Swap(self._pattern(state.job_id, state.baseline_id, baseline), candidate)

    def _pattern(self, job_id: str, baseline_id: str, baseline: PromptTemplate) -> ProgramPattern:
        known = self._patterns.get((job_id, baseline_id))
        return known if known is not None else self._patterns.put((job_id, baseline_id), ProgramPattern.of(baseline))


def _revoked() -> TokenRevoked:
    return TokenRevoked("the token has been revoked or has expired, or its job no longer runs here")


def _unavailable() -> DatabaseUnavailable:
    return DatabaseUnavailable("tokens cannot be checked at present: try again later")
