"""Groups of a job, one after the other: in the journal's one statement, and in plain inserts as the peer."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg

from common import PostgresCpu, cpu_seconds
from journal_load import LANES, SLOTS, claimed, groups_of_a_job
from promptjobs.db.journal import Group, open_session, rows_of, write_group
from promptjobs.db.journal_statement import HAS_EPOCH
from promptjobs.db.session import Database

Figures = dict[str, float]


async def one_statement(database: Database, data_dir: Path, count: int) -> Figures:
    """Groups as in a job, one after the other, each in the journal's one statement."""
    claim = await claimed(database)
    groups = groups_of_a_job(count)
    postgres = PostgresCpu(data_dir)
    connection = await database.connect()
    await open_session(connection)
    cpu, started = cpu_seconds(), time.perf_counter()
    for number, group in enumerate(groups, 1):
        assert await write_group(connection, claim.job_id, claim.epoch, number, group) is not None
    return await _of_groups(connection, count, time.perf_counter() - started, cpu_seconds() - cpu, postgres)


async def plain_inserts(database: Database, data_dir: Path, count: int) -> Figures:
    """The peer: the same rows and fence with asyncpg's executemany, a transaction a group; rows built beforehand."""
    claim = await claimed(database)
    fence = (
        "UPDATE jobs SET last_group = $3, last_seq = last_seq + $4, progress = $5 WHERE id = $1 AND epoch = $2 "
        "AND last_group = $3 - 1 AND status = 'running' RETURNING last_seq"
    )
    revoke = "UPDATE tokens SET revoked_at = clock_timestamp() WHERE digest = $1"
    prepared = [_plain(claim.job_id, claim.epoch, group) for group in groups_of_a_job(count)]
    postgres = PostgresCpu(data_dir)
    connection = await database.connect()
    await open_session(connection)
    cpu, started = cpu_seconds(), time.perf_counter()
    for number, (inserts, revoked, events, progress) in enumerate(prepared, 1):
        async with connection.transaction():
            held = await connection.fetchval(fence, claim.job_id, claim.epoch, number, events, progress)
            assert held is not None
            for insert, rows in inserts:
                await connection.executemany(insert, rows)
            await connection.executemany(revoke, revoked)
    return await _of_groups(connection, count, time.perf_counter() - started, cpu_seconds() - cpu, postgres)


def _plain(job_id: str, epoch: int, group: Group) -> tuple[list[tuple[str, list[Any]]], list[Any], int, str | None]:
    """An INSERT for each table with its rows, the revoked tokens, the number of the events, and the progress."""
    tables, progress = rows_of(group)
    first = len(tables["events"]) * group.turns[0].n // LANES
    inserts = []
    for table, rows in tables.items():
        for row in rows:
            row["job_id"] = job_id
            if table in HAS_EPOCH:
                row["epoch"] = epoch
            if table == "tokens":
                row["expires_at"] = datetime.now(UTC) + timedelta(seconds=row.pop("lifetime_seconds"))
            if table == "events":
                row["seq"] += first
            row.update((name, bytes.fromhex(row[name][2:])) for name in ("key", "digest", "chain") if name in row)
        if rows:
            names = list(rows[0])
            values = ", ".join(f"${at}" for at in range(1, len(names) + 1))
            insert = f"INSERT INTO {table}({', '.join(names)}) VALUES ({values})"
            inserts.append((insert, [tuple(row.values()) for row in rows]))
    revoked = [(digest,) for _, record in group.answers for digest in record.revoked]
    return inserts, revoked, len(tables["events"]), progress


async def _of_groups(
    connection: asyncpg.Connection, count: int, seconds: float, cpu: float, postgres: PostgresCpu
) -> Figures:
    await connection.close()
    answers = count * SLOTS
    return {
        "answers_per_second": answers / seconds,
        "cpu_us_per_answer": cpu / answers * 1e6,
        "postgres_cpu_us_per_answer": await postgres.seconds() / answers * 1e6,
        "answers_per_group": float(SLOTS),
        "groups_per_second": count / seconds,
    }
