"""Requests with an Idempotency-Key: carried out once, and answered again from then on."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any

import orjson
from fastapi import Depends, Header, Request
from starlette.responses import Response

from promptjobs.api.auth import TheOrganisation
from promptjobs.api.bodies import json_object
from promptjobs.api.parameters import TheDatabase, TheVault
from promptjobs.api.problems import own_problem
from promptjobs.db import idempotency
from promptjobs.db.idempotency import GivenAnswer, KeyedRequest
from promptjobs.db.session import Database
from promptjobs.db.transactions import reading, savepoint, whole
from promptjobs.db.vault import Vault
from promptjobs.errors import PromptjobsError, RequestInProgress

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
WAITS_SECONDS = (0.05, 0.1, 0.2, 0.4)
"""Between looks at a request that is being carried out. No connection of the pool is held meanwhile."""

PASSING = frozenset({401, 402, 408, 409, 429})
"""Refusals that may be another answer soon, so that a retry has to ask again."""


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A request that creates something. keyed: None where it came without a key."""

    request: Request
    database: Database
    vault: Vault
    keyed: KeyedRequest | None

    async def run(self, make_response: Callable[[], Awaitable[Response]]) -> Response:
        """What `make_response` answers; or, where the same request was answered before, that answer.

        With a key, all that `make_response` does with the database is one transaction with the key and the answer: it
        must not wait for anything but the database, nor use it from several tasks. It is called at most once. Answers
        of 2xx are kept, and so are refusals that a retry would meet again; of any other outcome nothing stays.
        Raises RequestInProgress, IdempotencyKeyReused, DatabaseUnavailable, and what `make_response` raises.
        """
        if self.keyed is None:
            return await make_response()
        for wait_seconds in (*WAITS_SECONDS, None):
            async with reading(self.database) as connection:
                given = await idempotency.find(connection, self.keyed)
            if given is not None:
                return self._replayed(self.keyed, given)
            response = await self._carried_out(self.keyed, make_response)
            if response is not None:
                return response
            if wait_seconds is not None:
                await asyncio.sleep(wait_seconds)
        raise RequestInProgress

    async def _carried_out(
        self, keyed: KeyedRequest, make_response: Callable[[], Awaitable[Response]]
    ) -> Response | None:
        """None where another request with this key is under way."""
        async with whole(self.database) as connection:
            if not await idempotency.begin(connection, keyed):
                return None
            given = await idempotency.find(connection, keyed)
            if given is not None:
                return self._replayed(keyed, given)
            try:
                async with savepoint(connection):
                    response = await make_response()
            except PromptjobsError as refusal:
                if not _is_lasting(refusal.status):
                    raise
                response = own_problem(self.request, refusal)
            if _is_lasting(response.status_code):
                await idempotency.keep(connection, keyed, self._given(keyed, response))
            return response

    def _given(self, keyed: KeyedRequest, response: Response) -> GivenAnswer:
        # Sealed, because an answer may hold a secret that is shown this once.
        sealed = self.vault.seal(bytes(response.body).decode(), keyed.context)
        return GivenAnswer(response.status_code, response.headers["content-type"], sealed.encode())

    def _replayed(self, keyed: KeyedRequest, given: GivenAnswer) -> Response:
        body = self.vault.unseal(given.sealed_body.decode(), keyed.context).get_secret_value()
        return Response(body, given.status, {"content-type": given.content_type, REPLAYED: "true"})


def _is_lasting(status: int) -> bool:
    return status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in PASSING


async def _idempotency(
    request: Request,
    organisation: TheOrganisation,
    database: TheDatabase,
    vault: TheVault,
    body: Annotated[dict[str, Any], Depends(json_object)],
    key: Annotated[
        str | None,
        Header(
            alias=HEADER,
            min_length=1,
            max_length=255,
            pattern=r"^[\x20-\x7e]*$",
            description="Any text that names this request, such as a UUID: a repetition within 24 hours changes "
            f"nothing, and has the first one's answer, with the header `{REPLAYED}`.",
        ),
    ] = None,
) -> Idempotency:
    if key is None:
        return Idempotency(request, database, vault, None)
    keyed = KeyedRequest(organisation, request.scope["route"].name, key, _digest(request, body))
    return Idempotency(request, database, vault, keyed)


def _digest(request: Request, body: dict[str, Any]) -> bytes:
    """Of what was sent, however its JSON was written."""
    sent = [request.url.path, request.url.query, body]
    return hashlib.sha256(orjson.dumps(sent, option=orjson.OPT_SORT_KEYS)).digest()


Idempotent = Annotated[Idempotency, Depends(_idempotency)]
