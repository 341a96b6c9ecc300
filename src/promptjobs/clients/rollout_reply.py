"""Reading a task app's reply to a rollout: the score strictly, everything else tolerantly, in both dialects."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from promptjobs.clients.redaction import redacted
from promptjobs.errors import InvalidReply, InvalidScore, TaskAppFailed

ROUNDING = 1e-9
"""A weighted sum may miss 0 or 1 by this much and is then taken for it."""

FEEDBACK_NAMES = ("feedback", "explanation")
OUTPUT_NAMES = ("output", "response", "prediction", "predicted")
EXPECTED_NAMES = ("expected", "expected_output", "expected_answer", "gold", "label")
DETAIL_CHARACTERS = 500
FEEDBACK_FROM_DETAILS = 2_000
"""Characters of the details that serve as feedback where the task app writes none."""

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RolloutReply:
    """What a rollout gave. score is in [0, 1]; the texts are "" where the task app says nothing; details are JSON."""

    score: float
    output: str
    feedback: str
    expected: str
    details: Json = field(default_factory=dict)


def read_sdk_reply(body: Any, seed: int, url: str) -> RolloutReply:
    """Read the SDK's shape of any era: `reward_info` or `metrics`, and a trace.

    Raises TaskAppFailed where it reports a failure, InvalidScore, and InvalidReply (another seed, not an object).
    """
    reply = _object(body, url)
    status = reply.get("success_status")
    # success_status speaks of the infrastructure, never of the reward: anything but success has no score.
    if isinstance(status, str) and status.lower() not in {"", "success"}:
        detail = _text(reply.get("status_detail"))
        raise TaskAppFailed(url, redacted(f"{status}: {detail}" if detail else status, limit=DETAIL_CHARACTERS))
    _refuse_error(reply, url)
    metered = [found for name in ("reward_info", "metrics") if isinstance(found := reply.get(name), dict)]
    details = next((found for place in metered if isinstance(found := place.get("details"), dict)), {})
    for place in (reply, details):
        _check_seed(place.get("seed"), seed, url)
    places = [details, *metered, reply]
    return _reply(
        score=read_score(_sdk_reward([*metered, reply]), url),
        places=places,
        output=_first_text(places, OUTPUT_NAMES) or _last_response(reply),
        details=details,
    )


def read_policy_url_reply(body: Any, seed: int, url: str) -> RolloutReply:
    """Read `{"results": [{"seed", "score", …}]}`, `{"scores": [score]}` or `{"score": score}`, of exactly one seed.

    Raises as read_sdk_reply does.
    """
    reply = _object(body, url)
    results, scores = reply.get("results"), reply.get("scores")
    if isinstance(results, list) and results:
        place = _result_for(results, seed, url)
        score = place["score"] if "score" in place else place.get("reward")
    else:
        place = reply
        if isinstance(scores, list) and len(scores) != 1:
            raise InvalidReply(url, f"one score was asked for, and {len(scores)} came")
        score = scores[0] if isinstance(scores, list) else reply.get("score")
    _refuse_error(place, url)
    seeds = reply.get("seeds")
    _check_seed(seeds[0] if isinstance(seeds, list) and len(seeds) == 1 else reply.get("seed"), seed, url)
    own = place.get("details")
    details = own if isinstance(own, dict) else {}
    places = [place, details]
    return _reply(read_score(score, url), places, _first_text(places, OUTPUT_NAMES), details)


def read_score(value: Any, url: str) -> float:
    """A finite JSON number in [0, 1]; anything else, a missing one included, raises InvalidScore."""
    if type(value) in (int, float) and math.isfinite(value) and -ROUNDING <= value <= 1 + ROUNDING:
        return min(max(float(value), 0.0), 1.0)
    shown = repr(value) if isinstance(value, str | int | float | None) else type(value).__name__
    raise InvalidScore(url, redacted(shown, limit=80))


def _sdk_reward(places: list[Json]) -> Any:
    """The reward in the order of the eras.

    A present outcome_reward decides, even null: where it exists the legacy fields after it hold mere defaults.
    """
    for place in places:
        if "outcome_reward" in place:
            return place["outcome_reward"]
    return next((value for value in _legacy_rewards(places) if value is not None), None)


def _legacy_rewards(places: list[Json]) -> Iterator[Any]:
    for place in places:
        objectives = place.get("outcome_objectives")
        yield objectives.get("reward") if isinstance(objectives, dict) else None
    for name in ("outcome_score", "mean_return", "reward_mean"):
        for place in places:
            yield place.get(name)
    for name in ("episode_rewards", "episode_returns"):
        for place in places:
            episodes = place.get(name)
            yield episodes[0] if isinstance(episodes, list) and episodes else None


def _reply(score: float, places: list[Json], output: str, details: Json) -> RolloutReply:
    feedback = _first_text(places, FEEDBACK_NAMES)
    if not feedback and details:
        feedback = _text(details)[:FEEDBACK_FROM_DETAILS]
    return RolloutReply(score, output, feedback, _first_text(places, EXPECTED_NAMES), details)


def _object(body: Any, url: str) -> Json:
    if not isinstance(body, dict):
        raise InvalidReply(url, f"a JSON object was expected, and {type(body).__name__} came")
    return body


def _refuse_error(place: Json, url: str) -> None:
    error = place.get("error")
    if error:
        raise TaskAppFailed(url, redacted(_text(error), limit=DETAIL_CHARACTERS))


def _result_for(results: list[Any], seed: int, url: str) -> Json:
    if len(results) != 1:
        raise InvalidReply(url, f"one result was asked for, and {len(results)} came")
    result = _object(results[0], url)
    _check_seed(result.get("seed"), seed, url)
    return result


def _check_seed(got: Any, seed: int, url: str) -> None:
    """A reply need not name its seed, but it must not name another one."""
    if type(got) in (int, str) and str(got) != str(seed):
        raise InvalidReply(url, f"it is for seed {redacted(str(got), limit=40)}, not for seed {seed}")


def _first_text(places: Sequence[Json], names: Sequence[str]) -> str:
    for place in places:
        for name in names:
            value = place.get(name)
            if value is not None and (text := _text(value)):
                return text
    return ""


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _last_response(reply: Json) -> str:
    """What the LLM said last, from the trace (schema 3) or from the steps of older replies."""
    match reply.get("trace"):
        case {"event_history": [*events]}:
            calls = [event for event in events if isinstance(event, dict) and event.get("type") == "lm_call"]
            if calls:
                return _message_text(calls[-1].get("llm_response"))
    match reply.get("trajectories"):
        case [{"steps": [*_, {"tool_calls": [_, *_] as tool_calls}]}, *_]:
            return _text(tool_calls)
    return ""


def _message_text(response: Any) -> str:
    match response:
        case {"message": {"content": str(content)}} if content:
            return content
        case {"message": {"tool_calls": [_, *_] as tool_calls}}:
            return _text(tool_calls)
        case _:
            return ""
