"""`promptjobs balance`: shows and changes what an organisation may spend, in the database of the settings."""

import re
from collections.abc import Awaitable, Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from promptjobs.cli.exits import EXIT_CODES, Output, reported
from promptjobs.cli.text import write_json
from promptjobs.errors import OptionInvalid

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from promptjobs.db.balances import Balance

    Work = Callable[[AsyncConnection], Awaitable[Balance | None]]

LARGEST_USD = Decimal(10**9)
DECIMALS = 12
"""As many as the ledger keeps."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

balance_app = typer.Typer(
    no_args_is_help=True,
    epilog=EXIT_CODES,
    help="What an organisation may still spend. One without a balance may spend without a limit.",
)

Usd = Annotated[str, typer.Argument(metavar="USD", help="A sum of US dollars, as 25 or 0.50.")]
Organisation = Annotated[str, typer.Option(help="Whose balance it is.")]
DataDir = Annotated[Path | None, typer.Option(help="Where the embedded database is.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Only JSON on stdout.")]


@balance_app.command(epilog=EXIT_CODES)
def show(organisation: Organisation = "default", data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show what is left, and what calls under way have reserved of it.

    Like all of these commands it works on the database of
    PROMPTJOBS_DATABASE_URL, or else on the embedded one.
    """
    with reported(Console(stderr=True)):

        async def read(connection: "AsyncConnection") -> "Balance | None":
            from promptjobs.db import balances

            return await balances.read(connection, organisation)

        _print(organisation, _carried_out(read, organisation, data_dir), as_json=as_json)


@balance_app.command("set", epilog=EXIT_CODES)
def put(usd: Usd, organisation: Organisation = "default", data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Set what is left, whatever it was. From then on the organisation's jobs end when it is used up.

    A job whose models have no known price can then not be created. One that
    is running already comes under the limit within a second, its calls of
    meta-models when a worker claims it the next time.

    \b
    promptjobs balance set 25
    """
    with reported(Console(stderr=True)):
        amount = usd_of(usd)
        if amount < 0:
            raise OptionInvalid("USD", f"expected at least 0, got {usd!r}")

        async def set_to(connection: "AsyncConnection") -> "Balance | None":
            from promptjobs.db import balances

            return await balances.put(connection, organisation, amount)

        _print(organisation, _carried_out(set_to, organisation, data_dir), as_json=as_json)


@balance_app.command(epilog=EXIT_CODES)
def add(usd: Usd, organisation: Organisation = "default", data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Add to what is left. A sum below 0 stands after two dashes, and takes something away.

    \b
    promptjobs balance add 10
    promptjobs balance add -- -2.50
    """
    with reported(Console(stderr=True)):
        amount = usd_of(usd)

        async def raise_by(connection: "AsyncConnection") -> "Balance | None":
            from promptjobs.db import balances

            return await balances.add(connection, organisation, amount)

        found = _carried_out(raise_by, organisation, data_dir)
        if found is None:
            said = f"organisation {organisation!r} has no balance to add to: `promptjobs balance set` gives it one"
            raise OptionInvalid("--organisation", said)
        _print(organisation, found, as_json=as_json)


@balance_app.command(epilog=EXIT_CODES)
def remove(organisation: Organisation = "default", data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Lift the limit: the organisation may spend without one. Repeating it changes nothing."""
    with reported(Console(stderr=True)):

        async def lift(connection: "AsyncConnection") -> None:
            from promptjobs.db import balances

            await balances.remove(connection, organisation)

        _print(organisation, _carried_out(lift, organisation, data_dir), as_json=as_json)


def usd_of(text: str) -> Decimal:
    """A sum as it was typed. Raises OptionInvalid for what is none, or is finer or larger than the ledger keeps."""
    try:
        amount = Decimal(text.strip())
    except InvalidOperation:
        raise OptionInvalid("USD", f"expected a number of US dollars, got {text[:40]!r}") from None
    if not amount.is_finite() or abs(amount) > LARGEST_USD:
        raise OptionInvalid("USD", f"expected at most {LARGEST_USD:,} US dollars, got {text[:40]!r}")
    if amount != round(amount, DECIMALS):
        raise OptionInvalid("USD", f"expected at most {DECIMALS} decimal places, got {text[:40]!r}")
    return amount


def _carried_out(work: "Work", organisation: str, data_dir: Path | None) -> "Balance | None":
    """The result of `work` in one transaction. Raises OptionInvalid, EmbeddedPostgresFailed, DatabaseUnavailable."""
    from promptjobs.cli.database import carried_out

    if not NAME.fullmatch(organisation):
        raise OptionInvalid(
            "--organisation", f"expected 1 to 100 letters, digits, '.', '_' or '-', got {organisation!r}"
        )
    return carried_out(work, data_dir)


def _print(organisation: str, balance: "Balance | None", *, as_json: bool) -> None:
    if as_json:
        known = {"usd": None, "held_usd": None} if balance is None else _numbers(balance)
        write_json({"organisation": organisation, **known})
        return
    said = "no balance, so no limit"
    if balance is not None:
        said = f"{_shown(balance.usd)} USD left"
        if balance.held_usd:
            said += f", {_shown(balance.held_usd)} of it reserved by calls under way"
    Output().print(Text(f"{organisation}: {said}"), soft_wrap=True)


def _numbers(balance: "Balance") -> dict[str, float]:
    return {"usd": float(balance.usd), "held_usd": float(balance.held_usd)}


def _shown(usd: Decimal) -> str:
    """With two decimal places, and more where there are more."""
    plain = f"{usd:f}"
    whole, _, cents = plain.partition(".")
    return f"{whole}.{cents.rstrip('0'):0<2}"
