"""What both Python clients send, what they read, when they ask again, and what each failure becomes."""

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx
from tests.fakes.clients import Driven
from tests.fakes.event_streams import JOB, URL
from tests.fakes.shown_jobs import MESSAGES, job

import promptjobs
from promptjobs import AsyncClient, Client
from promptjobs.sdk.job_requests import JOBS_PATH

JOBS = f"{URL}{JOBS_PATH}"
JOB_URL = f"{JOBS}/{JOB}"
CONFIG = {"prompt_learning": {"algorithm": "mipro", "policy": {"model": "m"}}}
LOST = httpx.ReadError("connection reset")

Make = Callable[..., Driven]


@pytest.fixture(params=[Client, AsyncClient])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    for variable in ("PROMPTJOBS_URL", "PROMPTJOBS_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    made: list[Driven] = []

    def open_one(url: str = URL, **options: Any) -> Driven:
        made.append(Driven(request.param, url, **options))
        return made[-1]

    yield open_one
    for each in made:
        each.__exit__(None, None, None)


def answers(route: respx.Route) -> list[httpx.Request]:
    return [call.request for call in route.calls]


def body_of(request: httpx.Request) -> Any:
    return json.loads(request.content)


# --- what is sent ----------------------------------------------------------------------------------------------------


@respx.mock
def test_a_job_is_created_with_all_that_was_given(make: Make, tmp_path: Path):
    route = respx.post(JOBS).respond(json=job())
    client = make(URL + "/", api_key="test-key")
    more: dict[str, Any] = {"overrides": {"a.b": 1}, "metadata": {"team": "x"}, "auto_start": False}
    assert client.create(CONFIG, **more) == job()
    sent = route.calls.last.request
    assert body_of(sent) == {"algorithm": "mipro", "config_body": CONFIG, **more}
    assert sent.headers["content-type"] == "application/json"
    assert sent.headers["x-api-key"] == "test-key"
    assert re.fullmatch(r"[0-9a-f-]{36}", sent.headers["idempotency-key"])
    path = tmp_path / "job.toml"
    path.write_text('[prompt_learning]\nalgorithm = "mipro"\npolicy = {model = "m"}\n')
    for source in (path, str(path)):
        client.create(source, algorithm="gepa", idempotency_key="mine")
        assert body_of(route.calls.last.request) == {"algorithm": "gepa", "config_body": CONFIG}
        assert route.calls.last.request.headers["idempotency-key"] == "mine"
    client.create(config_name="tickets")
    assert body_of(route.calls.last.request) == {"config_name": "tickets"}


@respx.mock
def test_two_calls_have_different_idempotency_keys(make: Make):
    route = respx.post(JOBS).respond(json=job())
    client = make()
    client.create(CONFIG)
    client.create(CONFIG)
    first, second = (sent.headers["idempotency-key"] for sent in answers(route))
    assert first != second


@respx.mock
def test_nothing_is_sent_for_a_config_that_cannot_be(make: Make, tmp_path: Path):
    with pytest.raises(promptjobs.ConfigFileInvalid, match=r"none\.toml: No such file"):
        make().create(tmp_path / "none.toml")
    assert respx.calls.call_count == 0


GETS = [
    ("job", (), "", {}),
    ("config", (), "/config", {}),
    ("events", (7, 100), "/events", {"since_seq": "7", "limit": "100"}),
    ("candidate", ("c_1",), "/candidates/c_1", {}),
    ("rollout", ("r1",), "/rollouts/r1", {}),
    ("archive", (), "/archive", {}),
    ("lineage", (), "/lineage", {}),
    ("snapshot", ("snap_1",), "/snapshots/snap_1", {}),
]
POSTS = [
    ("start", (), "/start", None),
    ("pause", (), "/pause", None),
    ("resume", (), "/resume", None),
    ("cancel", (), "/cancel", {}),
    ("cancel", ("enough",), "/cancel", {"reason": "enough"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arguments", "path", "query"), GETS)
@respx.mock
def test_what_reads_an_object_asks_at_its_path(make: Make, name: str, arguments: Any, path: str, query: Any):
    route = respx.get(f"{JOB_URL}{path}").respond(json={"a": 1})
    assert getattr(make(), name)(JOB, *arguments) == {"a": 1}
    assert dict(route.calls.last.request.url.params) == query


@pytest.mark.parametrize(("name", "arguments", "path", "body"), POSTS)
@respx.mock
def test_commands_send_what_was_asked(make: Make, name: str, arguments: Any, path: str, body: Any):
    route = respx.post(f"{JOB_URL}{path}").respond(json=job())
    assert getattr(make(), name)(JOB, *arguments) == job()
    content = route.calls.last.request.content
    assert (json.loads(content) if content else None) == body


@respx.mock
def test_forks_say_with_what_they_begin(make: Make):
    route = respx.post(f"{JOB_URL}/fork").respond(json=job())
    client = make()
    client.fork(JOB)
    assert body_of(route.calls.last.request) == {}
    client.fork(JOB, overrides={"a.b": 1}, metadata={"c": 2}, warm_start={"candidates": "best"}, auto_start=False)
    warm = {"candidates": "best"}
    assert body_of(route.calls.last.request) == {
        "overrides": {"a.b": 1},
        "metadata": {"c": 2},
        "warm_start": warm,
        "auto_start": False,
    }
    client.fork(JOB, warm_start=False)
    assert body_of(route.calls.last.request) == {"warm_start": False}


@respx.mock
def test_what_an_organisation_keeps_is_written_and_read(make: Make):
    client = make()
    saved = respx.post(f"{URL}/api/prompt-learning/configs").respond(json={"name": "n"})
    client.save_config("n", CONFIG, description="d")
    assert body_of(saved.calls.last.request) == {
        "name": "n",
        "algorithm": "mipro",
        "config_body": CONFIG,
        "description": "d",
    }
    replaced = respx.put(f"{URL}/api/prompt-learning/configs/n").respond(json={"name": "n"})
    client.save_config("n", CONFIG, algorithm="gepa", replace=True)
    assert body_of(replaced.calls.last.request) == {"algorithm": "gepa", "config_body": CONFIG}
    key = respx.put(f"{URL}/api/provider-keys/openai").respond(json={"provider": "openai"})
    assert client.set_provider_key("openai", "test-key") == {"provider": "openai"}
    assert body_of(key.calls.last.request) == {"api_key": "test-key"}
    respx.get(f"{URL}/api/provider-keys").respond(json=[{"provider": "openai"}])
    assert client.provider_keys() == [{"provider": "openai"}]
    hook = respx.post(f"{URL}/api/webhooks").respond(201, json={"id": "wh_1", "secret": "whsec_x"})
    assert client.create_webhook("https://a.test/", event_types=["job.failed"])["secret"] == "whsec_x"
    assert body_of(hook.calls.last.request) == {"url": "https://a.test/", "event_types": ["job.failed"]}
    changed = respx.patch(f"{URL}/api/webhooks/wh_1").respond(json={"id": "wh_1"})
    client.change_webhook("wh_1", is_disabled=True)
    assert body_of(changed.calls.last.request) == {"is_disabled": True}
    respx.post(f"{URL}/api/webhooks/wh_1/deliveries/msg_1/redeliver").respond(json={"id": "msg_1"})
    assert client.redeliver("wh_1", "msg_1") == {"id": "msg_1"}
    respx.delete(f"{URL}/api/webhooks/wh_1").respond(204)
    assert client.delete_webhook("wh_1") is None


@respx.mock
def test_ids_cannot_lead_to_another_path(make: Make):
    route = respx.get(url__startswith=URL).respond(404, json={"code": "job_not_found", "detail": "none"})
    client = make()
    for name, sent in (("../../healthz?a=b", "..%2F..%2Fhealthz%3Fa%3Db"), ("..", "%2E%2E"), (".", "%2E")):
        with pytest.raises(promptjobs.NotFoundError):
            client.job(name)
        assert route.calls.last.request.url.raw_path.decode() == f"{JOBS_PATH}/{sent}"


@respx.mock
def test_results_are_read_out_of_the_job(make: Make):
    modules = [{"module_id": "plan", "messages": MESSAGES[:1]}, {"module_id": "solve", "messages": MESSAGES[1:]}]
    snapshot = job()["best_snapshot"] | {"modules": modules, "best_test_score": 0.5, "baseline_score": 0.25}
    scores = {"best_train_score": 0.6, "best_validation_score": 0.55}
    respx.get(JOB_URL).respond(json=job(best_snapshot=snapshot, metadata={"stats": {"total_rollouts": 9}}, **scores))
    result = make().result(JOB)
    assert (result.messages, result.score, result.num_seeds) == (MESSAGES, 0.55, 60)
    assert (result.train_score, result.validation_score, result.test_score) == (0.6, 0.55, 0.5)
    assert (result.baseline_score, result.snapshot_id, result.snapshot) == (0.25, "snap_1", snapshot)
    assert result.modules == {"plan": MESSAGES[:1], "solve": MESSAGES[1:]}
    assert result.stats == {"total_rollouts": 9}
    assert result.is_final


@respx.mock
def test_the_result_of_a_job_that_runs_is_the_best_so_far(make: Make):
    nothing = {"best_snapshot": None, "best_snapshot_id": None, "metadata": {}, "best_prompt_messages": None}
    scores = {"best_train_score": None, "best_validation_score": None}
    respx.get(JOB_URL).respond(json=job(status="running", progress={"baseline_score": 0.25}, **nothing, **scores))
    result = make().result(JOB)
    assert (result.is_final, result.messages, result.modules, result.baseline_score) == (False, None, {}, 0.25)


@respx.mock
def test_reports_are_text_of_the_format_that_was_asked_for(make: Make):
    route = respx.get(f"{JOB_URL}/report").respond(content="# Ünïcode".encode())
    assert make().report(JOB, "html") == "# Ünïcode"
    assert dict(route.calls.last.request.url.params) == {"format": "html"}


# --- pages -----------------------------------------------------------------------------------------------------------


def page_after(request: httpx.Request) -> httpx.Response:
    """Five hundred trials, a page behind each `after`; the link is a proxy's, and to be followed by its query only."""
    after, limit = int(request.url.params.get("after", 0)), int(request.url.params["limit"])
    items = [{"n": n} for n in range(after + 1, min(after + limit, 500) + 1)]
    query = request.url.copy_set_param("after", str(after + limit)).query.decode()
    link = f'<https://elsewhere.test/other?{query}>; rel="next"'
    return httpx.Response(200, json=items, headers={"link": link} if after + limit < 500 else {})


@pytest.mark.parametrize(
    ("limit", "sizes"), [(None, [200, 200, 200]), (450, [200, 200, 50]), (200, [200]), (3, [3]), (0, [])]
)
@respx.mock
def test_lists_are_walked_to_their_end_or_limit(make: Make, limit: int | None, sizes: list[int]):
    route = respx.get(f"{JOB_URL}/trials").mock(side_effect=page_after)
    found = make().trials(JOB, phase="a&b", with_rollouts=False, limit=limit)
    assert [each["n"] for each in found] == list(range(1, (500 if limit is None else limit) + 1))
    assert [int(sent.url.params["limit"]) for sent in answers(route)] == sizes
    assert all(sent.url.host == "service.test" for sent in answers(route))
    assert all(sent.url.params["phase"] == "a&b" for sent in answers(route))


@respx.mock
def test_jobs_are_filtered_by_the_service(make: Make):
    route = respx.get(JOBS).respond(json=[job()])
    since = datetime(2026, 5, 4, 9, 30, tzinfo=UTC)
    filters = {"status": "running", "algorithm": "gepa", "metadata": {"team": "x", "flag": True, "n": 3}}
    assert make().jobs(since=since, **filters) == [job()]
    assert dict(route.calls.last.request.url.params) == {
        "status": "running",
        "algorithm": "gepa",
        "since": "2026-05-04T09:30:00+00:00",
        "metadata.team": "x",
        "metadata.flag": "true",
        "metadata.n": "3",
        "limit": "200",
    }


@respx.mock
def test_a_page_without_items_is_the_last_one_whatever_it_links_to(make: Make):
    route = respx.get(JOBS).respond(json=[], headers={"link": '</x?after=1>; rel="next"'})
    assert make().jobs() == []
    assert route.call_count == 1


# --- asking again ----------------------------------------------------------------------------------------------------


def refusal(status: int, code: str = "some_code", **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "detail": "later"}, headers=headers)


@pytest.mark.parametrize(
    "failure", [LOST, httpx.ConnectTimeout(""), *(refusal(status) for status in (429, 502, 503, 504))]
)
@respx.mock
def test_reads_are_asked_again_after_a_passing_failure(make: Make, failure: Any):
    respx.get(JOB_URL).mock(side_effect=[failure, failure, httpx.Response(200, json=job())])
    client = make()
    assert client.job(JOB) == job()
    first, second = client.pauses
    assert 0.1 <= first <= 0.2
    assert 0.2 <= second <= 0.4


@pytest.mark.parametrize("retries", [0, 1, 4])
@respx.mock
def test_retries_are_bounded(make: Make, retries: int):
    route = respx.get(JOB_URL).mock(side_effect=LOST)
    client = make(max_retries=retries)
    with pytest.raises(promptjobs.ConnectionFailed, match="connection reset"):
        client.job(JOB)
    assert (route.call_count, len(client.pauses)) == (retries + 1, retries)


@pytest.mark.parametrize("failure", [refusal(500), refusal(404), refusal(409), refusal(422), refusal(401)])
@respx.mock
def test_other_failures_are_final(make: Make, failure: httpx.Response):
    route = respx.get(JOB_URL).mock(return_value=failure)
    with pytest.raises(promptjobs.ApiError):
        make().job(JOB)
    assert route.call_count == 1


@respx.mock
def test_a_creation_is_repeated_under_the_key_of_its_first_attempt(make: Make):
    in_progress = refusal(409, "request_in_progress")
    route = respx.post(JOBS).mock(side_effect=[LOST, in_progress, httpx.Response(200, json=job())])
    assert make().create(CONFIG) == job()
    assert len({sent.headers["idempotency-key"] for sent in answers(route)}) == 1
    assert len({sent.content for sent in answers(route)}) == 1
    assert route.call_count == 3


@pytest.mark.parametrize("failure", [LOST, refusal(503), refusal(429)])
@respx.mock
def test_what_changes_something_without_a_key_is_sent_once(make: Make, failure: Any):
    routes = [respx.post(f"{JOB_URL}/cancel"), respx.delete(JOB_URL), respx.post(f"{JOBS}/estimate")]
    client = make()
    for route in routes:
        route.mock(side_effect=[failure])
    for call in (lambda: client.cancel(JOB), lambda: client.delete(JOB), lambda: client.estimate(CONFIG)):
        with pytest.raises(promptjobs.ClientError):
            call()
    assert client.pauses == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("7", 7.0, 7.2),
        ("0", 0.0, 0.2),
        ("86400", 30.0, 30.2),
        (format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True), 30.0, 30.2),
        (format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True), 0.0, 0.2),
        ("soon", 0.1, 0.2),
        ("-5", 0.1, 0.2),
    ],
    ids=["seconds", "at once", "a day", "a date", "a date before now", "words", "below 0"],
)
@respx.mock
def test_the_service_says_how_long_to_wait_within_bounds(make: Make, header: str, least: float, most: float):
    limited = refusal(429, "rate_limited", **{"retry-after": header})
    respx.get(JOB_URL).mock(side_effect=[limited, httpx.Response(200, json=job())])
    client = make()
    client.job(JOB)
    (pause,) = client.pauses
    assert least <= pause <= most


# --- failures --------------------------------------------------------------------------------------------------------

PROBLEM = {"code": "invalid_config", "detail": "is required", "param": "policy.model", "request_id": "req_1"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, promptjobs.InvalidRequestError),
        (401, promptjobs.AuthenticationError),
        (402, promptjobs.BalanceError),
        (403, promptjobs.AuthenticationError),
        (404, promptjobs.NotFoundError),
        (409, promptjobs.ConflictError),
        (413, promptjobs.InvalidRequestError),
        (422, promptjobs.InvalidRequestError),
        (429, promptjobs.RateLimitError),
        (500, promptjobs.ServerError),
        (503, promptjobs.ServerError),
    ],
)
@respx.mock
def test_an_answer_that_is_a_problem_is_raised_with_all_it_says(make: Make, status: int, kind: type):
    respx.get(JOB_URL).respond(status, json=PROBLEM, headers={"retry-after": "3"})
    with pytest.raises(promptjobs.ApiError) as raised:
        make(max_retries=0).job(JOB)
    error = raised.value
    assert type(error) is kind
    assert (error.status, error.code, error.detail, error.param) == (status, *list(PROBLEM.values())[:3])
    assert (error.request_id, error.retry_after_seconds) == ("req_1", 3.0)
    assert str(error) == "policy.model: is required (invalid_config)"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "kind", "told"),
    [
        (httpx.Response(404, text="<html>"), promptjobs.UnexpectedAnswer, "HTTP 404, which is no answer of promptjobs"),
        (httpx.Response(404, json=[1]), promptjobs.UnexpectedAnswer, "HTTP 404"),
        (httpx.Response(404, json={"code": 3}), promptjobs.UnexpectedAnswer, "HTTP 404"),
        (httpx.Response(302, headers={"location": "/login"}), promptjobs.UnexpectedAnswer, "HTTP 302"),
        (httpx.Response(200, text="<html>"), promptjobs.UnexpectedAnswer, "no JSON"),
        (httpx.Response(200, text="[" * 100_000), promptjobs.UnexpectedAnswer, "no JSON"),
        (httpx.Response(200, json=[1]), promptjobs.UnexpectedAnswer, "no object"),
        (httpx.Response(502, text="<html>"), promptjobs.ServerError, "HTTP 502, which is no answer of promptjobs"),
        (httpx.Response(503, json={"code": "x"}), promptjobs.ServerError, "no reason given"),
        (
            httpx.ConnectError("[Errno 111] Connection refused"),
            promptjobs.ConnectionFailed,
            f"{URL}: Connection refused",
        ),
        (httpx.ReadTimeout(""), promptjobs.ConnectionFailed, "ReadTimeout"),
    ],
)
@respx.mock
def test_anything_else_is_told_for_what_it_is(make: Make, answer: Any, kind: type, told: str):
    respx.get(JOB_URL).mock(side_effect=(lambda request: answer) if isinstance(answer, httpx.Response) else [answer])
    with pytest.raises(kind) as raised:
        make(max_retries=0).job(JOB)
    assert type(raised.value) is kind
    assert told in str(raised.value)


@pytest.mark.parametrize(
    ("name", "path", "answer"),
    [
        ("artifacts", f"{JOB_URL}/artifacts", {}),
        ("metrics", f"{JOB_URL}/metrics", {"points": 3}),
        ("trials", f"{JOB_URL}/trials", {}),
        ("trials", f"{JOB_URL}/trials", [1]),
    ],
)
@respx.mock
def test_an_answer_of_another_shape_is_no_answer(make: Make, name: str, path: str, answer: Any):
    respx.get(path).respond(json=answer)
    with pytest.raises(promptjobs.UnexpectedAnswer):
        getattr(make(), name)(JOB)


@respx.mock
def test_readiness_is_an_answer_either_way(make: Make):
    route = respx.get(f"{URL}/readyz").mock(
        side_effect=[httpx.Response(200, json={}), refusal(503, "not_ready"), refusal(401)]
    )
    client = make()
    assert (client.is_ready(), client.is_ready()) == (True, False)
    with pytest.raises(promptjobs.AuthenticationError):
        client.is_ready()
    assert route.call_count == 3


# --- where, and with which key ---------------------------------------------------------------------------------------


@respx.mock
def test_address_and_key_are_the_environments_unless_given(make: Make, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PROMPTJOBS_URL", "http://elsewhere.test/below/")
    monkeypatch.setenv("PROMPTJOBS_API_KEY", "test-key")
    route = respx.get(url__startswith="http://elsewhere.test/below/api/").respond(json=job())
    make(None).job(JOB)
    assert route.calls.last.request.headers["x-api-key"] == "test-key"
    make(None, api_key="other").job(JOB)
    assert route.calls.last.request.headers["x-api-key"] == "other"
    make(None, api_key="").job(JOB)
    assert "x-api-key" not in route.calls.last.request.headers


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_proxy_of_the_environment_is_not_asked_for_loopback(monkeypatch: pytest.MonkeyPatch, kind: Any):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "")
    for url, is_proxied in (("http://127.0.0.1:8700", False), ("http://localhost:8700", False), (URL, True)):
        with Driven(kind, url) as client:
            assert bool(client.client._sender._http._mounts) is is_proxied


@pytest.mark.parametrize(
    "url", ["ftp://host", "host:8700", "http://", "http://a b", "http://a:99999", "http://a?b=c", "http://a:0"]
)
def test_an_address_that_is_none_is_refused(make: Make, url: str):
    with pytest.raises(promptjobs.ArgumentInvalid, match="url"):
        make(url)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"api_key": "test\nkey"}, "api_key"),
        ({"api_key": "k" * 5000}, "api_key"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"timeout_seconds": float("inf")}, "timeout_seconds"),
        ({"max_retries": 11}, "max_retries"),
        ({"max_retries": -1}, "max_retries"),
    ],
)
def test_options_that_cannot_be_used_are_named(make: Make, options: dict[str, Any], name: str):
    with pytest.raises(promptjobs.ArgumentInvalid, match=f"^{name}: ") as raised:
        make(**options)
    assert "test\nkey" not in str(raised.value)


def test_secrets_stand_in_no_text_about_a_client(make: Make):
    with pytest.raises(promptjobs.ArgumentInvalid) as raised:
        make("http://user:test-secret@host")
    assert "test-secret" not in str(raised.value)
    client = make(api_key="test-secret")
    assert "test-secret" not in repr(client.client) + repr(client.client._connection)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@respx.mock
def test_a_client_of_ones_own_is_used_and_left_open(kind: Any):
    respx.get(JOB_URL).respond(json=job())
    given = (httpx.Client if kind is Client else httpx.AsyncClient)(headers={"x-mine": "1"}, follow_redirects=True)
    with Driven(kind, URL, http_client=given) as client:
        client.job(JOB)
    assert respx.calls.last.request.headers["x-mine"] == "1"
    assert not given.is_closed
