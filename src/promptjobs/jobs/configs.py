"""Saved configs: kept under names, checked when they are saved, and taken for jobs."""

from collections.abc import Callable, Mapping
from typing import Any

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.core.config import JobConfig, resolve
from promptjobs.core.config_body import without_secrets
from promptjobs.core.config_layers import as_sectioned, on_top_of, without_redacted
from promptjobs.db import saved_configs
from promptjobs.db.saved_configs import NewConfig, SavedRow
from promptjobs.db.session import Database
from promptjobs.db.transactions import reading, writing
from promptjobs.errors import ConfigNotFound, InvalidRequest
from promptjobs.errors.configs import ConfigNameTaken
from promptjobs.errors.shown import MAX_SHOWN


class SavedConfigs:
    """Those of one database. check_budget raises BudgetTooSmall for a budget that cannot hold a whole search."""

    def __init__(self, database: Database, check_budget: Callable[[JobConfig], None]) -> None:
        self._database = database
        self._check_budget = check_budget

    async def create(self, new: NewConfig) -> SavedRow:
        """Raises ConfigNameTaken, and like `checked`."""
        checked = self._checked(new)
        async with writing(self._database) as connection:
            saved = await saved_configs.create(connection, checked)
        if saved is None:
            raise ConfigNameTaken(new.name)
        return saved

    async def put(self, new: NewConfig) -> SavedRow:
        """In place of an earlier one. Raises like `checked`."""
        checked = self._checked(new)
        async with writing(self._database) as connection:
            return await saved_configs.put(connection, checked)

    async def get(self, organisation: str, name: str) -> SavedRow:
        """Raises ConfigNotFound."""
        async with reading(self._database) as connection:
            found = await saved_configs.read(connection, organisation, name)
        if found is None:
            raise ConfigNotFound(name[:MAX_SHOWN])
        return found

    async def page(self, organisation: str, after: str | None, limit: int) -> list[SavedRow]:
        """By name."""
        async with reading(self._database) as connection:
            return await saved_configs.read_page(connection, organisation, after, limit)

    async def remove(self, organisation: str, name: str) -> None:
        """Raises ConfigNotFound. Jobs that were made of it keep what they took."""
        async with writing(self._database) as connection:
            if not await saved_configs.remove(connection, organisation, name):
                raise ConfigNotFound(name[:MAX_SHOWN])

    def _checked(self, new: NewConfig) -> NewConfig:
        """Without its secrets. Raises InvalidConfig, NotYetSupported, BudgetTooSmall: what no job could be made of.

        Whether its providers have keys, and an earlier job that it names is there, is seen when a job is made of it.
        """
        body = orjson.loads(new.config_body)
        self._check_budget(resolve(new.algorithm, body, None).config)
        kept = orjson.dumps(without_redacted(without_secrets(body))).decode()
        return NewConfig(new.organisation, new.name, new.algorithm, new.description, kept)


async def with_saved(
    connection: AsyncConnection,
    organisation: str,
    name: str | None,
    algorithm: str | None,
    config_body: Mapping[str, Any] | None,
) -> tuple[str, Mapping[str, Any]]:
    """The algorithm and the config of a request: the saved config of that name, and on top of it what is sent.

    Raises InvalidRequest where there is no such config, or neither a name nor what stands for it; InvalidConfig.
    """
    if name is None:
        for param, value in (("algorithm", algorithm), ("config_body", config_body)):
            if value is None:
                raise InvalidRequest("is required, unless config_name names a saved config", param)
        return str(algorithm), config_body or {}
    saved = await saved_configs.read(connection, organisation, name)
    if saved is None:
        raise InvalidRequest(f"there is no saved config {name[:MAX_SHOWN]!r}", "config_name")
    algorithm = algorithm or saved.algorithm
    body: dict[str, Any] = orjson.loads(saved.config_body)
    return algorithm, on_top_of(algorithm, body, as_sectioned(config_body)) if config_body else body
