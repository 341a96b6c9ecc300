"""What both clients know before they send anything: address, headers, time limits, and what httpx's errors mean."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Self

import httpx

from promptjobs.errors.client import ArgumentInvalid, ConnectionFailed
from promptjobs.sdk.addresses import DEFAULT_URL, checked_key, checked_url, is_loopback
from promptjobs.sdk.answers import Reply
from promptjobs.sdk.environment import api_key_of_environment, url_of_environment
from promptjobs.sdk.requests import Request

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 45.0
"""The stream sends a heartbeat every 15 seconds: a connection that says nothing for so long is dead."""

KEY_HEADER = "x-api-key"
MOST_RETRIES = 10


@dataclass(frozen=True, slots=True, repr=False)
class Connection:
    """How a service is reached. The key stands in no text that this makes, nor in any error."""

    url: str
    api_key: str | None
    timeout_seconds: float
    max_retries: int

    @classmethod
    def open(cls, url: str | None, api_key: str | None, timeout_seconds: float, max_retries: int) -> Self:
        """None stands for what the environment says. Raises ArgumentInvalid."""
        if not 0 < timeout_seconds < float("inf"):
            raise ArgumentInvalid("timeout_seconds", f"must be above 0 and finite, got {timeout_seconds!r}")
        if not 0 <= max_retries <= MOST_RETRIES:
            raise ArgumentInvalid("max_retries", f"must be in 0..{MOST_RETRIES}, got {max_retries!r}")
        return cls(
            checked_url(url or url_of_environment() or DEFAULT_URL),
            checked_key(api_key_of_environment() if api_key is None else api_key),
            timeout_seconds,
            max_retries,
        )

    def __repr__(self) -> str:
        return f"Connection({self.url!r})"

    @property
    def trusts_environment(self) -> bool:
        """Whether a proxy of the environment may be used: it cannot reach this machine's own loopback addresses."""
        return not is_loopback(self.url)

    def retries_of(self, request: Request[Any]) -> int:
        return self.max_retries if request.is_repeatable else 0

    def options(self, request: Request[Any]) -> dict[str, Any]:
        """What httpx sends, as the keyword arguments of `request` and `stream`."""
        return {
            "method": request.method,
            "url": f"{self.url}{request.path}",
            "params": list(request.query) or None,
            "json": request.body,
            "headers": self._headers(request.headers),
            "timeout": httpx.Timeout(self.timeout_seconds, connect=min(CONNECT_SECONDS, self.timeout_seconds)),
            "follow_redirects": False,
        }

    def stream_options(self, request: Request[Any]) -> dict[str, Any]:
        """As `options`; a stream may be silent for as long as its heartbeats allow."""
        timeout = httpx.Timeout(
            self.timeout_seconds, connect=min(CONNECT_SECONDS, self.timeout_seconds), read=SILENCE_SECONDS
        )
        return {**self.options(request), "timeout": timeout}

    def _headers(self, of_request: Mapping[str, str]) -> dict[str, str]:
        headers = {"accept": "application/json", "user-agent": f"promptjobs/{version('promptjobs')}", **of_request}
        return headers if self.api_key is None else {**headers, KEY_HEADER: self.api_key}

    def reply(self, response: httpx.Response) -> Reply:
        """An answer that has been read to its end."""
        return Reply(self.url, response.status_code, response.headers, response.content)

    def failure(self, error: httpx.HTTPError) -> ConnectionFailed:
        """Its message without the number of a system error, or its kind where it has none."""
        cause = re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
        return ConnectionFailed(self.url, cause)
