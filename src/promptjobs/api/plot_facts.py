"""What plots are headed with, and what those of a job say where there is nothing to show."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.db import plot_data
from promptjobs.db.candidates import Standing
from promptjobs.db.plot_data import JobState
from promptjobs.plots.figures import Heading

NOT_BEGUN = "nothing is measured"
NO_BEST = "there is no best prompt to compare with the baseline"
NO_FRONT = "no candidate is ranked"

FULL_SHARE = 0.8
"""Of the seeds on which candidates are ranked: with fewer scores, one counts as measured on a few."""

SHOWN_ID = 11


def headed(title: str, about: str, note: str, nothing: str | None, *, is_over: bool) -> Heading:
    """about: what is drawn, and how it stands. nothing: why there is nothing to show, if so."""
    if nothing is not None:
        nothing = f"Nothing to show: {nothing}." if is_over else f"Nothing to show yet: {nothing} so far."
    return Heading(title, f"{about} · {note}" if note else about, nothing)


@dataclass(frozen=True, slots=True)
class JobFacts:
    """How the job stands, and what it is."""

    job_id: str
    standing: Standing
    state: JobState

    def heading(self, title: str, note: str = "", nothing: str | None = None) -> Heading:
        """nothing: why there is nothing to show, if so."""
        policy = self.state.config["policy"]
        name = self.state.label or f"{self.standing.algorithm}, {policy['provider']}/{policy['model']}"
        about = f"{self.job_id[:SHOWN_ID]}…, {self.standing.status}"
        return headed(f"{title}: {name}", about, note, nothing, is_over=self.standing.is_over)


async def read_facts(connection: AsyncConnection, job_id: str, standing: Standing) -> JobFacts:
    """Raises JobNotFound."""
    return JobFacts(job_id, standing, await plot_data.read_state(connection, job_id))
