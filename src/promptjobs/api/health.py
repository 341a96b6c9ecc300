"""Whether the process lives, and whether it can work."""

import asyncio

from fastapi import APIRouter
from starlette.responses import Response

from promptjobs.api.bodies import JsonResponse
from promptjobs.api.parameters import TheDatabase
from promptjobs.db.migrate import current_revision, head_revision
from promptjobs.db.transactions import reading
from promptjobs.errors import DatabaseUnavailable, NotReady

router = APIRouter(tags=["health"])

PATIENCE_SECONDS = 3.0


@router.get("/healthz", summary="Is the process alive?")
async def healthz() -> Response:
    """Answers as long as the process does; it says nothing about the database."""
    return JsonResponse({"status": "ok"})


@router.get("/readyz", summary="Can the service work?")
async def readyz(database: TheDatabase) -> Response:
    """200 where the database answers and has this version's schema, else 503, naming what is missing."""
    wanted = head_revision()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS), reading(database) as connection:
            found = await connection.run_sync(current_revision)
    except (DatabaseUnavailable, TimeoutError) as cause:
        raise NotReady("the database cannot be reached") from cause
    if found != wanted:
        raise NotReady(f"the database has schema {found or 'none'}, and this version needs {wanted}: migrate it")
    return JsonResponse({"status": "ready", "schema": found})
