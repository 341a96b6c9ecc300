"""What the journal's benchmark runs: a search that only asks, a world that answers at once, jobs to run them in."""

import asyncio
import hashlib
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from promptjobs.core.asks import (
    Answer,
    Ask,
    EventFact,
    Fact,
    Fork,
    ProgressFact,
    Rollout,
    RolloutBody,
    Step,
    Steps,
    TrialFact,
)
from promptjobs.core.lanes import Cause, Lane
from promptjobs.core.optimizer import Adopted
from promptjobs.core.prompt import Message
from promptjobs.core.trial import Phase, Trial
from promptjobs.db.connections import Connections
from promptjobs.db.journal import AnswerRecord, Group, TokenRecord, TurnRecord, body_text, open_session
from promptjobs.db.leases import Claim, claim_next
from promptjobs.db.session import Database
from promptjobs.jobs.runner import Run
from promptjobs.jobs.writer import Writer

LANES, BATCH, SLOTS = 8, 8, 64
BODY = body_text(RolloutBody((Message("user", "What did the customer ask? " * 8),), "card_arrival", "feedback " * 30))
POLICY = "0123456789abcdef0123456789abcdef"
NUMBERS = 25


@dataclass
class Flood:
    """Lanes that only ask: each turn sends one more batch and publishes as much as a search does with a trial."""

    answers: int
    search_version: int = 1
    asked: int = 0
    trials: int = 0

    def search(self, lane: Lane) -> Steps:
        yield Fork([self.lane] * LANES)

    def lane(self, lane: Lane) -> Steps:
        facts: list[Fact] = []
        while self.asked < self.answers:
            seeds = tuple(range(self.asked, self.asked + BATCH))
            self.asked += BATCH
            candidate = f"{seeds[0]:032x}"
            answers = yield Step([Rollout(candidate, seed, POLICY, Phase.OPTIMIZATION) for seed in seeds], facts)
            facts = self.published(candidate, seeds, answers)
        yield Step(facts=facts)

    def published(self, candidate: str, seeds: tuple[int, ...], answers: Sequence[Answer]) -> list[Fact]:
        self.trials += 1
        scores = tuple(answer.score for answer in answers)
        trial = Trial(self.trials, candidate, Phase.OPTIMIZATION, False, seeds, scores)
        numbers = {f"number_{i}": self.trials * i for i in range(NUMBERS)}
        return [
            TrialFact(trial),
            EventFact("prompt.learning.trial.results", "a trial", {"candidate_id": candidate, "score": trial.score}),
            EventFact("prompt.learning.progress", "progress", numbers),
            ProgressFact(numbers),
        ]

    def closing(self, lane: Lane, cause: Cause | None) -> Steps:
        yield Step()
        return self.trials

    def adopt(self, adopted: Adopted) -> None:
        raise NotImplementedError("this search never changes")


def rollout(number: int) -> Rollout:
    return Rollout(f"{number // BATCH:032x}", number, POLICY, Phase.OPTIMIZATION)


def answered(ask: Rollout, revoked: tuple[bytes, ...] = ()) -> AnswerRecord:
    answer = Answer(ask.key, ask.key[0] / 255, None, 310, 4, 0, 1e-5, 0.5)
    return AnswerRecord(ask, answer, BODY, revoked=revoked)


@dataclass
class InstantWorld:
    """Answers at once. is_bound: with a token for each rollout, which its answer revokes, as in a real job."""

    is_bound: bool = True
    digests: dict[bytes, bytes] = field(default_factory=dict)

    def observe(self, facts: Sequence[Fact]) -> None:
        pass

    def tokens(self, asks: Sequence[Ask]) -> list[TokenRecord]:
        if not self.is_bound:
            return []
        records = []
        for ask in asks:
            assert isinstance(ask, Rollout)
            digest = hashlib.sha256(secrets.token_urlsafe(24).encode()).digest()
            self.digests[ask.key] = digest
            records.append(TokenRecord(digest, ask.key, ask.candidate_id, ask.seed, ask.phase, 0, 720.0))
        return records

    async def answer(self, ask: Ask) -> AnswerRecord:
        assert isinstance(ask, Rollout)
        await asyncio.sleep(0)
        digest = self.digests.pop(ask.key, None)
        return answered(ask, (digest,) if digest else ())


def groups_of_a_job(count: int) -> list[Group]:
    """Groups as one job writes them: 64 answers that revoke the tokens before, 8 turns with their facts, 64 tokens."""
    search, world = Flood(0), InstantWorld()
    groups: list[Group] = []
    digests: list[tuple[bytes, ...]] = [()] * SLOTS
    for at in range(count):
        asks = [rollout(at * SLOTS + n) for n in range(SLOTS)]
        records = [answered(ask, revoked) for ask, revoked in zip(asks, digests, strict=True)]
        tokens = world.tokens(asks)
        digests = [(token.digest,) for token in tokens]
        turns = []
        for n in range(LANES):
            batch = records[n * BATCH : (n + 1) * BATCH]
            facts = search.published("c", tuple(range(BATCH)), [record.answer for record in batch])
            chain = hashlib.blake2b(asks[n].key, digest_size=16).digest()
            turns.append(TurnRecord(at * LANES + n, f"0.1.{n:03d}", Cause.RESUME, chain, 1, facts))
        groups.append(Group(list(enumerate(records, at * SLOTS)), turns, tokens))
    return groups


async def claimed(database: Database, job_id: str | None = None) -> Claim:
    """A new job, or a finished one once more, claimed for an hour."""
    connection = await database.connect()
    try:
        if job_id is None:
            await connection.execute(
                "INSERT INTO jobs(id, algorithm, status, config_sent, config) "
                "VALUES ($1, 'gepa', 'queued', '{}', '{}')",
                f"pl_{uuid.uuid4().hex}",
            )
        else:
            await connection.execute("UPDATE jobs SET status = 'queued' WHERE id = $1", job_id)
        claim = await claim_next(connection, "benchmark", 3600.0)
        assert claim is not None
        await connection.execute(
            "UPDATE jobs SET status = 'failed' WHERE status = 'running' AND id <> $1", claim.job_id
        )
    finally:
        await connection.close()
    return claim


def connections_of(database: Database) -> Connections:
    return Connections(database.connect, 8, open_session)


def writer_of(connections: Connections, claim: Claim, next_n: int = 0) -> Writer:
    return Writer(connections, claim.job_id, claim.epoch, claim.last_group, next_n)


def run_of(database: Database, claim: Claim, world: InstantWorld, answers: int) -> Run:
    connections = connections_of(database)
    return Run(
        job_id=claim.job_id,
        connections=connections,
        make_writer=lambda next_n: writer_of(connections, claim, next_n),
        world=world,
        make_optimizer=lambda: Flood(answers),
        rng_seed=7,
        turn_order="arrival",
        slots=SLOTS,
    )
