"""Task "demo": the support tickets of the service's own demo, with the demo's models.

Mechanics. Those of promptjobs.demo: 0/1 scores for exactly the right label, feedback with the house rule. Its
reflection model writes whole texts only; where a meta-prompt asks for changes to a text, the reflection model of this
package (reflector.py) answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from promptjobs.demo.dataset import BASELINE_SYSTEM, USER_PATTERN, Split, load_dataset
from promptjobs.demo.policy_model import answer
from promptjobs.demo.reflection_model import reflect
from promptjobs.demo.review import review

from .meta_reading import read_meta_prompt
from .reflector import Reflector
from .replies import form_of
from .worlds import Splits, Verdict


@dataclass(frozen=True)
class TicketTask:
    """A task of worlds.Task."""

    name: str = "demo"
    description: str = (
        "Messages of a bank's customers are sorted under the labels of a list. The house has rules for them."
    )
    baseline: str = BASELINE_SYSTEM
    user_pattern: str = USER_PATTERN.replace("{message}", "{input}")
    samples: bool = False

    @cached_property
    def splits(self) -> Splits:
        seeds = {split: load_dataset().seeds(split) for split in Split}
        return Splits(
            tuple(seeds[Split.TRAIN][:60]), tuple(seeds[Split.VALIDATION][:40]), tuple(seeds[Split.TEST][:200])
        )

    @cached_property
    def handwritten(self) -> str:
        """The house rules themselves, with their notes."""
        rules = [
            f"- {rule.label}: {' '.join([rule.rule, *rule.notes])}" for rule in load_dataset().house_rules.values()
        ]
        return "\n".join([f"{BASELINE_SYSTEM} Answer with the label only.", "What the labels mean:", *rules])

    def input(self, seed: int) -> str:
        return load_dataset().ticket(seed).message

    def expected(self, seed: int) -> str:
        return load_dataset().ticket(seed).label

    def answer(self, messages: Sequence[tuple[str, str]], draw: int = 0) -> str:
        return answer([{"role": role, "content": content} for role, content in messages])

    def grade(self, seed: int, output: str) -> Verdict:
        said = review(load_dataset(), load_dataset().ticket(seed), output)
        return Verdict(said.score, said.feedback)

    def reflect(self, messages: Sequence[tuple[str, str]], temperature: float, draw: int, salt: int = 0) -> str:
        meta = read_meta_prompt("\n\n".join(content for _, content in messages))
        if form_of(meta.rest, bool(meta.numbers)).kind != "text":
            return Reflector().reply(messages, temperature, draw, salt)
        seed = 1000 * salt + (draw if temperature > 0 else 0)
        return reflect([{"role": role, "content": content} for role, content in messages], seed)


TICKETS = TicketTask()
