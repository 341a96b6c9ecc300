"""The durable runner: leases, the journal, the end of a job."""

from promptjobs.errors.base import PromptjobsError


class LeaseLost(PromptjobsError):
    """Another worker owns the job, or its lease ran out: nothing more may be written or called."""

    status = 409
    code = "lease_lost"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"the lease on job {job_id!r} is lost")
        self.job_id = job_id


class JournalMismatch(PromptjobsError):
    """Replay does not reproduce the recorded turn `turn`: the search changed under a running job."""

    code = "journal_mismatch"

    def __init__(self, job_id: str, turn: int) -> None:
        super().__init__(f"turn {turn} of job {job_id!r} does not replay: the search is not the one that was recorded")
        self.job_id, self.turn = job_id, turn


class JobFailed(PromptjobsError):
    """The job cannot be carried out; the message is what its user reads."""

    status = 500
    code = "job_failed"


class BudgetExhausted(PromptjobsError):
    """A cap does not hold the next call, which is not made. cap: a finish reason; words: what is taken and wanted."""

    status = 402
    code = "budget_exhausted"

    def __init__(self, cap: str, words: str) -> None:
        super().__init__(f"{cap}: {words}")
        self.cap, self.words = cap, words
