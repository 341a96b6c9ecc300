"""The API over HTTP: one method for each request that a command makes."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx

from promptjobs.cli.sse import event_data
from promptjobs.errors import OptionInvalid, RequestRefused, ServiceUnreachable

Json = dict[str, Any]

DEFAULT_URL = "http://127.0.0.1:8700"
JOBS_PATH = "/api/prompt-learning/online/jobs"
TERMINAL = frozenset({"succeeded", "failed", "cancelled"})

CALL_SECONDS = 30.0
SILENCE_SECONDS = 45.0
"""The stream sends a heartbeat every 15 seconds: a connection that says nothing for so long is dead."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a job. text: its JSON as it came, one line."""

    seq: int
    type: str
    level: str
    message: str
    data: Mapping[str, Any]
    created_at: datetime
    text: str

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Raises ValueError, KeyError or TypeError for what is no event."""
        read = json.loads(content)
        created_at = datetime.fromisoformat(read["created_at"])
        text = content.decode()
        return cls(read["seq"], read["type"], read["level"], read["message"], read["data"], created_at, text)


class Remote:
    """A service at `url`. Every method raises ServiceUnreachable, and RequestRefused for an answer of 4xx."""

    def __init__(self, url: str) -> None:
        self.url = checked_url(url)
        self._client = httpx.Client(
            base_url=self.url,
            timeout=httpx.Timeout(CALL_SECONDS, connect=10.0),
            headers={"user-agent": f"promptjobs/{version('promptjobs')}", "accept": "application/json"},
            # A proxy cannot reach this machine's own loopback addresses.
            trust_env=not is_loopback(urlsplit(self.url).hostname or ""),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._client.close()

    def create(self, algorithm: str, config_body: Json, overrides: Json, *, auto_start: bool = True) -> Json:
        """Create a job, and start it. It is sent once: whether a request that failed took effect is not known."""
        body = {"algorithm": algorithm, "config_body": config_body, "overrides": overrides}
        return self._object(self._call("POST", JOBS_PATH, body if auto_start else {**body, "auto_start": False}))

    def estimate(self, algorithm: str, config_body: Json, overrides: Json) -> Json:
        """What such a job would take and cost; nothing is created."""
        body = {"algorithm": algorithm, "config_body": config_body, "overrides": overrides}
        return self._object(self._call("POST", f"{JOBS_PATH}/estimate", body))

    def job(self, job_id: str) -> Json:
        return self._object(self._call("GET", _path(job_id)))

    def jobs(self, limit: int, status: str | None = None) -> list[Json]:
        """Newest first."""
        query = {"limit": str(limit)} | ({"status": status} if status else {})
        found = self._call("GET", JOBS_PATH, query=query)
        if not isinstance(found, list):
            raise ServiceUnreachable(self.url, "its list of jobs is no list")
        return found

    def cancel(self, job_id: str, reason: str | None = None) -> Json:
        """Repeating it changes nothing; a job that is over stays as it is."""
        return self._object(self._call("POST", f"{_path(job_id)}/cancel", {"reason": reason} if reason else {}))

    def start(self, job_id: str) -> Json:
        """Repeating it changes nothing, as with `pause` and `resume`."""
        return self._object(self._call("POST", f"{_path(job_id)}/start"))

    def pause(self, job_id: str) -> Json:
        return self._object(self._call("POST", f"{_path(job_id)}/pause"))

    def resume(self, job_id: str) -> Json:
        return self._object(self._call("POST", f"{_path(job_id)}/resume"))

    def delete(self, job_id: str) -> None:
        """Delete a job that is over."""
        with self._answered("DELETE", _path(job_id)) as response:
            response.read()
        if response.status_code != httpx.codes.NO_CONTENT:
            raise self._error(response)

    def is_ready(self) -> bool:
        """Whether the service can work. Raises ServiceUnreachable where nothing answers."""
        with self._answered("GET", "/readyz") as response:
            return response.status_code == httpx.codes.OK

    def events(self, job_id: str, after: int = 0) -> Iterator[Event]:
        """What follows event `after`, over one connection: until the job's end, or until the connection breaks."""
        headers = {"accept": "text/event-stream", "last-event-id": str(after)}
        timeout = httpx.Timeout(CALL_SECONDS, connect=10.0, read=SILENCE_SECONDS)
        with self._answered("GET", f"{_path(job_id)}/events/stream", headers=headers, timeout=timeout) as response:
            if not response.is_success:
                response.read()
                raise self._error(response)
            for content in event_data(response.iter_bytes()):
                try:
                    event = Event.parse(content)
                except (ValueError, KeyError, TypeError) as error:
                    raise ServiceUnreachable(self.url, "it sent an event that cannot be read") from error
                if event.seq > after:
                    yield event

    @contextmanager
    def _answered(self, method: str, path: str, **options: Any) -> Iterator[httpx.Response]:
        """A response whose body is read in the block; errors of the connection are translated once, here."""
        try:
            with self._client.stream(method, path, **options) as response:
                yield response
        except httpx.HTTPError as error:
            raise ServiceUnreachable(self.url, _cause(error)) from error

    def _call(self, method: str, path: str, body: Json | None = None, query: dict[str, str] | None = None) -> Any:
        with self._answered(method, path, json=body, params=query) as response:
            response.read()
        if not response.is_success:
            raise self._error(response)
        try:
            return response.json()
        except ValueError as error:
            raise ServiceUnreachable(self.url, "it answered something that is no JSON") from error

    def _object(self, answer: Any) -> Json:
        if not isinstance(answer, dict):
            raise ServiceUnreachable(self.url, "it answered something that is no object")
        return answer

    def _error(self, response: httpx.Response) -> RequestRefused | ServiceUnreachable:
        """What an answer other than 2xx means. Only a problem of our own service is a refusal."""
        try:
            problem = response.json()
        except ValueError:
            problem = None
        if not isinstance(problem, dict) or "code" not in problem:
            return ServiceUnreachable(self.url, f"HTTP {response.status_code}, which is no answer of promptjobs")
        detail = str(problem.get("detail", "no reason given"))
        if response.is_server_error:
            return ServiceUnreachable(self.url, f"HTTP {response.status_code}, {detail}")
        param = problem.get("param")
        return RequestRefused(response.status_code, detail, str(param) if param else None, str(problem["code"]))


def checked_url(url: str) -> str:
    """The URL without a slash at its end. Raises OptionInvalid for what is no http(s) URL."""
    try:
        parts = urlsplit(url)
        is_http = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        is_usable = is_http and not re.search(r"[\s\x00-\x1f]", url) and not parts.query and not parts.fragment
    except ValueError:
        is_usable = False
    if not is_usable:
        raise OptionInvalid("--url", f"expected an address such as {DEFAULT_URL}, got {url!r}")
    return url.rstrip("/")


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _cause(error: httpx.HTTPError) -> str:
    """Its message without the number of a system error, or its kind where it has none."""
    return re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__


def _path(job_id: str) -> str:
    return f"{JOBS_PATH}/{quote(job_id, safe='')}"
