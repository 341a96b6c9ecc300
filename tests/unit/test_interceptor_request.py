"""Calls as they are read: the routes they come on, and the policy that is put in force."""

import hashlib
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptjobs.core.config import PolicyConfig
from promptjobs.errors import (
    CallInvalid,
    CallRefused,
    EndpointUnknown,
    MethodNotAllowed,
    TokenUnknown,
    ToolNotAllowed,
)
from promptjobs.interceptor.app import PREFIX, read_route
from promptjobs.interceptor.request import Request, check_tools, read_request
from promptjobs.interceptor.terms import Policy

POLICY = Policy.of(PolicyConfig(provider="openai", model="gpt-4o-mini", temperature=0.5, max_completion_tokens=100))
MESSAGES = [{"role": "user", "content": "x"}]
SECRET = "s" * 32


def read(**body: Any) -> Request:
    return read_request(orjson.dumps({"messages": MESSAGES, **body}))


def sent(**body: Any) -> dict[str, Any]:
    return read(**body).under(POLICY)


def test_policy_stands_in_for_what_is_missing_and_bounds_what_is_given() -> None:
    policy = {"model": "gpt-4o-mini", "temperature": 0.5, "max_completion_tokens": 100}
    assert sent() == {"messages": MESSAGES, **policy}
    assert sent(temperature=None, max_tokens=None, model=None) == sent()
    assert sent(max_tokens=7, max_completion_tokens=9) == {"messages": MESSAGES, **policy, "max_completion_tokens": 7}
    assert sent(max_tokens=10**9, temperature=2) == {"messages": MESSAGES, **policy, "temperature": 2}
    assert sent(tools=[1], logprobs=True, n=1, models=["x"], route="fallback") == {
        "messages": MESSAGES, **policy, "tools": [1], "logprobs": True, "n": 1,
    }  # fmt: skip


def test_a_call_that_is_read_once_can_be_put_under_any_policy() -> None:
    request = read(max_tokens=50)
    other = replace(POLICY, model="other", temperature=0.0, max_completion_tokens=20)
    bodies = [request.under(policy) for policy in (POLICY, other, POLICY)]
    assert [(b["model"], b["temperature"], b["max_completion_tokens"]) for b in bodies] == [
        ("gpt-4o-mini", 0.5, 50), ("other", 0.0, 20), ("gpt-4o-mini", 0.5, 50),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        {"messages": None},
        {"messages": {}},
        {"messages": ["x"]},
        {"messages": [{"content": "x"}]},
        {"messages": [{"role": 1, "content": "x"}]},
        {"messages": [{"role": "user", "content": 1}]},
        {"messages": [{"role": "user", "content": ["x"]}]},
        {"messages": [{"role": "user", "content": [{"text": "x"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        {"n": 2},
        {"n": True},
        {"max_tokens": 0},
        {"max_tokens": True},
        {"max_completion_tokens": 1.5},
        {"temperature": "0"},
        {"temperature": True},
        {"stream": "yes"},
    ],
    ids=str,
)
def test_bodies_that_cannot_be_bounded_or_rewritten_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(CallInvalid):
        read(**body)


@pytest.mark.parametrize("raw", [b"", b"1e999", b'{"messages":[{"role":"user","content":"\\ud800"}]}'])
def test_what_is_no_json_is_refused(raw: bytes) -> None:
    with pytest.raises(CallInvalid):
        read_request(raw)


def test_not_a_number_is_no_temperature() -> None:
    with pytest.raises(CallInvalid, match="temperature"):
        read_request(b'{"messages":[{"role":"user"}],"temperature":NaN}')


ENDINGS = st.lists(st.sampled_from(["/chat/completions", "/v1", "/"]), max_size=4).map("".join)
CIDS = st.sampled_from(["", "/trace_0a", "/cid_1", "/eval_x"])


@given(CIDS, ENDINGS, st.sampled_from([b"", b"cid=x", b"cid=x/chat/completions", b"cid=x/v1/chat/completions"]))
def test_every_way_to_build_the_url_leads_to_the_token(cid: str, ending: str, query: bytes) -> None:
    route = read_route("POST", f"{PREFIX}{SECRET}{cid}{ending}", query)
    assert route.digest == hashlib.sha256(SECRET.encode()).digest()
    assert not route.lists_models


def status_of(method: str, path: str) -> int:
    try:
        read_route(method, path, b"")
    except CallRefused as exc:
        return exc.status
    return 200


@given(st.text(), st.sampled_from(["GET", "POST"]), st.sampled_from(["", PREFIX, f"{PREFIX}{SECRET}/"]))
def test_any_path_is_a_route_or_a_refusal(path: str, method: str, start: str) -> None:
    assert status_of(method, start + path) in (200, 401, 404, 405)


@pytest.mark.parametrize(
    ("method", "path", "error"),
    [
        ("POST", "/v1/" + SECRET, EndpointUnknown),
        ("POST", PREFIX, TokenUnknown),
        ("POST", PREFIX + "short", TokenUnknown),
        ("POST", f"{PREFIX}{SECRET}/a/b", EndpointUnknown),
        ("POST", f"{PREFIX}{SECRET}/responses", EndpointUnknown),
        ("POST", f"{PREFIX}{SECRET}/completions", EndpointUnknown),
        ("POST", f"{PREFIX}{SECRET}/models", MethodNotAllowed),
        ("GET", f"{PREFIX}{SECRET}/chat/completions", MethodNotAllowed),
        ("OPTIONS", f"{PREFIX}{SECRET}", MethodNotAllowed),
    ],
)
def test_other_routes_are_refused(method: str, path: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        read_route(method, path, b"")


@pytest.mark.parametrize(("path", "query"), [("/models", b""), ("/trace_1/v1/models", b""), ("/t", b"cid=t/models")])
def test_models_are_listed(path: str, query: bytes) -> None:
    assert read_route("GET", f"{PREFIX}{SECRET}{path}", query).lists_models


ALLOWED: dict[str, tuple[str, ...]] = {"plan": ("lookup",), "solve": ()}


def function(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize(
    ("body", "module"),
    [
        ({}, "plan"),
        ({"tools": None}, "solve"),
        ({"tools": []}, "solve"),
        ({"tools": [function("lookup"), {"type": "custom", "custom": {"name": "lookup"}}]}, "plan"),
        ({"functions": [{"name": "lookup"}]}, "plan"),
    ],
)
def test_tools_that_a_module_may_carry_pass(body: dict[str, Any], module: str) -> None:
    check_tools(body, module, ALLOWED[module])


@pytest.mark.parametrize(
    ("body", "module", "tool"),
    [
        ({"tools": [function("lookup"), function("delete")]}, "plan", "delete"),
        ({"tools": [function("lookup")]}, "solve", "lookup"),
        ({"functions": [{"name": "delete"}]}, "plan", "delete"),
        ({"tools": [{"type": "web_search", "name": "lookup"}]}, "plan", "web_search"),
        ({"tools": [{"type": "custom", "custom": {"name": "delete"}, "name": "lookup"}]}, "plan", "delete"),
    ],
)
def test_another_tool_is_refused_by_its_name(body: dict[str, Any], module: str, tool: str) -> None:
    with pytest.raises(ToolNotAllowed) as refused:
        check_tools(body, module, ALLOWED[module])
    assert (refused.value.tool, refused.value.module, refused.value.param) == (tool, module, "tools")


@pytest.mark.parametrize("tools", ["lookup", {"name": "lookup"}, ["lookup"], [{}], [{"type": 5}]])
def test_tools_that_cannot_be_read_are_refused_where_they_are_limited(tools: Any) -> None:
    with pytest.raises(CallInvalid):
        check_tools({"tools": tools}, "plan", ALLOWED["plan"])
