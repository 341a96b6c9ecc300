"""The root of the exception tree."""

from typing import Any, ClassVar


class PromptjobsError(Exception):
    """Base of every error raised on purpose.

    `status` is the HTTP status it becomes, `code` a stable machine-readable name; `facts` are the public attributes.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"

    @property
    def facts(self) -> dict[str, Any]:
        return dict(vars(self))
