"""Prompts that cannot be used or recognised."""

from promptjobs.errors.base import PromptjobsError


class PromptError(PromptjobsError):
    """A prompt, pattern or transformation that is not well formed."""

    status = 422
    code = "invalid_prompt"


class PromptNotMatched(PromptError):
    """The task app's messages are not the baseline's: `index` is the first message that differs.

    matched: characters of that message that fit. module: of several modules the one that the call comes closest to.
    """

    code = "prompt_not_matched"

    def __init__(self, index: int, expected: str, got: str, matched: int = 0, module: str = "") -> None:
        baseline = f"baseline prompt of any module; {module!r} comes closest" if module else "baseline prompt"
        super().__init__(f"message {index} does not match the {baseline}: expected {expected}, got {got}")
        self.index, self.expected, self.got = index, expected, got
        self.matched, self.module = matched, module


class TransformNotApplied(PromptError):
    """A transformation names a text that the prompt does not hold."""

    code = "transform_not_applied"


class TransformApplicationError(PromptError):
    """A transform of an instruction does not apply to the prompt; `index` is its place among those to be applied.

    reason: a short name of why. module: whose messages it was meant for, "" where the prompt is not divided.
    """

    code = "transform_application_error"

    def __init__(self, index: int, reason: str, detail: str, module: str = "") -> None:
        place = f" to module {module!r}" if module else ""
        super().__init__(f"transform {index} does not apply{place}: {reason}: {detail}")
        self.index, self.reason, self.detail, self.module = index, reason, detail, module
