"""Examples of what is sent and answered: those of the schemas, and for the others ones that follow from them."""

from collections.abc import Mapping
from typing import Any

from promptjobs.api.job_schemas import EXAMPLE_TIME
from promptjobs.api.parameters import EXAMPLE_EXPERIMENT, EXAMPLE_ID

Json = dict[str, Any]

PREFIX = "#/components/schemas/"

VALUES: Mapping[str, Any] = {
    "job_id": EXAMPLE_ID,
    "parent_id": EXAMPLE_ID,
    "experiment_id": EXAMPLE_EXPERIMENT,
    "candidate_id": "c_3f2a",
    "snapshot_id": "snap_0c9f6b1f2d3e4a5b8c7d6e5f4a3b2c1d",
}
"""Values of fields, by their names, where what the type allows would say little."""


def example_of(schema: Json, schemas: Mapping[str, Json], name: str = "") -> Any:
    """A value of `schema`. schemas: those that it may refer to. name: of the field that has it."""
    if "$ref" in schema:
        return example_of(schemas[schema["$ref"].removeprefix(PREFIX)], schemas, name)
    if "examples" in schema:
        return schema["examples"][0]
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return example_of(schema["anyOf"][0], schemas, name)
    if name in VALUES:
        return VALUES[name]
    return _of_type(schema, schemas, name)


def restored(example: Any, schema: Json, schemas: Mapping[str, Json]) -> Any:
    """The example with its nulls: the framework drops every null of a description."""
    if "$ref" in schema:
        return restored(example, schemas[schema["$ref"].removeprefix(PREFIX)], schemas)
    if "anyOf" in schema:
        return restored(example, schema["anyOf"][0], schemas)
    if isinstance(example, list):
        return [restored(each, schema.get("items", {}), schemas) for each in example]
    if not isinstance(example, dict):
        return example
    fields = schema.get("properties", {})
    others = schema.get("additionalProperties")
    found = dict.fromkeys(name for name in fields if name in example or name in schema.get("required", ())) | example
    inner = others if isinstance(others, dict) else {}
    return {
        name: value if value is None else restored(value, fields.get(name, inner), schemas)
        for name, value in found.items()
    }


def _of_type(schema: Json, schemas: Mapping[str, Json], name: str) -> Any:
    match schema.get("type"):
        case "object":
            fields = schema.get("properties", {})
            return {each: example_of(inner, schemas, each) for each, inner in fields.items()}
        case "array":
            return [example_of(schema["items"], schemas, name)]
        case "string" if schema.get("format") == "date-time":
            return EXAMPLE_TIME
        case "string":
            return name
        case "integer":
            return max(1, schema.get("minimum", 1))
        case "number":
            return 0.85
        case "boolean":
            return schema.get("default", False)
        case _:
            return None
