"""What the OpenAPI description says of the events of streams: those of a job, and those of an experiment."""

from collections.abc import Mapping
from typing import Any

from promptjobs.api.experiment_schemas import ExperimentEndedObject, ExperimentEventObject
from promptjobs.api.job_schemas import EXAMPLE_TIME
from promptjobs.api.openapi_examples import PREFIX
from promptjobs.api.parameters import EXAMPLE_EXPERIMENT, EXAMPLE_ID

Json = dict[str, Any]

STREAM = "text/event-stream"

SENT_EVENT: Json = {
    "title": "SentEvent",
    "description": "One event of the stream, by its fields.",
    "type": "object",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string", "description": "The event's `seq`."},
        "event": {"type": "string", "description": "The event's `type`."},
        "data": {
            "type": "string",
            "description": "The event, as the pages have it.",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": PREFIX + "EventObject"},
        },
    },
    "examples": [
        {
            "id": "1",
            "event": "prompt.learning.created",
            "data": f'{{"seq": 1, "type": "prompt.learning.created", "message": "Created a gepa job", "level": "info", '
            f'"data": {{}}, "created_at": "{EXAMPLE_TIME}", "job_id": "{EXAMPLE_ID}", "timestamp_ms": 1777887000123}}',
        }
    ],
}

SENT_EXPERIMENT_EVENT: Json = {
    "title": "SentExperimentEvent",
    "description": "One event of the stream, by its fields.",
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "id": {
            "type": "string",
            "description": "What has been sent of all jobs so far, as position:seq of each; `end` behind the last"
            " event. Events that are sent together have it on the last of them.",
        },
        "event": {
            "type": "string",
            "description": "The event's `type`; of the last one `experiment.` and the experiment's status.",
        },
        "data": {
            "type": "string",
            "description": "An event of a job, with its place in the experiment; of the last one how it has ended.",
            "contentMediaType": "application/json",
            "contentSchema": {
                "anyOf": [{"$ref": PREFIX + "ExperimentEventObject"}, {"$ref": PREFIX + "ExperimentEndedObject"}]
            },
        },
    },
    "examples": [
        {
            "id": "1:17.3:1",
            "event": "prompt.learning.created",
            "data": f'{{"seq": 1, "type": "prompt.learning.created", "message": "Created a gepa job", "level": "info", '
            f'"data": {{}}, "created_at": "{EXAMPLE_TIME}", "job_id": "{EXAMPLE_ID}", "timestamp_ms": 1777887000123, '
            f'"experiment_id": "{EXAMPLE_EXPERIMENT}", "position": 3, "label": "gepa, seed=3"}}',
        }
    ],
}

SENT: Mapping[str, Json] = {"stream_events": SENT_EVENT, "stream_experiment_events": SENT_EXPERIMENT_EVENT}
"""What operations send on their streams."""

OBJECTS = (ExperimentEventObject, ExperimentEndedObject)
"""What only streams hold, so that no route names it."""
