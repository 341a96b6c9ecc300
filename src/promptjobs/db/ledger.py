"""The ledger: money and tokens are reserved before a call and settled after it, whatever becomes of the call."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import asyncpg

from promptjobs.core.ledger import Account, Amount, Caps, Category, Refusal, refusal
from promptjobs.db.groups import Groups
from promptjobs.db.ledger_statements import EXPIRE, HOLD, LIVE, LOCK, ORPHANED, SETTLE, SPENDING, THERE
from promptjobs.errors import BudgetExhausted, DatabaseUnavailable

MARGIN_SECONDS = 60.0
"""How much longer than its call may take a hold lives: `Hold.lifetime_seconds` is the call's timeout and this."""

PATIENCE_SECONDS = 5.0
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 0.25

XID = "SELECT pg_current_xact_id()::text"
STATUS = "SELECT pg_xact_status($1::text::xid8)"

# Others wait for what a transaction has locked: a process that is frozen inside of one must not keep it for long.
LIMIT_IDLENESS = "SET idle_in_transaction_session_timeout = '2s'"

Accounts = dict[str, dict[Category, Account]]
Purses = dict[str, Account]


@dataclass(frozen=True, slots=True)
class Hold:
    """What is to be reserved for one call.

    id: 16 random bytes, chosen by the caller. amount: the most that the call can use. caps: of its job.
    lifetime_seconds: the call's timeout + MARGIN_SECONDS; after that its process counts as dead.
    """

    id: bytes
    job_id: str
    organisation: str
    category: Category
    amount: Amount
    caps: Caps
    lifetime_seconds: float


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a call came out.

    hold_id: None where nothing was reserved. settled: None where usage or cost is unknown; then tokens_known are the
    tokens where those are known, else 0. calls: 0 for one that has certainly not reached the provider.
    """

    job_id: str
    category: Category
    hold_id: bytes | None
    settled: Amount | None
    tokens_known: int = 0
    calls: int = 1

    @staticmethod
    def released(hold: Hold) -> "Settlement":
        """That of a call which was not made after all."""
        return Settlement(hold.job_id, hold.category, hold.id, Amount(), calls=0)

    @property
    def tokens(self) -> int | None:
        """None where they are not known."""
        return (self.tokens_known or None) if self.settled is None else self.settled.tokens


@dataclass(frozen=True, slots=True)
class Spending:
    """What a job has spent and holds; every category has an entry. unpriced: calls whose cost is not known."""

    accounts: Mapping[Category, Account]
    calls: Mapping[Category, int]
    unpriced: Mapping[Category, int]


async def reserve(
    connection: asyncpg.Connection, holds: Sequence[Hold], holder: int | None = None
) -> list[Refusal | None]:
    """Reserve in one transaction, in this order; None where it was done, or had been done already.

    holder: the advisory lock by which the process is known to live.
    """
    async with connection.transaction():
        accounts, purses = await _lock(connection, holds)
        refusals = [_decide(hold, accounts, purses) for hold in holds]
        if any(refusals):
            # What a statement of unknown outcome has reserved stands in its own way when it is asked for again.
            asked = [hold.id for hold, refused in zip(holds, refusals, strict=True) if refused is not None]
            there = {row["id"] for row in await connection.fetch(THERE, asked)}
            refusals = [None if hold.id in there else each for hold, each in zip(holds, refusals, strict=True)]
        granted = [hold for hold, refused in zip(holds, refusals, strict=True) if refused is None]
        if granted:
            await connection.execute(HOLD, *_columns(map(_hold_row, granted)), holder)
    return refusals


async def settle(connection: asyncpg.Connection, settlements: Sequence[Settlement]) -> None:
    """Settle in one statement."""
    if settlements:
        await connection.execute(SETTLE, *_columns(map(_settlement_row, settlements)))


async def expire_holds(connection: asyncpg.Connection, orphaned: Collection[int] = ()) -> int:
    """Give up the holds of processes that died: what they reserved counts as used. Returns how many there were.

    orphaned: holders that are known to be gone; of the others those whose time is over. At most 1,000 at once, so that
    a call may have to be repeated.
    """
    expired: int = await connection.fetchval(EXPIRE, list(orphaned))
    return expired


async def orphaned_holders(connection: asyncpg.Connection) -> frozenset[int]:
    """Holders that are not connected now. One that lives connects again within a second."""
    return frozenset(row["holder"] for row in await connection.fetch(ORPHANED))


async def read_spending(connection: asyncpg.Connection, job_id: str) -> Spending:
    """What the job has come to; nothing for a job that does not exist."""
    return spending_from(await connection.fetch(SPENDING, job_id))


async def _lock(connection: asyncpg.Connection, holds: Sequence[Hold]) -> tuple[Accounts, Purses]:
    """The accounts of the jobs and the balances of the organisations, locked until the end of the transaction."""
    jobs, organisations = {hold.job_id for hold in holds}, {hold.organisation for hold in holds}
    accounts: Accounts = {job_id: {} for job_id in jobs}
    purses: Purses = {}
    for row in await connection.fetch(LOCK, list(jobs), list(organisations)):
        if row["category"] is None:
            purses[row["name"]] = Account(settled=Amount(row["usd"]), held=Amount(row["held_usd"]))
        else:
            accounts[row["name"]][Category(row["category"])] = _account(row)
    return accounts, purses


def _decide(hold: Hold, accounts: Accounts, purses: Purses) -> Refusal | None:
    """Whether the hold is refused; if it is not, it is added to what the next one sees."""
    of_job, purse = accounts[hold.job_id], purses.get(hold.organisation)
    refused = refusal(of_job, hold.caps, hold.category, hold.amount, purse)
    if refused is None:
        of_job[hold.category] = _with_held(of_job.get(hold.category, Account()), hold.amount)
        if purse is not None:
            purses[hold.organisation] = _with_held(purse, hold.amount)
    return refused


def _with_held(account: Account, amount: Amount) -> Account:
    return Account(account.settled, account.held + amount, account.unsettled)


def _account(row: Mapping[str, Any]) -> Account:
    return Account(
        settled=Amount(row["usd"], row["tokens"]),
        held=Amount(row["held_usd"], row["held_tokens"]),
        unsettled=Amount(row["unsettled_usd"], row["unsettled_tokens"]),
    )


def spending_from(rows: Iterable[Mapping[str, Any]]) -> Spending:
    """rows: of the ledger, with ACCOUNT_COLUMNS."""
    found = {Category(row["category"]): row for row in rows}
    return Spending(
        accounts={each: _account(found[each]) if each in found else Account() for each in Category},
        calls={each: found[each]["calls"] if each in found else 0 for each in Category},
        unpriced={each: found[each]["unpriced_calls"] if each in found else 0 for each in Category},
    )


def _hold_row(hold: Hold) -> tuple[bytes, str, str, str, int, Decimal, float]:
    amount = hold.amount
    return hold.id, hold.job_id, hold.organisation, hold.category, amount.tokens, amount.usd, hold.lifetime_seconds


def _settlement_row(given: Settlement) -> tuple[str, str, bytes | None, Decimal | None, int | None, int]:
    usd = None if given.settled is None else given.settled.usd
    return given.job_id, given.category, given.hold_id, usd, given.tokens, given.calls


def _columns(rows: Iterable[tuple[Any, ...]]) -> Iterable[tuple[Any, ...]]:
    return zip(*rows, strict=True)


class _Pending:
    """An item in the queue. is_done: it was committed, though its group may come again.

    xid: of the transaction that has last carried it, while its outcome is unknown.
    """

    __slots__ = ("is_done", "item", "refusal", "xid")

    def __init__(self, item: Hold | Settlement) -> None:
        self.item = item
        self.is_done = False
        self.refusal: Refusal | None = None
        self.xid: str | None = None


class Ledger:
    """Reserves and settles over a connection of its own; `groups` runs in the background.

    There is one queue for both, so that giving a reservation back never overtakes making it. The connection holds an
    advisory lock, which tells the others that the process lives.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[asyncpg.Connection]], *, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        """patience_seconds: how long a caller waits in an outage of the database."""
        self._connect = connect
        self._holder = secrets.randbits(62)
        self.groups: Groups[_Pending, Refusal | None] = Groups(
            "ledger", self._connected, self._work, _unavailable, keep=True, patience_seconds=patience_seconds
        )

    async def reserve(self, hold: Hold) -> None:
        """Return when the hold is reserved; wait, at most for the call's timeout, while other calls may free enough.

        Raises BudgetExhausted where a cap does not hold it, DatabaseUnavailable. Whatever it raises, nothing stays
        reserved.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + hold.lifetime_seconds - MARGIN_SECONDS
        pause = FIRST_PAUSE_SECONDS
        while (refused := await self._ask(hold)) is not None:
            if not refused.may_pass_later or loop.time() >= give_up_at:
                raise BudgetExhausted(refused.cap, str(refused))
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def settle(self, settlement: Settlement) -> None:
        """Return when it is committed. Raises DatabaseUnavailable after `patience_seconds`.

        It is then done all the same, when the database is back.
        """
        await self.put(settlement)

    def put(self, settlement: Settlement) -> "asyncio.Future[Refusal | None]":
        """Leave a settlement to the writer: for those who cannot wait."""
        return self.groups.put(_Pending(settlement))

    async def _connected(self) -> asyncpg.Connection:
        connection = await self._connect()
        await connection.execute(LIMIT_IDLENESS)
        await connection.fetchval(LIVE, self._holder)
        return connection

    async def _work(self, connection: asyncpg.Connection, group: Sequence[_Pending]) -> Sequence[Refusal | None]:
        """Reservations first: none comes after the settlement of its own call. Raises what asyncpg raises."""
        holds = [(each, each.item) for each in group if isinstance(each.item, Hold) and not each.is_done]
        if holds:
            refusals = await reserve(connection, [hold for _, hold in holds], self._holder)
            for (pending, _), refused in zip(holds, refusals, strict=True):
                pending.refusal, pending.is_done = refused, True
        await _settle(connection, [each for each in group if not each.is_done])
        return [each.refusal for each in group]

    async def _ask(self, hold: Hold) -> Refusal | None:
        is_told = False
        try:
            refused = await self.groups.put(_Pending(hold))
            is_told = True
        finally:
            # Nobody waits any more, or nobody can: the hold may be in the queue still.
            if not is_told:
                self.put(Settlement.released(hold))
        return refused


async def _settle(connection: asyncpg.Connection, pending: Sequence[_Pending]) -> None:
    """Settlements have no key of their own: the number of the transaction tells whether it was committed."""
    for xid in {each.xid for each in pending if each.xid is not None}:
        status = await connection.fetchval(STATUS, xid)
        if status == "in progress":
            # The connection is lost, but its backend has not noticed: to be asked again over the next one.
            raise ConnectionError("the outcome of a settlement is not known yet")
        for each in pending:
            if each.xid == xid:
                each.xid, each.is_done = None, status == "committed"
    todo = [(each, each.item) for each in pending if not each.is_done and isinstance(each.item, Settlement)]
    if todo:
        async with connection.transaction():
            xid = await connection.fetchval(XID)
            for each, _ in todo:
                each.xid = xid
            await settle(connection, [settlement for _, settlement in todo])
        for each, _ in todo:
            each.is_done = True


def _unavailable() -> DatabaseUnavailable:
    return DatabaseUnavailable("spending cannot be recorded at present: try again later")
