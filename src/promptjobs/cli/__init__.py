"""The command line: runs the service, and talks to one over HTTP."""

import sys


def main() -> None:
    """Entry of the console script: runs the command that the arguments name, and exits with its code."""
    try:
        from promptjobs.cli.app import app

        app(prog_name="promptjobs")
    except KeyboardInterrupt:
        sys.exit(130)  # before a command could handle it: the imports take a moment
