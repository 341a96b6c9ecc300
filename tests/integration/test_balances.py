"""Balances of organisations, by the command line and by the queries beneath it, in a real database."""

import asyncio
import json
import os
import subprocess
import sys
from decimal import Decimal
from typing import Any

import pytest

from promptjobs.cli.balance import usd_of
from promptjobs.db import balances
from promptjobs.db.balances import Balance
from promptjobs.db.session import Database
from promptjobs.db.transactions import reading, writing
from promptjobs.errors import OptionInvalid


async def balance(database: Database, *arguments: str) -> "subprocess.CompletedProcess[str]":
    code = "from promptjobs.cli.balance import balance_app; balance_app()"
    environment = {**os.environ, "PROMPTJOBS_DATABASE_URL": database.url, "COLUMNS": "200"}
    command = (sys.executable, "-c", code, *arguments)
    return await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


async def told(database: Database, *arguments: str) -> Any:
    command, *rest = arguments
    result = await balance(database, command, "--json", *rest)
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


# --- queries ---------------------------------------------------------------------------------------------------------


async def test_an_organisation_without_a_balance_has_no_limit(database: Database) -> None:
    async with writing(database) as connection:
        assert await balances.read(connection, "default") is None
        assert await balances.add(connection, "default", Decimal(1)) is None
        assert await balances.remove(connection, "default") is None
        assert await balances.read(connection, "default") is None


async def test_what_is_set_added_and_removed_is_exact_and_leaves_what_is_reserved(database: Database) -> None:
    async with writing(database) as connection:
        await balances.put(connection, "default", Decimal("0.1"))
        await balances.put(connection, "other", Decimal(7))
    plain = await database.connect()
    await plain.execute("UPDATE balances SET held_usd = 0.05 WHERE organisation = 'default'")
    await plain.close()
    async with writing(database) as connection:
        added = await balances.add(connection, "default", Decimal("0.2"))
        lowered = await balances.add(connection, "default", Decimal("-0.000000000001"))
    assert added == Balance("default", Decimal("0.3"), Decimal("0.05"))
    assert lowered == Balance("default", Decimal("0.299999999999"), Decimal("0.05"))
    async with writing(database) as connection:
        assert await balances.put(connection, "default", Decimal(2)) == Balance("default", Decimal(2), Decimal("0.05"))
        assert await balances.remove(connection, "default") == Balance("default", Decimal(2), Decimal("0.05"))
    async with reading(database) as connection:
        assert await balances.read(connection, "default") is None
        assert await balances.read(connection, "other") == Balance("other", Decimal(7), Decimal(0))


async def test_a_balance_that_is_opened_while_calls_are_under_way_knows_what_they_hold(database: Database) -> None:
    plain = await database.connect()
    await plain.execute(
        "INSERT INTO holds(id, job_id, organisation, category, tokens, usd, expires_at) VALUES "
        "('a', 'pl_1', 'default', 'policy', 1, 0.25, now()), ('b', 'pl_1', 'other', 'policy', 1, 9, now()), "
        "('c', 'pl_2', 'default', 'judge', 1, 0.5, now())"
    )
    await plain.close()
    async with writing(database) as connection:
        assert await balances.put(connection, "default", Decimal(1)) == Balance("default", Decimal(1), Decimal("0.75"))


async def test_sums_that_are_added_at_the_same_time_are_all_there(database: Database) -> None:
    async with writing(database) as connection:
        await balances.put(connection, "default", Decimal(0))

    async def add() -> None:
        async with writing(database) as connection:
            await balances.add(connection, "default", Decimal("0.01"))

    await asyncio.gather(*(add() for _ in range(20)))
    async with reading(database) as connection:
        found = await balances.read(connection, "default")
    assert found is not None
    assert found.usd == Decimal("0.20")


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_the_command_sets_adds_shows_and_removes(database: Database) -> None:
    assert await told(database, "show") == {"organisation": "default", "usd": None, "held_usd": None}
    assert await told(database, "set", "25") == {"organisation": "default", "usd": 25.0, "held_usd": 0.0}
    assert (await told(database, "add", "0.5"))["usd"] == 25.5
    assert (await told(database, "add", "--", "-25.25"))["usd"] == 0.25
    assert (await balance(database, "show")).stdout == "default: 0.25 USD left\n"
    assert (await told(database, "set", "3", "--organisation", "other"))["organisation"] == "other"
    assert (await told(database, "remove"))["usd"] is None
    assert (await balance(database, "show")).stdout == "default: no balance, so no limit\n"
    assert (await told(database, "show", "--organisation", "other"))["usd"] == 3.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["set", "lots"], "error: USD: expected a number of US dollars, got 'lots'"),
        (["set", "--", "-1"], "error: USD: expected at least 0, got '-1'"),
        (["add", "5"], "error: --organisation: organisation 'default' has no balance to add to"),
        (["set", "5", "--organisation", "a b"], "error: --organisation: expected 1 to 100 letters, digits"),
        (["set"], "Missing argument"),
    ],
)
async def test_wrong_input_is_refused_in_words_and_changes_nothing(
    database: Database, arguments: list[str], said: str
) -> None:
    result = await balance(database, *arguments)
    assert result.returncode == 2
    assert said in result.stderr
    assert result.stdout == ""
    async with reading(database) as connection:
        assert await balances.read(connection, "default") is None


@pytest.mark.slow
async def test_a_database_without_the_schema_is_told_as_such(postgres: str) -> None:
    url = postgres.replace("/promptjobs?", "/template1?")
    result = await balance(Database.open(url), "show")
    assert (result.returncode, "run `promptjobs migrate`" in result.stderr) == (2, True)


@pytest.mark.parametrize("text", ["nan", "inf", "1e10", "0.0000000000001", "", "1,5", "$5", "1_0000000000"])
def test_what_is_no_sum_is_refused(text: str) -> None:
    with pytest.raises(OptionInvalid, match="expected"):
        usd_of(text)


@pytest.mark.parametrize(
    ("text", "usd"), [("25", "25"), (" 0.50 ", "0.5"), ("1e3", "1000"), ("0.000000000001", "1e-12"), ("-2", "-2")]
)
def test_a_sum_is_read_exactly(text: str, usd: str) -> None:
    assert usd_of(text) == Decimal(usd)
