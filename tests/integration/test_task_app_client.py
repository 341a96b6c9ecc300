"""The task-app client against real apps of both dialects, and against broken ones."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from aiohttp import web
from pydantic import SecretStr

from promptjobs.clients.http import Outgoing
from promptjobs.clients.task_app import Dialect, Policy, RolloutRequest, TaskApp, TaskInfo
from promptjobs.errors import (
    InvalidReply,
    InvalidScore,
    TargetNotAllowed,
    TaskAppFailed,
    TaskAppHealthCheckFailed,
    TaskAppUnreachable,
    Unreachable,
)

KEY = "env-key-0123456789abcdef"
TOKEN = "Zk3vQ9xT1rB7yN5mL2pW8sD4fG6hJ0aC"
SEED = 7
REQUEST = RolloutRequest(
    seed=SEED,
    run_id="run_1",
    inference_url=f"http://127.0.0.1:8700/v1/{TOKEN}/trace_1?cid=trace_1",
    policy=Policy("gpt-4o-mini", "openai", 0.5, 256, "banking", {"top_p": 0.9}),
    env_name="banking77",
    env_config={"split": "train", "index": 99},
    correlation_id="trace_1",
)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Routes = Mapping[tuple[str, str], Handler | Any]


def answering(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        payload = body if isinstance(body, bytes) else orjson.dumps(body)
        return web.Response(status=status, body=payload, headers=headers)

    return answer


@asynccontextmanager
async def task_app(routes: Routes, dialect: Dialect | None = None, key: str | None = KEY) -> AsyncIterator[TaskApp]:
    """A real app that serves `routes`, below a path prefix, and its client."""
    application = web.Application()
    for (method, path), handler in routes.items():
        application.router.add_route(method, "/prefix" + path, handler if callable(handler) else answering(handler))
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/prefix/"
    try:
        async with Outgoing(allow_loopback=True) as outgoing:
            yield TaskApp(outgoing, url, None if key is None else SecretStr(key), dialect)
    finally:
        await runner.cleanup()


HEALTHY: Routes = {("GET", "/health"): {"healthy": True}}
SDK_INFO = {"taskset": {"id": "banking77", "description": "Classify the intent."}}
POLICY_URL_INFO = {"task": {"id": "triage", "description": "Triage tickets."}, "baseline_system_prompt": "Be good."}


# --- check -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("routes", "info"),
    [
        ({("GET", "/task_info"): SDK_INFO}, TaskInfo(Dialect.SDK, "Classify the intent.", SDK_INFO)),
        ({("GET", "/task_info"): POLICY_URL_INFO}, TaskInfo(Dialect.POLICY_URL, "Triage tickets.", POLICY_URL_INFO)),
        ({("POST", "/task_info"): SDK_INFO}, TaskInfo(Dialect.POLICY_URL, "Classify the intent.", SDK_INFO)),
        (
            {("GET", "/task_info"): answering(b"", 404), ("POST", "/task_info"): {"name": "t"}},
            TaskInfo(Dialect.POLICY_URL, "", {"name": "t"}),
        ),
    ],
)
async def test_the_dialect_is_found_out(routes, info):
    async with task_app({**HEALTHY, **routes}) as app:
        assert await app.check() == info
        assert app.dialect is info.dialect


async def test_a_given_dialect_is_kept_and_task_info_may_be_missing():
    async with task_app({**HEALTHY, ("GET", "/task_info"): SDK_INFO}, Dialect.POLICY_URL) as app:
        assert await app.check() == TaskInfo(Dialect.POLICY_URL, "Classify the intent.", SDK_INFO)
    async with task_app(HEALTHY, Dialect.SDK) as app:
        assert await app.check() == TaskInfo(Dialect.SDK, "")


@pytest.mark.parametrize(
    ("health", "cause"),
    [
        (answering(b"warming up\n" * 100, 503), "HTTP 503: warming up warming up"),
        (answering(b"", 204), "HTTP 204"),
        (answering(b"", 302, {"Location": "http://169.254.169.254/"}), "redirects are not followed"),
        (answering({"detail": {"error": {"code": "missing_environment_api_key"}}}, 503), "missing_environment_api_key"),
        (answering(b"no", 401), "does not accept the API key"),
        (answering(b"x" * 5_000_000), "larger than"),
    ],
)
async def test_an_unhealthy_app_is_named_with_its_cause(health, cause):
    async with task_app({("GET", "/health"): health}, Dialect.SDK) as app:
        with pytest.raises(TaskAppUnreachable, match=cause) as failed:
            await app.check()
    assert failed.value.url == app.url
    assert len(str(failed.value)) < 800


async def test_a_wrong_key_is_said_without_repeating_any_key():
    body = {
        "detail": {
            "error": {"code": "unauthorised", "got": [KEY[:8]], "expected_prefix": "otherkey", "message": f"bad {KEY}"}
        }
    }
    async with task_app({("GET", "/health"): answering(body, 400)}) as app:
        with pytest.raises(TaskAppUnreachable, match="HTTP 400: it does not accept the API key") as failed:
            await app.check()
    assert KEY[:6] not in str(failed.value)
    assert "otherkey" not in str(failed.value)


async def test_a_missing_key_is_asked_for():
    async with task_app({("GET", "/health"): answering({"code": "unauthorised"}, 400)}, key=None) as app:
        with pytest.raises(TaskAppUnreachable, match="wants an API key"):
            await app.check()


@pytest.mark.parametrize(
    "task_info", [answering(b"<html>", 200), answering([1], 200), answering(b"", 500), answering(b"", 403)]
)
async def test_an_unknown_dialect_is_an_error_where_none_is_given(task_info):
    async with task_app({**HEALTHY, ("GET", "/task_info"): task_info}) as app:
        with pytest.raises(TaskAppUnreachable, match="/task_info"):
            await app.check()


async def test_an_app_that_is_down_is_unreachable_with_its_cause():
    async with Outgoing(allow_loopback=True) as outgoing:
        with pytest.raises(TaskAppHealthCheckFailed, match=r"http://127.0.0.1:1 .*refused") as failed:
            await TaskApp(outgoing, "http://127.0.0.1:1", None, None).check()
    assert (failed.value.code, failed.value.url) == ("task_app_health_check_failed", "http://127.0.0.1:1")
    assert isinstance(failed.value.__cause__, TaskAppUnreachable)
    assert isinstance(failed.value.__cause__.__cause__, Unreachable)


async def test_an_app_on_loopback_is_refused_unless_allowed():
    async with Outgoing() as outgoing:
        with pytest.raises(TargetNotAllowed, match="PROMPTJOBS_ALLOWED_TARGETS=localhost:1"):
            await TaskApp(outgoing, "http://localhost:1", None, None).check()


# --- rollouts --------------------------------------------------------------------------------------------------------


async def test_the_sdk_is_sent_the_union_of_all_eras():
    seen: list[Any] = []

    async def note(request: web.Request) -> web.Response:
        seen.append((await request.json(), request.headers["X-API-Key"], request.headers["Authorization"]))
        return web.json_response({"reward_info": {"outcome_reward": 1}})

    async with task_app({("POST", "/rollout"): note}, Dialect.SDK) as app:
        reply = await app.rollout(REQUEST, timeout_seconds=5)
    assert reply.score == 1.0
    body = {
        "run_id": "run_1",
        "trace_correlation_id": "trace_1",
        "env": {"env_name": "banking77", "config": {"split": "train", "index": SEED}, "seed": SEED},
        "policy": {
            "policy_name": "banking",
            "config": {
                "top_p": 0.9,
                "model": "gpt-4o-mini",
                "provider": "openai",
                "temperature": 0.5,
                "inference_url": REQUEST.inference_url,
                "trace_correlation_id": "trace_1",
                "max_completion_tokens": 256,
            },
            "assert_proxy": True,
            "proxy_only": True,
        },
        "ops": ["agent", "env"],
        "record": {"trajectories": True},
        "mode": "eval",
    }
    assert seen == [(body, KEY, f"Bearer {KEY}")]


async def test_policy_url_apps_are_sent_one_seed():
    seen: list[Any] = []

    async def note(request: web.Request) -> web.Response:
        seen.append((await request.json(), "X-API-Key" in request.headers))
        return web.json_response({"results": [{"seed": SEED, "score": 0.25, "feedback": "meh"}]})

    async with task_app({("POST", "/rollout"): note}, Dialect.POLICY_URL, key=None) as app:
        reply = await app.rollout(REQUEST, timeout_seconds=5)
    assert (reply.score, reply.feedback) == (0.25, "meh")
    config = {
        "top_p": 0.9,
        "model": "gpt-4o-mini",
        "provider": "openai",
        "temperature": 0.5,
        "max_tokens": 256,
        "max_completion_tokens": 256,
    }
    body = {
        "policy_url": REQUEST.inference_url,
        "seeds": [SEED],
        "policy_config": config,
        "env_config": {"split": "train", "index": 99},
    }
    assert seen == [(body, False)]


async def test_a_rollout_of_an_unchecked_app_finds_the_dialect_first():
    routes = {**HEALTHY, ("GET", "/task_info"): POLICY_URL_INFO, ("POST", "/rollout"): {"score": 0.5}}
    async with task_app(routes) as app:
        assert (await app.rollout(REQUEST, timeout_seconds=5)).score == 0.5


@pytest.mark.parametrize("score", [b"NaN", b"1e999", b'"high"', b"null", b"true", b"-3"])
async def test_a_wrong_score_on_the_wire_is_an_invalid_score(score):
    for dialect, body in (
        (Dialect.SDK, b'{"metrics": {"outcome_reward": %b}}' % score),
        (Dialect.POLICY_URL, b'{"results": [{"seed": 7, "score": %b}]}' % score),
    ):
        async with task_app({("POST", "/rollout"): answering(body)}, dialect) as app:
            with pytest.raises(InvalidScore):
                await app.rollout(REQUEST, timeout_seconds=5)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>busy</html>",
        b"",
        b'{"results": [{"seed": 8, "score": 1}]}',
        b'{"score": 1, "output": "\\ud800"}',
        b'{"score": 1, "details": ' + b"[" * 70 + b"]" * 70 + b"}",
    ],
)
async def test_a_reply_that_cannot_be_used_is_invalid(body):
    async with task_app({("POST", "/rollout"): answering(body)}, Dialect.POLICY_URL) as app:
        with pytest.raises(InvalidReply):
            await app.rollout(REQUEST, timeout_seconds=5)


async def test_nul_in_a_reply_can_be_stored_afterwards():
    body = {"results": [{"seed": SEED, "score": 1, "output": "a\x00b", "details": {"k\x00": ["\x00"]}}]}
    async with task_app({("POST", "/rollout"): answering(body)}, Dialect.POLICY_URL) as app:
        reply = await app.rollout(REQUEST, timeout_seconds=5)
    assert (reply.output, reply.details) == ("a\ufffdb", {"k\ufffd": ["\ufffd"]})


@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        (400, False),
        (404, False),
        (422, False),
        (429, True),
        (500, False),
        (502, True),
        (503, True),
        (504, True),
        (307, False),
    ],
)
async def test_a_refused_rollout_is_a_failure_with_its_status(status, retryable):
    refusal = answering(b"nope", status, {"Retry-After": "2", "Location": "http://169.254.169.254/"})
    async with task_app({("POST", "/rollout"): refusal}, Dialect.SDK) as app:
        with pytest.raises(TaskAppFailed, match=f"HTTP {status}") as failed:
            await app.rollout(REQUEST, timeout_seconds=5)
    error = failed.value
    assert (error.upstream_status, error.retryable, error.retry_after_seconds) == (status, retryable, 2)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"detail": f"RuntimeError: POST {REQUEST.inference_url} gave 500, headers X-API-Key: {KEY}"}, 500),
        ({"success_status": "failure", "status_detail": f"cannot reach {REQUEST.inference_url}"}, 200),
        ({"error": f"no trial {TOKEN}"}, 200),
        ({"metrics": {"outcome_reward": f"{TOKEN}"}}, 200),
    ],
)
async def test_no_error_repeats_the_key_or_the_interceptors_token(body, status):
    async with task_app({("POST", "/rollout"): answering(body, status)}, Dialect.SDK) as app:
        with pytest.raises((TaskAppFailed, InvalidScore)) as failed:
            await app.rollout(REQUEST, timeout_seconds=5)
    shown = f"{failed.value} {failed.value.facts}"
    assert KEY[:6] not in shown
    assert TOKEN[:12] not in shown
