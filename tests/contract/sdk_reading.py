"""How the published client reads what it is answered: written anew from its contract, to find what it would miss."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

STOPS_AT = {f"prompt.learning.{algorithm}.{end}" for algorithm in ("gepa", "mipro") for end in ("complete", "failed")}


@dataclass
class Results:
    """What `get_results` and `get_best_prompt_text` are made of: events, and nothing else."""

    best_prompt: Json | None = None
    best_score: float | None = None
    top_prompts: list[Json] = field(default_factory=list)
    attempted: list[Json] = field(default_factory=list)
    optimized: list[Json] = field(default_factory=list)
    validation: list[Json] = field(default_factory=list)

    def text(self, rank: int) -> str | None:
        return next((each["full_text"] for each in self.top_prompts if each["rank"] == rank), None)


def results_of(events: Sequence[Json]) -> Results:
    found, validated = Results(), dict[int, float]()
    for event in events:
        data = event["data"]
        match event["type"]:
            case "prompt.learning.best.prompt":
                found.best_prompt, found.best_score = data["best_prompt"], data["best_score"]
            case "prompt.learning.top.prompt.content":
                found.top_prompts.append(data)
            case "prompt.learning.final.results":
                found.attempted, found.optimized = data["attempted_candidates"], data["optimized_candidates"]
            case "prompt.learning.validation.scored":
                found.validation.append(data)
                validated[data["rank"]] = data["accuracy"]
    found.best_score = validated.get(0, found.best_score)
    return found


def events_of(chunks: Sequence[str]) -> tuple[list[Json], list[Json]]:
    """All events of a stream as it came in chunks, and those that reach the client's handlers.

    It marks the end while it reads a chunk, and then hands over nothing more: what shares a chunk with the terminal
    event is lost.
    """
    parsed, handed_over, buffer = list[Json](), list[Json](), ""
    for chunk in chunks:
        buffer += chunk
        waiting = []
        while "\n\n" in buffer:
            block, buffer = buffer.split("\n\n", 1)
            event = _event_of(block)
            if event is not None:
                waiting.append(event)
        parsed += waiting
        ends = any(event["type"] in STOPS_AT for event in waiting)
        handed_over += waiting[:1] if ends else waiting
        if ends:
            break
    return parsed, handed_over


def _event_of(block: str) -> Json | None:
    """The last `data:` line counts; comments and other lines do not."""
    event: Json | None = None
    for line in block.split("\n"):
        if line.startswith("data:"):
            event = json.loads(line[5:].strip())
    return event


def prompt_of(snapshot: Json) -> list[Json] | None:
    """Where the client looks for a prompt in a snapshot, in that order."""
    inner = snapshot.get("object", {})
    for messages in (snapshot.get("messages"), inner.get("messages"), inner.get("text_replacements")):
        if messages:
            found: list[Json] = messages
            return found
    return None
