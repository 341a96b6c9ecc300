"""The recent events of an experiment: bounded, each sent once to each reader, wherever the reader comes from."""

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from promptjobs.api.channel import RECENT_BYTES, RECENT_EVENTS
from promptjobs.api.experiment_channel import ExperimentChannel, cursor_of, cursor_text
from promptjobs.db.events import EventRow
from promptjobs.db.experiment_events import Member


def rows(position: int, first: int, last: int, size: int = 100) -> list[EventRow]:
    at = datetime(2026, 5, 4, tzinfo=UTC)
    data = '{"a": "%s"}' % ("x" * size)
    return [EventRow(f"pl_{position}", seq, "some.event", "", "info", data, at) for seq in range(first, last + 1)]


def channel(jobs: int, last_seq: int) -> ExperimentChannel:
    members = [Member(f"pl_{at}", at, f"job {at}", last_seq, is_final=False) for at in range(1, jobs + 1)]
    return ExperimentChannel("exp_1", members)


def read_all(kept: ExperimentChannel, seqs: Mapping[int, int]) -> dict[int, list[int]]:
    """By position, what one reads who has `seqs`."""
    found: dict[int, list[int]] = {}
    sent, place = dict(seqs), 0
    while True:
        place, part = kept.after(place, sent)
        if not part:
            return found
        for each in part:
            sent[each.position] = each.seq
            found.setdefault(each.position, []).append(each.seq)


@pytest.mark.parametrize(("size", "at_most"), [(100, RECENT_EVENTS), (100_000, RECENT_BYTES // 100_000)])
def test_a_channel_keeps_a_bounded_part_of_all_jobs_together(size: int, at_most: int):
    kept = channel(jobs=4, last_seq=10)
    for first in range(11, 411, 25):
        for position in (1, 2, 3):
            kept.add(rows(position, first, first + 24, size))
    assert kept.heads == {1: 410, 2: 410, 3: 410, 4: 10}
    assert kept.missing(kept.floors) is None
    assert kept.missing(kept.floors | {2: kept.floors[2] - 1}) == 2
    found = read_all(kept, kept.floors)
    assert found == {at: list(range(kept.floors[at] + 1, 411)) for at in (1, 2, 3) if kept.floors[at] < 410}
    assert at_most - 1 <= sum(map(len, found.values())) <= at_most


def test_one_who_is_ahead_in_some_jobs_is_sent_the_others():
    kept = channel(jobs=2, last_seq=1)
    for position in (1, 2, 1, 2):
        kept.add(rows(position, kept.heads[position] + 1, kept.heads[position] + 3))
    assert read_all(kept, {1: 5, 2: 1}) == {1: [6, 7], 2: [2, 3, 4, 5, 6, 7]}
    assert read_all(kept, kept.heads) == {}


def test_an_event_larger_than_all_that_is_kept_is_left_to_the_database():
    kept = channel(jobs=1, last_seq=1)
    kept.add(rows(1, 2, 2, size=RECENT_BYTES + 1))
    assert (kept.heads, kept.floors, read_all(kept, {})) == ({1: 2}, {1: 2}, {})
    assert kept.missing({1: 1}) == 1


def test_cursors_are_read_as_they_are_written():
    seqs = {200: 5, 1: 17, 3: 999_999}
    assert cursor_text(seqs) == "1:17.3:999999.200:5"
    assert cursor_of(cursor_text(seqs)) == seqs
