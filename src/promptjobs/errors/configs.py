"""Saved configs."""

from promptjobs.errors.base import PromptjobsError


class ConfigNameTaken(PromptjobsError):
    """A config of that name exists; it is replaced by PUT alone."""

    status = 409
    code = "config_name_taken"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is a saved config {name!r} already: PUT replaces it")
        self.name = name
