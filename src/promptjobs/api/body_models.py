"""Bodies of requests as models: read, and described for the OpenAPI document."""

from typing import Annotated, Any, TypeVar

from fastapi import Depends
from pydantic import BaseModel, ValidationError

from promptjobs.api.bodies import json_object
from promptjobs.api.problems import invalid

Model = TypeVar("Model", bound=BaseModel)

Body = Annotated[dict[str, Any], Depends(json_object)]
"""What a route takes that reads its body by `read_as`."""


def body_schema(model: type[BaseModel], *, is_required: bool = True) -> dict[str, Any]:
    """Describes a body that is read by `json_object`, which the framework does not see."""
    content = {"application/json": {"schema": model.model_json_schema()}}
    return {"requestBody": {"required": is_required, "content": content}}


def read_as(model: type[Model], body: dict[str, Any]) -> Model:
    """Raises InvalidRequest, which names the first field that is wrong and never its value."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise invalid(error.errors(include_input=False, include_url=False)) from None
