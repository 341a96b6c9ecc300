"""Calls of a program's modules through the interceptor, with everything read from the database."""

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from promptjobs.core.prompt import render
from promptjobs.db.session import Database
from tests.fakes.interceptor_world import World, running_world
from tests.fakes.programs import PROGRAM

BETTER = PROGRAM.with_text({"plan/system_0": "Plan well: {task}!", "solve/system_0": "Solve\nwell."})
VALUES = {"task": "count to {plan}", "plan": "1. start\n2. go on"}
TOOLS = [{"type": "function", "function": {"name": "lookup", "parameters": {}}}]


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    async with running_world(database) as world:
        await world.connection.execute(
            "UPDATE jobs SET config = (config::jsonb || $1::jsonb)::text",
            orjson.dumps(
                {
                    "algorithm": "gepa",
                    "gepa": {
                        "modules": [
                            {"module_id": "plan", "allowed_tools": ["lookup"]},
                            {"module_id": "solve", "allowed_tools": []},
                        ]
                    },
                }
            ).decode(),
        )
        for candidate_id, template in (("baseline", PROGRAM), ("candidate", BETTER)):
            prompt = orjson.dumps(template.to_json()).decode()
            await world.connection.execute(
                "UPDATE candidates SET prompt = $1 WHERE candidate_id = $2", prompt, candidate_id
            )
        yield world


def said(module: str, **more: Any) -> dict[str, Any]:
    return {"messages": [message.to_json() for message in render(PROGRAM.part(module), VALUES)], **more}


async def test_each_call_gets_the_candidates_messages_of_its_module(world: World) -> None:
    token = await world.token()
    for module in ("plan", "solve"):
        status, _ = await world.post(token, **said(module, tools=TOOLS if module == "plan" else None))
        assert status == 200
        held = {name: value for name, value in VALUES.items() if module == "solve" or name == "task"}
        expected = [message.to_json() for message in render(BETTER.part(module), held)]
        assert world.upstream.bodies[-1]["messages"] == expected
    assert [orjson.loads(call.messages) for call in await world.calls(token)] == [
        body["messages"] for body in world.upstream.bodies
    ]


async def test_a_tool_that_the_module_may_not_carry_is_refused_and_recorded(world: World) -> None:
    token = await world.token()
    status, raw = await world.post(token, **said("solve", tools=TOOLS))
    error = orjson.loads(raw)["error"]
    assert (status, error["code"], error["param"], error["type"]) == (
        400,
        "tool_not_allowed",
        "tools",
        "invalid_request_error",
    )
    assert "module 'solve' may not carry the tool 'lookup'; allowed_tools: none" in error["message"]
    [call] = await world.calls(token)
    assert (call.status, call.error_code, call.cost_usd) == (400, "tool_not_allowed", 0.0)
    assert world.upstream.bodies == []


async def test_a_call_of_no_module_is_refused_and_names_the_closest(world: World) -> None:
    token = await world.token()
    messages = said("solve")["messages"]
    status, raw = await world.post(token, messages=[messages[0], {"role": "user", "content": "Solve: it"}])
    error = orjson.loads(raw)["error"]
    assert (status, error["code"]) == (400, "prompt_not_matched")
    assert "'solve' comes closest" in error["message"]
    assert world.upstream.bodies == []
