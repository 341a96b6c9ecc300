"""The client of the command line: what it sends, what it reads, and what each failure becomes."""

import json
from typing import Any

import httpx
import pytest
import respx
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.event_streams import JOB, STREAM, URL, event, stream

from promptjobs.cli.remote import DEFAULT_URL, JOBS_PATH, Event, Remote, checked_url
from promptjobs.cli.sse import event_data
from promptjobs.errors import OptionInvalid, RequestRefused, ServiceUnreachable


@respx.mock
def test_job_is_created_with_the_whole_request():
    route = respx.post(f"{URL}{JOBS_PATH}").respond(json={"job_id": JOB})
    with Remote(URL + "/") as remote:
        assert remote.create("gepa", {"prompt_learning": {"a": 1}}, {"b.c": 2}) == {"job_id": JOB}
    sent = route.calls.last.request
    assert json.loads(sent.content) == {
        "algorithm": "gepa",
        "config_body": {"prompt_learning": {"a": 1}},
        "overrides": {"b.c": 2},
    }
    assert sent.headers["content-type"] == "application/json"


@respx.mock
def test_creation_is_not_repeated_when_its_answer_is_lost():
    route = respx.post(f"{URL}{JOBS_PATH}").mock(side_effect=httpx.ReadError("connection reset"))
    with Remote(URL) as remote, pytest.raises(ServiceUnreachable, match="connection reset"):
        remote.create("gepa", {}, {})
    assert route.call_count == 1


@respx.mock
def test_list_and_cancellation_send_what_was_asked():
    listed = respx.get(f"{URL}{JOBS_PATH}").respond(json=[])
    cancelled = respx.post(f"{URL}{JOBS_PATH}/{JOB}/cancel").respond(json={"job_id": JOB})
    with Remote(URL) as remote:
        assert remote.jobs(5, "running") == []
        remote.cancel(JOB, "enough")
    assert dict(listed.calls.last.request.url.params) == {"limit": "5", "status": "running"}
    assert json.loads(cancelled.calls.last.request.content) == {"reason": "enough"}


PROBLEM = {"code": "invalid_config", "detail": "policy.model: is required", "param": "policy.model", "status": 422}


@pytest.mark.parametrize(
    ("answer", "kind", "exit_code", "told"),
    [
        (httpx.Response(422, json=PROBLEM), RequestRefused, 2, "policy.model: is required (invalid_config)"),
        (httpx.Response(409, json={"code": "job_conflict", "detail": "it is over"}), RequestRefused, 2, "it is over"),
        (httpx.Response(422, json=PROBLEM | {"detail": "wrong"}), RequestRefused, 2, "policy.model: wrong"),
        (httpx.Response(503, json={"code": "database_unavailable", "detail": "later"}), ServiceUnreachable, 3, "later"),
        (httpx.Response(404, text="<html>"), ServiceUnreachable, 3, "HTTP 404, which is no answer of promptjobs"),
        (httpx.Response(302, headers={"location": "/login"}), ServiceUnreachable, 3, "HTTP 302"),
        (httpx.Response(200, text="<html>"), ServiceUnreachable, 3, "no JSON"),
        (httpx.Response(200, json=[1]), ServiceUnreachable, 3, "no object"),
        (httpx.ConnectError("[Errno 111] Connection refused"), ServiceUnreachable, 3, f"{URL}: Connection refused"),
        (httpx.ReadTimeout(""), ServiceUnreachable, 3, "ReadTimeout"),
    ],
)
@respx.mock
def test_each_failure_has_its_error_and_exit_code(answer: Any, kind: type, exit_code: int, told: str):
    respx.get(f"{URL}{JOBS_PATH}/{JOB}").mock(side_effect=[answer])
    with Remote(URL) as remote, pytest.raises(kind) as raised:
        remote.job(JOB)
    assert told in str(raised.value)
    assert raised.value.exit_code == exit_code


@respx.mock
def test_events_resume_behind_the_given_one_and_come_as_they_are():
    sent = [event(4), event(5, "line\u2028separator, \x85, and \x0b"), event(6, data="ü")]
    route = respx.get(STREAM).respond(content=stream(*sent))
    with Remote(URL) as remote:
        found = list(remote.events(JOB, 3))
    assert [json.loads(each.text) for each in found] == sent
    assert [each.message for each in found] == [each["message"] for each in sent]
    assert route.calls.last.request.headers["last-event-id"] == "3"


@respx.mock
def test_events_that_are_known_are_not_told_again():
    respx.get(STREAM).respond(content=stream(event(3), event(4)))
    with Remote(URL) as remote:
        assert [each.seq for each in remote.events(JOB, 3)] == [4]


@respx.mock
def test_stream_of_a_job_that_is_over_is_empty():
    respx.get(STREAM).respond(204)
    with Remote(URL) as remote:
        assert list(remote.events(JOB, 9)) == []


@respx.mock
def test_unknown_job_is_a_refusal_of_its_stream():
    respx.get(STREAM).respond(404, json={"code": "job_not_found", "detail": f"there is no job '{JOB}'"})
    with Remote(URL) as remote, pytest.raises(RequestRefused, match="there is no job"):
        list(remote.events(JOB))


@respx.mock
def test_stream_with_something_else_in_it_is_no_service():
    respx.get(STREAM).respond(content=b"data: hello\n\n")
    with Remote(URL) as remote, pytest.raises(ServiceUnreachable, match="cannot be read"):
        list(remote.events(JOB))


@respx.mock
def test_id_cannot_lead_to_another_path():
    route = respx.get(url__startswith=URL).respond(404, json={"code": "job_not_found", "detail": "none"})
    with Remote(URL) as remote, pytest.raises(RequestRefused):
        remote.job("../../healthz?a=b")
    assert route.calls.last.request.url.raw_path.decode() == f"{JOBS_PATH}/..%2F..%2Fhealthz%3Fa%3Db"


def test_proxy_of_the_environment_is_not_asked_for_loopback(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "")
    with Remote(DEFAULT_URL) as remote:
        assert remote._client._mounts == {}
    with Remote(URL) as remote:
        assert remote._client._mounts != {}


@pytest.mark.parametrize(
    "url", ["ftp://host", "host:8700", "", "http://", "http://a b", "http://a:99999", "http://a?b=c"]
)
def test_address_that_is_none_is_refused(url: str):
    with pytest.raises(OptionInvalid, match="--url"):
        checked_url(url)


@given(st.lists(st.text(), max_size=5), st.data())
def test_events_do_not_depend_on_where_the_stream_is_cut(messages: list[str], data: st.DataObject):
    events = [event(number, message) for number, message in enumerate(messages, 1)]
    whole = stream(*events)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    chunks = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert [Event.parse(each).message for each in event_data(chunks)] == messages


def test_event_that_is_cut_off_is_dropped():
    assert list(event_data([b"data: 1\n\ndata: 2\n"])) == [b"1"]


def test_lines_may_end_as_on_other_systems_and_data_may_have_several():
    assert list(event_data([b"data: 1\r\ndata:2\r\n\r\n", b": comment\n\n"])) == [b"1\n2"]
