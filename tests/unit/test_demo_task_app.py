"""The demo's task app: it calls the model that it is given, scores strictly, and turns no outage into a zero."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from promptjobs.demo.dataset import BASELINE_SYSTEM, load_dataset
from promptjobs.demo.programs import TICKETS_ENV, TRIAGE_ENV, triage_program
from promptjobs.demo.review import parse_label, review
from promptjobs.demo.serving import serving
from promptjobs.demo.task_app import COUNTED_ENV, completions_url, create_task_app

DATASET = load_dataset()
TICKET = DATASET.ticket(0)


@dataclass
class ScriptedModel:
    """A model that gives one answer to everything and remembers what it was asked."""

    body: Any
    status: int = 200
    requests: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)

    def app(self) -> web.Application:
        async def complete(request: web.Request) -> web.Response:
            self.requests.append((request.path_qs, dict(request.headers), await request.json()))
            return web.json_response(self.body, status=self.status)

        app = web.Application()
        app.router.add_post("/{path:.*}", complete)
        return app


def completion(content: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": content}}], "usage": {"total_tokens": 3}}


def rollout_request(inference_url: str, seed: int = TICKET.seed, **config: Any) -> dict[str, Any]:
    return {
        "run_id": "run-1",
        "env": {"env_name": "demo", "config": {"index": 0}, "seed": seed},
        "policy": {"policy_name": "p", "config": {"model": "m", "inference_url": inference_url, **config}},
        "ops": ["agent", "env"],
        "mode": "eval",
        "record": {"trajectories": True},
    }


@asynccontextmanager
async def world(model: ScriptedModel, **options: Any) -> AsyncIterator[tuple[str, str, aiohttp.ClientSession]]:
    async with (
        serving(model.app()) as model_url,
        serving(create_task_app(**options)) as task_url,
        aiohttp.ClientSession() as session,
    ):
        yield model_url, task_url, session


async def post_rollout(model: ScriptedModel, path: str = "/v1", **config: Any) -> tuple[int, dict[str, Any]]:
    async with world(model) as (model_url, task_url, session):
        body = rollout_request(f"{model_url}{path}", **config)
        async with session.post(f"{task_url}/rollout", json=body) as response:
            return response.status, await response.json()


async def test_a_right_label_scores_one_and_the_answer_has_the_shape_of_the_dialect():
    model = ScriptedModel(completion(f' "{TICKET.label}".\n'))
    status, body = await post_rollout(model, trace_correlation_id="trace_7", temperature=0.5, max_completion_tokens=9)
    assert status == 200
    assert body["metrics"]["outcome_reward"] == 1.0
    assert body["metrics"]["outcome_objectives"] == {"reward": 1.0}
    assert body["metrics"]["details"]["output"] == f' "{TICKET.label}".\n'
    assert body["metrics"]["details"]["expected"] == TICKET.label
    assert body["run_id"] == "run-1"
    assert body["trace_correlation_id"] == body["trace"]["metadata"]["trace_correlation_id"] == "trace_7"
    messages = [
        {"role": "system", "content": BASELINE_SYSTEM},
        {"role": "user", "content": f"Customer message: {TICKET.message}"},
    ]
    assert body["trace"]["event_history"][0]["llm_request"] == {"messages": messages}
    _, _, sent = model.requests[0]
    assert sent == {"model": "m", "messages": messages, "temperature": 0.5, "max_completion_tokens": 9}


async def test_prose_around_the_right_label_scores_zero_and_the_feedback_says_why():
    status, body = await post_rollout(ScriptedModel(completion(f"It looks like {TICKET.label}.")))
    assert status == 200
    assert body["metrics"]["outcome_reward"] == 0.0
    feedback = body["metrics"]["details"]["feedback"]
    assert "label only" in feedback
    assert TICKET.label in feedback
    assert DATASET.house_rules[TICKET.label].rule in feedback


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("red_box", "red_box"),
        ("  'red_box'. \n", "red_box"),
        ("`red_box`", "red_box"),
        ("Red_box", None),
        ("red_box, blue_box", None),
        ("It is red_box", None),
        ("", None),
    ],
)
def test_only_a_bare_label_counts_as_an_answer(answer, label):
    assert parse_label(answer, ("red_box", "blue_box")) == label


def test_the_review_of_a_wrong_label_names_it_and_the_right_one():
    other = next(label for label in DATASET.labels if label != TICKET.label)
    verdict = review(DATASET, TICKET, other)
    assert verdict.score == 0.0
    assert verdict.feedback.startswith(f"Wrong: the answer is {other}, but the correct label is {TICKET.label}.")


@pytest.mark.parametrize(
    ("given", "dialled"),
    [
        ("http://h/v1", "http://h/v1/chat/completions"),
        ("http://h/v1/", "http://h/v1/chat/completions"),
        ("http://h/v1/chat/completions", "http://h/v1/chat/completions"),
        ("http://h/v1/trial?cid=trace_1", "http://h/v1/trial/chat/completions?cid=trace_1"),
        ("http://h/v1/chat/completions?cid=a&b=c", "http://h/v1/chat/completions?cid=a&b=c"),
    ],
)
def test_every_form_of_inference_url_leads_to_the_completions(given, dialled):
    assert completions_url(given) == dialled


async def test_the_query_of_the_inference_url_and_the_key_reach_the_model():
    model = ScriptedModel(completion("x"))
    async with world(model, api_key="test-key") as (model_url, task_url, session):
        body = rollout_request(f"{model_url}/v1/trial?cid=trace_1")
        async with session.post(f"{task_url}/rollout", json=body, headers={"X-API-Key": "test-key"}) as response:
            assert response.status == 200
    path, headers, _ = model.requests[0]
    assert path == "/v1/trial/chat/completions?cid=trace_1"
    assert (headers["X-API-Key"], headers["Authorization"]) == ("test-key", "Bearer test-key")


@pytest.mark.parametrize(
    "model",
    [
        ScriptedModel({"error": "busy"}, status=429),
        ScriptedModel({"error": "broken"}, status=500),
        ScriptedModel({"choices": []}),
        ScriptedModel("no completion"),
        ScriptedModel(completion(None)),
    ],
)
async def test_a_failing_model_is_an_outage_and_not_a_score(model):
    status, body = await post_rollout(model)
    assert status == 502
    assert body["code"] == "world_error"
    assert "metrics" not in body


async def test_a_silent_model_is_an_outage_after_the_deadline():
    released = asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        await released.wait()
        return web.Response()

    model = web.Application()
    model.router.add_post("/v1/chat/completions", hang)
    async with (
        serving(model) as model_url,
        serving(create_task_app(model_timeout_seconds=0.05)) as task_url,
        aiohttp.ClientSession() as session,
    ):
        response = await session.post(f"{task_url}/rollout", json=rollout_request(f"{model_url}/v1"))
        assert (response.status, (await response.json())["detail"]) == (502, "the model did not answer in time")
        released.set()


async def test_a_model_that_is_not_there_is_an_outage():
    async with serving(web.Application()) as gone:
        pass
    async with (
        world(ScriptedModel(None)) as (_, task_url, session),
        session.post(f"{task_url}/rollout", json=rollout_request(f"{gone}/v1")) as response,
    ):
        assert response.status == 502


@pytest.mark.parametrize("headers", [{}, {"X-API-Key": "wrong"}, {"Authorization": "Bearer wrong"}])
async def test_a_missing_or_wrong_key_is_refused_without_an_echo(headers):
    async with world(ScriptedModel(None), api_key="test-key") as (_, task_url, session):
        for path in ("/health", "/task_info"):
            async with session.get(f"{task_url}{path}", headers=headers) as response:
                assert response.status == 400
                text = await response.text()
        assert '"unauthorised"' in text
        assert "test-key" not in text
        assert "wrong" not in text.replace("missing or wrong", "")
        async with session.get(f"{task_url}/") as response:
            assert response.status == 200


@pytest.mark.parametrize(
    "headers",
    [{"X-API-Key": "test-key"}, {"X-API-Keys": "other, test-key"}, {"Authorization": "Bearer test-key"}],
)
async def test_the_key_is_accepted_in_each_header(headers):
    async with (
        world(ScriptedModel(None), api_key="test-key") as (_, task_url, session),
        session.get(f"{task_url}/health", headers=headers) as response,
    ):
        assert (await response.json()) == {"healthy": True, "auth": {"required": True, "expected_prefix": None}}


async def test_task_info_describes_the_set_or_the_seeds_that_are_asked_for():
    async with world(ScriptedModel(None)) as (_, task_url, session):

        async def get(query: str) -> Any:
            async with session.get(f"{task_url}/task_info{query}") as response:
                assert response.status == 200
                return await response.json()

        assert (await get(""))["taskset"]["splits"]["train"] == {"first": 0, "last": 99, "count": 100}
        one = await get("?seed=0")
        assert one["dataset"]["message"] == TICKET.message
        assert "label" not in one["dataset"]
        assert await get("?seed=0&seed=2000") == [one, await get("?seed=2000")]


async def test_triage_makes_two_calls_and_the_second_one_reads_what_the_first_one_said():
    model = ScriptedModel(completion(TICKET.label))
    async with world(model) as (model_url, task_url, session):
        body = rollout_request(f"{model_url}/v1/trial?cid=trace_1", trace_correlation_id="trace_1")
        body["env"]["env_name"] = TRIAGE_ENV
        async with session.post(f"{task_url}/rollout", json=body) as response:
            assert response.status == 200
            reply = await response.json()
    summarize, classify = triage_program(DATASET.labels).steps
    sent = [[message["content"] for message in asked["messages"]] for _, _, asked in model.requests]
    assert sent == [
        [summarize.system, f"Customer message: {TICKET.message}"],
        [classify.system, f"Summary: {TICKET.label}"],
    ]
    assert {path for path, _, _ in model.requests} == {"/v1/trial/chat/completions?cid=trace_1"}
    assert reply["metrics"]["outcome_reward"] == 1.0
    assert reply["metrics"]["details"]["summarize"] == TICKET.label
    calls = [event["llm_request"]["messages"] for event in reply["trace"]["event_history"]]
    assert [[message["content"] for message in messages] for messages in calls] == sent


async def test_task_info_describes_each_program_by_its_stages_and_what_they_read():
    async with (
        world(ScriptedModel(None)) as (_, task_url, session),
        session.get(f"{task_url}/task_info") as response,
    ):
        programs = {each["env_name"]: each for each in (await response.json())["programs"]}
    assert [stage["stage_id"] for stage in programs[TICKETS_ENV]["stages"]] == ["classify"]
    triage = programs[TRIAGE_ENV]
    assert [stage["stage_id"] for stage in triage["stages"]] == ["summarize", "classify"]
    assert triage["edges"] == [["summarize", "classify"]]
    assert [stage["input"] for stage in triage["stages"]] == ["Customer message: {message}", "Summary: {summary}"]


async def test_environment_that_counts_seeds_from_zero_reaches_every_ticket_once():
    tickets = list(DATASET.tickets.values())
    async with world(ScriptedModel(completion("x"))) as (model_url, task_url, session):
        for seed in (0, 99, 100, len(tickets) - 1, len(tickets)):
            body = rollout_request(f"{model_url}/v1", seed)
            body["env"]["env_name"] = COUNTED_ENV
            async with session.post(f"{task_url}/rollout", json=body) as response:
                if seed == len(tickets):
                    assert response.status == 422
                    continue
                details = (await response.json())["metrics"]["details"]
                assert (details["seed"], details["message"]) == (seed, tickets[seed].message)


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"env": {"env_name": "demo"}}, "env.seed: "),
        ({"env": {"seed": 999}}, "env.seed: seed 999 is not in the data set"),
        ({"policy": {"config": {"model": "m"}}}, "policy.config.inference_url: "),
        ({"policy": {"config": {"model": "m", "inference_url": "ftp://x"}}}, "policy.config.inference_url: "),
    ],
)
async def test_an_incomplete_rollout_request_is_refused(change, detail):
    async with (
        world(ScriptedModel(None)) as (model_url, task_url, session),
        session.post(f"{task_url}/rollout", json=rollout_request(model_url) | change) as response,
    ):
        assert response.status == 422
        assert (await response.json())["detail"].startswith(detail)


async def test_a_body_that_is_not_json_is_refused():
    async with (
        world(ScriptedModel(None)) as (_, task_url, session),
        session.post(f"{task_url}/rollout", data=b"{") as response,
    ):
        assert response.status == 422
