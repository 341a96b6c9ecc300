"""The revisions lead to the schema of the models, back to nothing, and to the models again."""

import math
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from promptjobs.db.migrate import current_revision, head_revision, migrate
from promptjobs.db.models import Base
from promptjobs.db.session import Database
from tests.conftest import url_of

Make = Callable[[], Awaitable[Database]]

SCHEMA = {
    "columns": """
        SELECT table_name, column_name, data_type, udt_name, is_nullable, column_default, character_maximum_length
        FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'
    """,
    "constraints": """
        SELECT conrelid::regclass::text, conname, contype::text, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace
        AND conrelid::regclass::text <> 'alembic_version'
    """,
    "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
    " AND tablename <> 'alembic_version'",
    "storage": "SELECT relname, reloptions FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    " AND relname <> 'alembic_version'",
}


@pytest.fixture
async def make_empty(postgres: str) -> AsyncIterator[Make]:
    """Makes databases without a table."""
    made: list[tuple[str, Database]] = []
    home = Database.open(postgres)
    connection: asyncpg.Connection = await home.connect()

    async def make() -> Database:
        name = f"empty_{uuid.uuid4().hex[:16]}"
        await connection.execute(f"CREATE DATABASE {name}")
        made.append((name, Database.open(url_of(postgres, name))))
        return made[-1][1]

    try:
        yield make
    finally:
        for name, database in made:
            await database.close()
            await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await connection.close()
        await home.close()


async def schema_of(database: Database) -> dict[str, list[str]]:
    connection = await database.connect()
    try:
        return {part: sorted(str(tuple(row)) for row in await connection.fetch(sql)) for part, sql in SCHEMA.items()}
    finally:
        await connection.close()


async def test_up_down_and_up_again_ends_where_it_began(make_empty: Make) -> None:
    database = await make_empty()
    nothing = await schema_of(database)
    head = head_revision()
    assert head is not None
    assert await migrate(database) == (None, head)
    schema = await schema_of(database)
    assert all(schema.values())
    assert await migrate(database) == (head, head)
    assert await migrate(database, "base") == (head, None)
    assert await schema_of(database) == nothing
    assert await migrate(database) == (None, head)
    assert await schema_of(database) == schema


async def test_autogenerate_finds_nothing_to_change(database: Database) -> None:
    def differences(connection: Connection) -> list[Any]:
        assert current_revision(connection) == head_revision()
        options = {"compare_type": True, "compare_server_default": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata))

    async with database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_the_migrated_schema_is_the_one_that_the_models_create(database: Database, make_empty: Make) -> None:
    """Down to check constraints, server defaults and storage options, which autogenerate does not all compare."""
    created = await make_empty()
    async with created.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    assert await schema_of(database) == await schema_of(created)


# --- what the constraints refuse -------------------------------------------------------------------------------------

JOB = "INSERT INTO jobs(id, algorithm, status, config_sent, config, best_score) VALUES ($1, 'gepa', $2, '{}', '{}', $3)"
TRIAL = """
INSERT INTO trials(job_id, n, candidate_id, phase, is_baseline, seeds, scores, score, failed, reused, lane, generation,
                   turn)
VALUES ('pl_1', $1, 'c', 'optimization', false, '{1}', '[]', $2, 0, 0, '0', 0, 0)
"""
ROLLOUT = """
INSERT INTO rollouts(job_id, key, n, candidate_id, seed, draw, phase, is_baseline, score, reason, prompt_tokens,
                     completion_tokens, unknown_tokens, seconds, attempts, body, epoch)
VALUES ('pl_1', $1, 0, 'c', 1, 0, 'optimization', false, $2, $3, 0, 0, 0, 0, 1, '{}', 1)
"""

NO_SCORES = [math.nan, math.inf, -math.inf, -0.01, 1.01]


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """To a database with one job."""
    connection = await database.connect()
    await connection.execute(JOB, "pl_1", "running", None)
    try:
        yield connection
    finally:
        await connection.close()


async def refused(connection: asyncpg.Connection, constraint: str, sql: str, *arguments: object) -> None:
    with pytest.raises(asyncpg.CheckViolationError) as caught:
        await connection.execute(sql, *arguments)
    assert caught.value.constraint_name == constraint


@pytest.mark.parametrize("score", NO_SCORES)
async def test_what_is_no_score_is_refused(connection: asyncpg.Connection, score: float) -> None:
    """NaN too: Postgres takes it for greater than every number."""
    await refused(connection, "ck_jobs_best_score", JOB, "pl_2", "succeeded", score)
    await refused(connection, "ck_trials_score", TRIAL, 1, score)
    await refused(connection, "ck_rollouts_score", ROLLOUT, b"k", score, None)


async def test_scores_from_0_to_1_are_stored(connection: asyncpg.Connection) -> None:
    for n, score in enumerate([0.0, 1.0, 0.5, 5e-324]):
        await connection.execute(JOB, f"pl_x{n}", "succeeded", score)
        await connection.execute(TRIAL, n, score)
        await connection.execute(ROLLOUT, bytes([n]), score, None)
    await connection.execute(TRIAL, 9, None)


async def test_a_rollout_has_a_score_or_a_reason(connection: asyncpg.Connection) -> None:
    await refused(connection, "ck_rollouts_score_or_reason", ROLLOUT, b"k", None, None)
    await refused(connection, "ck_rollouts_score_or_reason", ROLLOUT, b"k", 0.5, "task_app_error")
    await connection.execute(ROLLOUT, b"k", None, "task_app_error")


@pytest.mark.parametrize("status", ["completed", "canceled", "", "RUNNING"])
async def test_a_status_that_clients_do_not_know_is_refused(connection: asyncpg.Connection, status: str) -> None:
    await refused(connection, "ck_jobs_status", JOB, "pl_2", status, None)


async def test_only_what_is_published_and_the_account_hang_on_their_job(connection: asyncpg.Connection) -> None:
    """A check for each row of the journal would halve its rate; see the decision about it."""
    found = await connection.fetch(
        "SELECT conrelid::regclass::text AS name FROM pg_constraint "
        "WHERE contype = 'f' AND confrelid = 'jobs'::regclass"
    )
    assert {row["name"] for row in found} == {"snapshots", "artifacts", "ledger"}
