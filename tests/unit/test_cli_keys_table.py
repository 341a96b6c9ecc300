"""The table of keys can be read at any width: ids are whole, and no cell is broken into letters."""

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from promptjobs.cli.keys import keys_table
from promptjobs.db.api_keys import Purpose, StoredKey

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
KEY_ID = "key_7f5b1a9c6cbd496a9d1b27c1a7531b8f"


def printed(width: int, **changes: datetime | None) -> list[str]:
    times = {"created_at": NOON, "last_used_at": NOON, "revoked_at": None} | changes
    out = Console(file=io.StringIO(), width=width)
    out.print(keys_table([StoredKey(KEY_ID, "default", "CI", Purpose.API, "pj_yJy_Ght", **times)], width))
    return str(out.file.getvalue()).splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [80, 150, 200])
def test_a_key_takes_one_line(width: int):
    head, line = printed(width)
    assert line.split()[:4] == [KEY_ID, "default", "CI", "api"]
    assert "last used" in head
    assert "2026-05-04" in line


def test_a_narrow_table_tells_that_a_key_is_revoked():
    assert "revoked" in printed(80, revoked_at=NOON)[1]
