"""Optimizes prompts: a service, and the Python client of one.

The client's names are imported when they are first used: the service's own modules do not load an HTTP client for them.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from promptjobs.errors.base import PromptjobsError
    from promptjobs.errors.client import (
        ApiError,
        ArgumentInvalid,
        AuthenticationError,
        BalanceError,
        ClientError,
        ConfigFileInvalid,
        ConflictError,
        ConnectionFailed,
        ExperimentWaitTimedOut,
        InvalidRequestError,
        NotFoundError,
        RateLimitError,
        ServerError,
        UnexpectedAnswer,
        WaitTimedOut,
    )
    from promptjobs.sdk.async_client import AsyncClient
    from promptjobs.sdk.client import Client
    from promptjobs.sdk.events import Event
    from promptjobs.sdk.experiment_following import ExperimentEvent
    from promptjobs.sdk.shapes import Result

    __version__: str

__all__ = [
    "ApiError",
    "ArgumentInvalid",
    "AsyncClient",
    "AuthenticationError",
    "BalanceError",
    "Client",
    "ClientError",
    "ConfigFileInvalid",
    "ConflictError",
    "ConnectionFailed",
    "Event",
    "ExperimentEvent",
    "ExperimentWaitTimedOut",
    "InvalidRequestError",
    "NotFoundError",
    "PromptjobsError",
    "RateLimitError",
    "Result",
    "ServerError",
    "UnexpectedAnswer",
    "WaitTimedOut",
    "__version__",
]

_HOMES = {
    "AsyncClient": "promptjobs.sdk.async_client",
    "Client": "promptjobs.sdk.client",
    "Event": "promptjobs.sdk.events",
    "ExperimentEvent": "promptjobs.sdk.experiment_following",
    "PromptjobsError": "promptjobs.errors.base",
    "Result": "promptjobs.sdk.shapes",
}
_ERRORS = "promptjobs.errors.client"


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "__version__":
        from importlib.metadata import version

        found: object = version("promptjobs")
    else:
        from importlib import import_module

        found = getattr(import_module(_HOMES.get(name, _ERRORS)), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
