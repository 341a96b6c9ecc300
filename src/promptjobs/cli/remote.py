"""Which service a command talks to: the options that say so, and the client for it."""

from typing import Annotated

import typer

from promptjobs.errors import OptionInvalid
from promptjobs.errors.client import ArgumentInvalid
from promptjobs.sdk.client import Client
from promptjobs.sdk.environment import API_KEY_VARIABLE, URL_VARIABLE

Url = Annotated[str, typer.Option(envvar=URL_VARIABLE, help="Where the service is.")]
ApiKey = Annotated[
    str | None,
    typer.Option(envvar=API_KEY_VARIABLE, help="A key of the service, where it needs one.", show_default=False),
]


def service_at(url: str, api_key: str | None) -> Client:
    """To be closed by whoever asked for it. Raises OptionInvalid, which does not tell the key."""
    try:
        return Client(url, api_key)
    except ArgumentInvalid as error:
        raise OptionInvalid(f"--{error.name.replace('_', '-')}", error.cause) from error
