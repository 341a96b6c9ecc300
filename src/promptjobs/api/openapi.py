"""The OpenAPI description: what the framework derives from the routes, and what it cannot know."""

import asyncio
import copy
import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from typing import Annotated, Any

import orjson
from fastapi import Body, FastAPI, Header, Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from promptjobs.api import openapi_problems
from promptjobs.api.auth import BEARER, BEARER_SCHEME, KEY_SCHEME
from promptjobs.api.idempotency import HEADER, REPLAYED
from promptjobs.api.openapi_examples import PREFIX, example_of, restored
from promptjobs.api.openapi_streams import OBJECTS, SENT, STREAM
from promptjobs.api.openapi_texts import COMPONENT_HEADERS, CONDITIONAL, DESCRIPTION, IF_NONE_MATCH, LINKS, TAGS
from promptjobs.api.schemas import Problem
from promptjobs.api.webhook_schemas import JobEndedMessage, WebhookTestMessage
from promptjobs.db.webhook_messages import JobEndType

Json = dict[str, Any]

PARAMETER = re.compile(r"\{(\w+)\}")


def options() -> Json:
    """What the framework is told when the app is made."""
    return {
        "title": "promptjobs",
        "summary": "Optimizes prompts.",
        "description": DESCRIPTION,
        "version": version("promptjobs"),
        "license_info": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        "servers": [{"url": "/", "description": "This service."}],
        "openapi_tags": [{"name": name, "description": said} for name, said in TAGS.items()],
        "generate_unique_id_function": operation_id,
        "openapi_url": None,
        "docs_url": None,
        "redoc_url": None,
        # It would lead to the host that the request names, and from https to http behind a proxy that ends TLS.
        "redirect_slashes": False,
    }


def operation_id(route: APIRoute) -> str:
    """The name of the route's function: generated clients have methods of these names, so that they never change."""
    return route.name


def install(api: FastAPI) -> None:
    """Have `api` describe itself completely at /openapi.json. To be called when it has all of its routes."""
    _describe_messages(api)
    derive = api.openapi

    @cache
    def openapi() -> Json:
        return _completed(copy.deepcopy(derive()))

    @cache
    def encoded() -> bytes:
        return orjson.dumps(openapi())

    async def show(_: Request) -> Response:
        # Making it takes tenths of a second, which nothing else has to wait for.
        return Response(await asyncio.to_thread(encoded), media_type="application/json")

    api.openapi = openapi  # type: ignore[method-assign]
    api.add_route("/openapi.json", show, include_in_schema=False)


def _describe_messages(api: FastAPI) -> None:
    """The webhooks' messages, as operations of their receivers."""
    taken = {204: {"description": "Any status from 200 to 299: the message has arrived. 410 disables the webhook."}}

    def describe(event_type: str, model: Any, said: str) -> None:
        async def receive(
            body: Annotated[Any, Body()],
            webhook_id: Annotated[str, Header(description="The message's id, the same in every attempt.")],
            webhook_timestamp: Annotated[str, Header(description="When it is sent; seconds since 1970.")],
            webhook_signature: Annotated[str, Header(description="`v1,` and the HMAC-SHA256 in base64.")],
        ) -> None:
            """Signed as in Standard Webhooks. What is not taken within seconds is sent again, ever later."""

        receive.__annotations__["body"] = model
        api.webhooks.add_api_route(
            event_type,
            receive,
            methods=["POST"],
            name=f"on_{event_type.replace('.', '_')}",
            operation_id=f"on_{event_type.replace('.', '_')}",
            summary=said,
            tags=["webhooks"],
            status_code=204,
            responses=taken,  # type: ignore[arg-type]
        )

    for event_type in JobEndType:
        describe(event_type, JobEndedMessage, f"A job has {event_type.removeprefix('job.')}")
    describe("webhook.test", WebhookTestMessage, "A test was asked for")


# --- the document ----------------------------------------------------------------------------------------------------


def _completed(document: Json) -> Json:
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for schema in schemas.values():
        if "examples" in schema:
            schema["examples"] = [restored(each, schema, schemas) for each in schema["examples"]]
    for model in OBJECTS:
        described = model.model_json_schema(ref_template=PREFIX + "{model}")
        schemas.update(described.pop("$defs", {}) | {model.__name__: described})
    schemas["Problem"] = Problem.model_json_schema(ref_template=PREFIX + "{model}")
    problems: dict[str, Json] = {}
    for operation in _operations(document["paths"]):
        _name_body(operation, schemas)
        for error in openapi_problems.problems_of(operation):
            problems.setdefault(error.code, openapi_problems.example(error))
        _complete_operation(operation, schemas)
    _link(document["paths"])
    for operation in _operations(document["webhooks"]):
        for status in ("4XX", "5XX", "422"):
            operation["responses"].pop(status, None)
        _exemplify(operation["requestBody"]["content"], schemas)
    document["components"]["securitySchemes"][BEARER_SCHEME] = dict(BEARER)
    document["components"]["headers"] = dict(COMPONENT_HEADERS)
    document["components"]["examples"] = dict(sorted(problems.items()))
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    return document


def _operations(paths: Json) -> Iterator[Json]:
    for item in paths.values():
        yield from item.values()


def _name_body(operation: Json, schemas: Json) -> None:
    """Bodies that the framework does not read are described in place: give their schemas the names they have."""
    for media in operation.get("requestBody", {}).get("content", {}).values():
        schema = media["schema"]
        if "$ref" not in schema:
            for name, inner in {**schema.pop("$defs", {}), schema["title"]: schema}.items():
                schemas.setdefault(name, _with_references(inner))
            media["schema"] = {"$ref": PREFIX + schema["title"]}


def _with_references(schema: Any) -> Any:
    """The schema with references to the document's schemas in place of those to its own definitions."""
    if isinstance(schema, dict):
        return {
            name: inner.replace("#/$defs/", PREFIX) if name == "$ref" else _with_references(inner)
            for name, inner in schema.items()
        }
    return [_with_references(inner) for inner in schema] if isinstance(schema, list) else schema


def _without_null(schema: Json) -> Json:
    """The schema of a parameter, which can be left out but not be null."""
    options: list[Json] = [option for option in schema.get("anyOf", []) if option.get("type") != "null"]
    if len(options) != 1:
        return schema
    return {name: value for name, value in schema.items() if name != "anyOf"} | options[0]


def _complete_operation(operation: Json, schemas: Json) -> None:
    for parameter in operation.get("parameters", []):
        parameter["schema"] = _without_null(parameter["schema"])
    parameters = {parameter["name"] for parameter in operation.get("parameters", [])}
    if "security" in operation:
        operation["security"] = [{KEY_SCHEME: []}, {BEARER_SCHEME: []}]
    responses = operation["responses"]
    for status in ("4XX", "5XX", "422"):
        responses.pop(status, None)
    is_conditional = operation["operationId"] in CONDITIONAL
    if is_conditional:
        operation.setdefault("parameters", []).append(IF_NONE_MATCH)
        responses["304"] = {"description": "The answer that the client has, by If-None-Match, still holds."}
    for status, response in responses.items():
        if STREAM in response.get("content", {}):
            response["content"][STREAM] = {"schema": SENT[operation["operationId"]]}
        _exemplify(response.get("content", {}), schemas)
        headers = {"ETag"} if is_conditional else set()
        if status == "200" and "after" in parameters:
            headers.add("Link")
        if HEADER in parameters:
            headers.add(REPLAYED)
        response["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in sorted(headers)}
    responses |= openapi_problems.responses_of(operation)
    for response in responses.values():
        response["headers"]["x-request-id"] = {"$ref": "#/components/headers/x-request-id"}
    operation["responses"] = dict(sorted(responses.items()))
    _exemplify(operation.get("requestBody", {}).get("content", {}), schemas)


def _link(paths: Json) -> None:
    """Say how to go on from what creates or lists things to the operations that take one of them."""
    found = {operation["operationId"]: (path, operation) for path, item in paths.items() for operation in item.values()}
    for source, (parameter, pointer) in LINKS.items():
        path, operation = found[source]
        known = [name for name in PARAMETER.findall(path) if name != parameter]
        given = {name: f"$request.path.{name}" for name in known} | {parameter: f"$response.body#{pointer}"}
        status = min(operation["responses"])
        operation["responses"][status]["links"] = {
            name: {"operationId": name, "parameters": given}
            for name, (other, _) in found.items()
            if other.startswith(path.split("{")[0]) and set(PARAMETER.findall(other)) == set(given)
        }


def _exemplify(content: Json, schemas: Json) -> None:
    for media in content.values():
        if "example" not in media and "examples" not in media:
            media["example"] = example_of(media["schema"], schemas)
