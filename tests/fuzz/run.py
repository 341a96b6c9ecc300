"""Runs schemathesis against a service: all of its checks, as two organisations that are strangers to each other."""

import subprocess
import sys
from pathlib import Path

from tests.fuzz.world import ORGANISATIONS, Target

SETTINGS = Path(__file__).parent / "schemathesis.toml"
COMMAND = Path(sys.executable).parent / "schemathesis"
REQUEST_SECONDS = 20
SPARE_SECONDS = 120
"""Beyond the time that it was given: the phases before the fuzzing have no limit of their own."""


def fuzzed(target: Target, folder: Path, *options: str, seconds: int) -> tuple[int, str]:
    """Exit status of schemathesis, and what it printed. seconds: how long it may take, at most."""
    identities, settings = folder / "identities.json", folder / "schemathesis.toml"
    target.write_identities(identities)
    added = f"""
[[operations]]
include-path = "/metrics"
headers = {{ X-API-Key = "{target.keys["operator"]}" }}

[auth.wfc]
path = "{identities}"
peers = {list(ORGANISATIONS)}
"""
    settings.write_text(SETTINGS.read_text() + added)
    command = [str(COMMAND), "--config-file", str(settings), "--no-color", "run", f"{target.url}/openapi.json"]
    command += ["--checks", "all", "--request-timeout", str(REQUEST_SECONDS), *options]
    ran = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds + SPARE_SECONDS, text=True
    )
    return ran.returncode, ran.stdout + ran.stderr


def defects(target: Target) -> list[str]:
    """Lines of the service's log that tell of its own failures."""
    return [line for line in target.log.read_text().splitlines() if " ERROR " in line]
