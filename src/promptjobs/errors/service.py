"""The service's own parts: the database, the embedded server."""

from promptjobs.errors.base import PromptjobsError


class EmbeddedPostgresFailed(PromptjobsError):
    """The embedded PostgreSQL did not start; `log` holds the tail of its log."""

    code = "embedded_postgres_failed"

    def __init__(self, cause: str, log: str = "") -> None:
        super().__init__(f"{cause}\n{log}" if log else cause)
        self.cause, self.log = cause, log


class DatabaseUnavailable(PromptjobsError):
    status = 503
    code = "database_unavailable"


class NotReady(PromptjobsError):
    """The service cannot work yet; the message names what is missing."""

    status = 503
    code = "not_ready"
