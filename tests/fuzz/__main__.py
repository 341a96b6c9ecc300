"""`python -m tests.fuzz --minutes N`: schemathesis against a service of its own, on a database of its own."""

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

from promptjobs.db import embedded
from tests.conftest import clone, make_template
from tests.fuzz.run import defects, fuzzed
from tests.fuzz.world import serving


def main() -> int:
    """0 where every check has passed; else what has failed is printed, with the requests that show it."""
    options = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    options.add_argument("--minutes", type=int, default=10)
    options.add_argument("--seed", type=int, default=None, help="of an earlier run, to repeat it")
    given = options.parse_args()
    seed = random.randrange(2**31) if given.seed is None else given.seed
    print(f"fuzzing for about {given.minutes} minutes with seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="promptjobs-fuzz-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # the server's own user has to pass through when this runs as root
        with embedded.start(folder / "postgres") as server:
            asyncio.run(make_template(server.url))
            with serving(asyncio.run(clone(server.url)), folder) as target:
                seconds = 60 * given.minutes
                status, printed = fuzzed(
                    target, folder, "--max-time", str(seconds), "--seed", str(seed), seconds=2 * seconds
                )
                found = defects(target)
    print(printed)
    print("\n".join(found))
    return 1 if status or found else 0


if __name__ == "__main__":
    sys.exit(main())
