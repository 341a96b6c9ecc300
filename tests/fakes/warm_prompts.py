"""Prompts that searches begin with, and jobs that begin with them."""

from collections.abc import Sequence
from typing import Any, TypeVar

from promptjobs.core.config import JobConfig, WarmPrompt, WarmStartConfig
from promptjobs.core.config_warm_start import WarmSection, WarmTemplate

Job = TypeVar("Job", bound=JobConfig)

USER = "Query: {query}"


def warm_prompt(
    text: str, *examples: tuple[str, str], user: str = USER, candidate_id: str | None = None, **more: Any
) -> WarmPrompt:
    """A system message, the examples as messages of their own, and the user's message. candidate_id: of job pl_1."""
    own = WarmSection(role="system", content=text), WarmSection(role="user", content=user)
    shown = [
        WarmSection(role=role, content=said, is_example=True)
        for pair in examples
        for role, said in zip(("user", "assistant"), pair, strict=True)
    ]
    return WarmPrompt(
        prompt=WarmTemplate(sections=(own[0], *shown, own[1]), **more),
        candidate_id=candidate_id,
        job_id=None if candidate_id is None else "pl_1",
    )


def warmed(config: Job, prompts: Sequence[WarmPrompt]) -> Job:
    """The job with these prompts to begin with."""
    search = config.search.model_copy(update={"warm_start": WarmStartConfig(prompts=tuple(prompts))})
    return config.model_copy(update={config.algorithm: search})
