"""The service keeps to its OpenAPI document, whatever is sent, and its organisations are strangers to each other."""

from pathlib import Path

import pytest

from tests.acceptance.conftest import cloned
from tests.fuzz.run import defects, fuzzed
from tests.fuzz.world import serving


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_schemathesis_finds_nothing(postgres: str, tmp_path: Path) -> None:
    with cloned(postgres) as database_url, serving(database_url, tmp_path) as target:
        status, printed = fuzzed(target, tmp_path, "--max-examples", "8", "--seed", "1", seconds=200)
        assert status == 0, printed[-20_000:]
        assert defects(target) == []
