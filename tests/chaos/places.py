"""Which places of experiments were taken at which moment of a soak: a trigger keeps the log, in the order of commits.

A place is taken by a statement that has seen the commit with which it became free, so the number of the entry about the
one is lower than that of the other, whatever the clocks say.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import asyncpg

INSTALL = """
CREATE TABLE places_log(
  n bigserial PRIMARY KEY, experiment_id text, job_id text, is_taken boolean, slot int, is_cancelled boolean);
CREATE FUNCTION log_place() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO places_log(experiment_id, job_id, is_taken, slot, is_cancelled)
  VALUES (NEW.experiment_id, NEW.id, NEW.status = 'running', NEW.experiment_slot,
    NEW.cancel_requested_at IS NOT NULL);
  RETURN NULL;
END $$;
CREATE TRIGGER log_place AFTER UPDATE ON jobs FOR EACH ROW
WHEN (NEW.experiment_id IS NOT NULL AND OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION log_place();
"""


@dataclass(frozen=True)
class Taken:
    """Of one experiment. most: jobs that ran at once and needed a place. without: jobs that ran without the place that
    they needed, or in one that the experiment does not have.
    """

    most: int
    parallelism: int
    without: tuple[str, ...]


async def places_taken(connection: asyncpg.Connection) -> Mapping[str, Taken]:
    """By the ids of experiments of which some job has run."""
    inside: dict[str, set[str]] = defaultdict(set)
    most: dict[str, int] = defaultdict(int)
    without: dict[str, list[str]] = defaultdict(list)
    places = {row["id"]: row["parallelism"] for row in await connection.fetch("SELECT * FROM experiments")}
    for row in await connection.fetch("SELECT * FROM places_log ORDER BY n"):
        experiment_id, job_id = row["experiment_id"], row["job_id"]
        running = inside[experiment_id]
        running.discard(job_id)
        publishes_only = row["is_cancelled"] and row["slot"] is None
        if row["is_taken"] and not publishes_only:
            running.add(job_id)
            if row["slot"] is None or not 0 <= row["slot"] < places[experiment_id]:
                without[experiment_id].append(job_id)
        most[experiment_id] = max(most[experiment_id], len(running))
    return {each: Taken(most[each], places[each], tuple(without[each])) for each in inside}
