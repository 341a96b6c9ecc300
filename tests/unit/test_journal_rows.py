"""The rows of a group name exactly the columns that the statement inserts: a column that is misspelt would be null."""

from promptjobs.core.archive import Candidate
from promptjobs.core.asks import (
    Answer,
    CandidateFact,
    Completion,
    EventFact,
    MetaModel,
    ProgressFact,
    Rollout,
    TrialFact,
)
from promptjobs.core.lanes import Cause
from promptjobs.core.prompt import Message
from promptjobs.core.trial import Phase, Trial
from promptjobs.db.journal import AnswerRecord, Group, TokenRecord, TurnRecord, rows_of
from promptjobs.db.journal_statement import COLUMNS

ROLLOUT = Rollout("c1", 7, "policy", Phase.VALIDATION)
COMPLETION = Completion("reflection", MetaModel("fake", "meta"), (Message("user", "better?"),))
FACTS = (
    CandidateFact(Candidate("c1", 0, None, None)),
    TrialFact(Trial(1, "c1", Phase.VALIDATION, False, (7,), (0.5,))),
    EventFact("first", "one", {}),
    ProgressFact({"done": 1}),
)
GROUP = Group(
    answers=[
        (0, AnswerRecord(ROLLOUT, Answer(ROLLOUT.key, 0.5), "{}")),
        (1, AnswerRecord(COMPLETION, Answer(COMPLETION.key), "{}", finish_reason="stop")),
    ],
    turns=[
        TurnRecord(0, "0", Cause.START, b"\x01", 1, FACTS),
        TurnRecord(1, "0", Cause.RESUME, b"\x02", 1, (EventFact("second", "two", {}), ProgressFact({"done": 2}))),
    ],
    tokens=[TokenRecord(b"\xff", ROLLOUT.key, "c1", 7, Phase.VALIDATION, 0, 60.0)],
)


def test_every_row_names_the_columns_of_the_statement() -> None:
    rows, _ = rows_of(GROUP)
    assert {table: tuple(found[0]) for table, found in rows.items()} == dict(COLUMNS)


def test_events_count_through_the_group_and_the_newest_progress_stands() -> None:
    rows, progress = rows_of(GROUP)
    assert [(row["seq"], row["turn"], row["type"]) for row in rows["events"]] == [(1, 0, "first"), (2, 1, "second")]
    assert progress == '{"done":2}'
