"""The command line."""

from typing import ClassVar

from promptjobs.errors.base import PromptjobsError


class CommandFailed(PromptjobsError):
    """A command cannot go on; `exit_code` is what its process ends with."""

    code = "command_failed"
    exit_code: ClassVar[int] = 2


class FileUnusable(CommandFailed):
    """A file named on the command line cannot be read or written, or is not what it should be."""

    code = "file_unusable"

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(f"{path}: {cause}")
        self.path, self.cause = path, cause


class OptionInvalid(CommandFailed):
    """An option, or the setting behind it, has a value that cannot be used."""

    code = "option_invalid"

    def __init__(self, name: str, cause: str) -> None:
        super().__init__(f"{name}: {cause}")
        self.name, self.cause = name, cause


class ProcessFailed(CommandFailed):
    """A process did not start, or ended by itself; `log` is the last it has said."""

    code = "process_failed"

    def __init__(self, name: str, cause: str, log: str = "") -> None:
        super().__init__(f"{name} {cause}: {log}" if log else f"{name} {cause}")
        self.name, self.cause, self.log = name, cause, log
