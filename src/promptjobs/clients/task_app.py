"""The client of task apps: health, task info and rollouts, in the dialect that the app speaks."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import orjson
from pydantic import SecretStr

from promptjobs.clients.http import Outgoing, Reply, retry_after_seconds
from promptjobs.clients.json_reply import read_json
from promptjobs.clients.redaction import redacted_body, shown_url, without_repeated
from promptjobs.clients.rollout_reply import (
    DETAIL_CHARACTERS,
    RolloutReply,
    read_policy_url_reply,
    read_sdk_reply,
)
from promptjobs.clients.task_description import task_text
from promptjobs.errors import (
    DeadlineExceeded,
    InvalidReply,
    TaskAppFailed,
    TaskAppHealthCheckFailed,
    TaskAppUnreachable,
    Unreachable,
)

RETRYABLE = frozenset({429, 502, 503, 504})
NOT_THERE = frozenset({404, 405})
CHECK_SECONDS = 15.0
DESCRIPTION_CHARACTERS = 4_000
WRONG_KEY = b"unauthori"
"""The SDK's task apps refuse a wrong key with 400 and the code "unauthorised"; the body repeats beginnings of keys."""


LONG_SEGMENT = re.compile(r"(?<=/)[A-Za-z0-9_\-]{32,}")
"""The token in an inference URL."""


class Dialect(StrEnum):
    """SDK: one seed and a policy config. POLICY_URL: `policy_url` and a list of seeds."""

    SDK = "sdk"
    POLICY_URL = "policy_url"


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """What the app says about its task. raw is its whole /task_info, {} where it has none."""

    dialect: Dialect
    description: str
    raw: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Policy:
    """The policy's model and its parameters. extra is handed to the task app as it is."""

    model: str
    provider: str
    temperature: float = 0.0
    max_completion_tokens: int | None = None
    policy_name: str = "policy"
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """One rollout. correlation_id begins with `trace_`, `cid_` or `eval_`; inference_url is the interceptor's."""

    seed: int
    run_id: str
    inference_url: str
    policy: Policy
    env_name: str
    env_config: Mapping[str, Any]
    correlation_id: str


class TaskApp:
    """One task app. A dialect from the config is taken as given, and its /task_info may then be missing."""

    def __init__(self, outgoing: Outgoing, url: str, key: SecretStr | None, dialect: Dialect | None) -> None:
        self.url, self.dialect = url, dialect
        self._outgoing, self._shown = outgoing, shown_url(url)
        self._urls: dict[str, str] = {}
        self._info: TaskInfo | None = None
        self._secrets = () if key is None else (key.get_secret_value(),)
        self._headers = {"content-type": "application/json", "accept": "application/json"}
        for secret in self._secrets:
            self._headers |= {"x-api-key": secret, "authorization": f"Bearer {secret}"}

    async def check(self) -> TaskInfo:
        """Make sure that the app is healthy and learn its dialect.

        Raises TaskAppHealthCheckFailed with the cause, TargetNotAllowed, and InvalidRequest for a URL that is none.
        """
        try:
            return await self._check()
        except TaskAppUnreachable as exc:
            raise TaskAppHealthCheckFailed(exc.url, exc.cause) from exc

    async def _check(self) -> TaskInfo:
        health = await self._ask("GET", "/health")
        if health.status != 200:
            raise TaskAppUnreachable(self._shown, f"GET /health: {self._refusal(health)}")
        try:
            self._info = await self._read_info()
        except TaskAppFailed as exc:
            if self.dialect is None:
                raise TaskAppUnreachable(self._shown, exc.detail) from exc
            return TaskInfo(self.dialect, "")
        except TaskAppUnreachable:
            if self.dialect is None:
                raise
            return TaskInfo(self.dialect, "")
        self.dialect = self._info.dialect
        return self._info

    async def description(self) -> str:
        """What the app says about its task, as a text without secrets; "" where it has no /task_info.

        It is what `check` has read, else read now. Raises TaskAppUnreachable, TaskAppFailed, TargetNotAllowed.
        """
        if self.dialect is None:
            await self.check()
        if self._info is None:
            self._info = await self._read_info()
        return task_text(self._info.raw, self._secrets)

    async def rollout(self, request: RolloutRequest, *, timeout_seconds: float) -> RolloutReply:
        """Run the app on one seed. An app that was not checked before is checked first.

        Raises TaskAppFailed, InvalidScore, InvalidReply; Unreachable, ConnectionLost, DeadlineExceeded; and what
        `check` raises.
        """
        dialect = self.dialect or (await self.check()).dialect
        body = sdk_body(request) if dialect is Dialect.SDK else policy_url_body(request)
        reply = await self._outgoing.request(
            "POST",
            self._at("/rollout"),
            body=orjson.dumps(body),
            headers=self._headers,
            timeout_seconds=timeout_seconds,
        )
        if not 200 <= reply.status < 300:
            raise self._failed(reply, self._refusal(reply))
        read = read_sdk_reply if dialect is Dialect.SDK else read_policy_url_reply
        secrets = (*self._secrets, *LONG_SEGMENT.findall(request.inference_url))
        said = without_repeated(read_json(reply.body, self._shown), reply.body, secrets)
        return read(said, request.seed, self._shown)

    async def _read_info(self) -> TaskInfo:
        """Raises TaskAppUnreachable; TaskAppFailed where the answer is none. A known app may have no /task_info."""
        found: Dialect | None = None
        reply = await self._ask("GET", "/task_info")
        if reply.status in NOT_THERE:
            reply, found = await self._ask("POST", "/task_info", b"{}"), Dialect.POLICY_URL
        if reply.status in NOT_THERE and self.dialect is not None:
            return TaskInfo(self.dialect, "")
        if reply.status != 200:
            raise self._failed(reply, f"/task_info: {self._refusal(reply)}")
        try:
            info = read_json(reply.body, self._shown)
        except InvalidReply as exc:
            raise TaskAppFailed(self._shown, f"/task_info: {exc.cause}") from exc
        if not isinstance(info, Mapping):
            raise TaskAppFailed(self._shown, "/task_info: it is not a JSON object")
        dialect = self.dialect or found or (Dialect.SDK if "taskset" in info else Dialect.POLICY_URL)
        return TaskInfo(dialect, _description(info), info)

    def _failed(self, reply: Reply, detail: str) -> TaskAppFailed:
        return TaskAppFailed(
            self._shown,
            detail,
            reply.status,
            retryable=reply.status in RETRYABLE,
            retry_after_seconds=retry_after_seconds(reply.headers),
        )

    async def _ask(self, method: str, path: str, body: bytes | None = None) -> Reply:
        try:
            return await self._outgoing.request(
                method, self._at(path), body=body, headers=self._headers, timeout_seconds=CHECK_SECONDS
            )
        except (Unreachable, InvalidReply) as exc:
            raise TaskAppUnreachable(self._shown, f"{method} {path}: {exc.cause}") from exc
        except DeadlineExceeded as exc:
            raise TaskAppUnreachable(self._shown, f"{method} {path}: no reply within {CHECK_SECONDS:g} s") from exc

    def _at(self, path: str) -> str:
        known = self._urls.get(path)
        if known is None:
            parts = urlsplit(self.url)
            known = urlunsplit(parts._replace(path=parts.path.rstrip("/") + path, fragment=""))
            self._urls[path] = known
        return known

    def _refusal(self, reply: Reply) -> str:
        """What a reply without success says, without its body where that may hold beginnings of keys."""
        status = f"HTTP {reply.status}"
        if reply.status in {401, 403} or (reply.status == 400 and WRONG_KEY in reply.body):
            return f"{status}: it does not accept the API key" if self._secrets else f"{status}: it wants an API key"
        if 300 <= reply.status < 400:
            return f"{status}: redirects are not followed"
        shown = redacted_body(reply.body, self._secrets, DETAIL_CHARACTERS)
        return f"{status}: {shown}" if shown else status


def sdk_body(request: RolloutRequest) -> dict[str, Any]:
    """The rollout request that the SDK's task apps of every era accept: the union of what they require."""
    policy = request.policy
    config = {
        **policy.extra,
        "model": policy.model,
        "provider": policy.provider,
        "temperature": policy.temperature,
        "inference_url": request.inference_url,
        "trace_correlation_id": request.correlation_id,
    }
    if policy.max_completion_tokens is not None:
        config["max_completion_tokens"] = policy.max_completion_tokens
    return {
        "run_id": request.run_id,
        "trace_correlation_id": request.correlation_id,
        "env": {
            "env_name": request.env_name,
            "config": {**request.env_config, "index": request.seed},
            "seed": request.seed,
        },
        "policy": {
            "policy_name": policy.policy_name,
            "config": config,
            "assert_proxy": True,
            "proxy_only": True,
        },
        "ops": ["agent", "env"],
        "record": {"trajectories": True},
        "mode": "eval",
    }


def policy_url_body(request: RolloutRequest) -> dict[str, Any]:
    """The rollout request of the other dialect, always for one seed: a shared URL cannot tell calls apart."""
    policy = request.policy
    config = {
        **policy.extra,
        "model": policy.model,
        "provider": policy.provider,
        "temperature": policy.temperature,
    }
    if policy.max_completion_tokens is not None:
        config |= {"max_tokens": policy.max_completion_tokens, "max_completion_tokens": policy.max_completion_tokens}
    body: dict[str, Any] = {"policy_url": request.inference_url, "seeds": [request.seed], "policy_config": config}
    if request.env_config:
        body["env_config"] = dict(request.env_config)
    return body


def _description(info: Mapping[str, Any]) -> str:
    """The task in the app's own words, "" where it gives none."""
    match info:
        case {"task": {"description": str(text)}} if text:
            pass
        case {"taskset": {"description": str(text)}} if text:
            pass
        case {"description": str(text)} if text:
            pass
        case _:
            return ""
    return text[:DESCRIPTION_CHARACTERS]
