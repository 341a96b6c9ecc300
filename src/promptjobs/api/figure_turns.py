"""Turns of the routes that work out figures of many jobs: results, comparisons, and what plots show."""

from typing import Annotated

from fastapi import Depends, Request

from promptjobs.jobs.turns import Turns

AT_ONCE = 2
WAITING = 32


async def _figure_turns(request: Request) -> Turns:
    """The service's, made when the first one is asked for."""
    state = request.app.state
    if not hasattr(state, "figure_turns"):
        state.figure_turns = Turns("results and plots", AT_ONCE, WAITING)
    turns: Turns = state.figure_turns
    return turns


FigureTurns = Annotated[Turns, Depends(_figure_turns)]
