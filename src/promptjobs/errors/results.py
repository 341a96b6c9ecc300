"""What a job has not: the results that a client has asked for in vain."""

from promptjobs.errors.requests import NotFound


class TrialNotFound(NotFound):
    code = "trial_not_found"

    def __init__(self, n: int) -> None:
        super().__init__(f"there is no trial {n}")
        self.n = n
