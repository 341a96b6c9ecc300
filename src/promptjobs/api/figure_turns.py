"""Turns of the routes that work out figures of many jobs: results, comparisons, and what plots show."""

from typing import Annotated

from fastapi import Depends, Request

from promptjobs.jobs.turns import Turns

AT_ONCE = 2
WAITING = 32


def figure_turns() -> Turns:
    """Those of a service."""
    return Turns("results and plots", AT_ONCE, WAITING)


async def _figure_turns(request: Request) -> Turns:
    turns: Turns = request.app.state.figure_turns
    return turns


FigureTurns = Annotated[Turns, Depends(_figure_turns)]
