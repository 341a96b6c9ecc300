"""What answers said, for searches that recall it: the newest in memory, the others from the journal."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from promptjobs.core.asks import Body, Key
from promptjobs.db import history, journal
from promptjobs.db.connections import Connections

BODIES_KEPT = 3_000


class Recalls:
    """The bodies of a job's answers, by their keys."""

    def __init__(self, job_id: str, connections: Connections) -> None:
        self._job_id, self._connections = job_id, connections
        self._kept: OrderedDict[Key, str] = OrderedDict()

    def keep(self, key: Key, text: str) -> None:
        """text: the body's JSON."""
        self._kept[key] = text
        if len(self._kept) > BODIES_KEPT:
            self._kept.popitem(last=False)

    async def bodies(self, keys: Sequence[Key]) -> list[Body]:
        """In the order of the keys, each of which has an answer. Raises DatabaseUnavailable."""
        absent = [key for key in keys if key not in self._kept]
        found: Mapping[Key, str] = {}
        if absent:
            found = await self._connections.persist(lambda c: history.load_bodies(c, self._job_id, absent))
        bodies = [journal.body_from(self._kept[key] if key in self._kept else found[key]) for key in keys]
        for key, text in found.items():
            self.keep(key, text)
        return bodies
