"""Tasks that fill in a form: inputs drawn from notions, a hidden table of conventions, scores and spoken feedback."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from .chance import Dice, share
from .clerk import Clerk, Knowledge, read_form
from .reflector import Reflector
from .wording import Lexicon, notions
from .worlds import SPLITS, Splits, Verdict


@dataclass(frozen=True, slots=True)
class Convention:
    """What a field is where all notions of `needs` are in the input; of a field's conventions the first counts."""

    field: str
    value: str
    needs: frozenset[str]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Scene:
    """How inputs are written. topics, extras: notion to phrases; lines: further notions, each line with its choices.

    extras_weights: how often none, one, two, … of the extras occur.
    """

    opening: str
    topics: Mapping[str, Sequence[str]]
    lines: Mapping[str, Sequence[tuple[str, str]]]
    closing: str
    extras: Mapping[str, Sequence[str]]
    extras_weights: Sequence[int]
    chatter: Sequence[str]


@dataclass(frozen=True)
class Case:
    text: str
    gold: Mapping[str, str]
    reasons: Mapping[str, str]


@dataclass(frozen=True)
class FormTask:
    """A task of worlds.Task. is_binary: 1 for a form that is right throughout and raw JSON, else 0."""

    name: str
    fields: Mapping[str, Sequence[str]]
    table: tuple[Convention, ...]
    scene: Scene
    knowledge: Knowledge
    description: str
    baseline: str
    handwritten: str
    request: str
    is_binary: bool = False
    explained: float = 0.5
    splits: Splits = SPLITS

    @property
    def samples(self) -> bool:
        return self.knowledge.noise > 0

    @cached_property
    def user_pattern(self) -> str:
        spec = "\n".join(f"{field}: {' | '.join(values)}" for field, values in self.fields.items())
        return f"{self.request}\n{spec}\n\n{self.knowledge.marker}\n{{input}}"

    @cached_property
    def _clerk(self) -> Clerk:
        return Clerk(self.knowledge)

    @cached_property
    def _reflector(self) -> Reflector:
        return Reflector()

    def input(self, seed: int) -> str:
        return _case(self, seed).text

    def expected(self, seed: int) -> str:
        return json.dumps(_case(self, seed).gold)

    def answer(self, messages: Sequence[tuple[str, str]], draw: int = 0) -> str:
        return self._clerk.answer(messages, draw)

    def reflect(self, messages: Sequence[tuple[str, str]], temperature: float, draw: int, salt: int = 0) -> str:
        return self._reflector.reply(messages, temperature, draw, salt)

    def grade(self, seed: int, output: str) -> Verdict:
        case = _case(self, seed)
        given, is_raw = read_form(output)
        right = [field for field, value in case.gold.items() if given.get(field) == value]
        said = []
        for field, value in case.gold.items():
            if field not in right:
                reason = f" {case.reasons[field]}" if share("told", self.name, seed, field) < self.explained else ""
                said.append(f"{field}: expected {value}, got {given.get(field, 'nothing')}.{reason}")
        if not is_raw:
            said.append("The answer must be one raw JSON object with nothing around it.")
        score = len(right) / len(case.gold) * (1.0 if is_raw else 0.7)
        if self.is_binary:
            score = float(score == 1.0)
        return Verdict(score, " ".join(said) or "All fields are right.")

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FormTask) and other.name == self.name


@lru_cache(maxsize=5000)
def _case(task: FormTask, seed: int) -> Case:
    scene, dice = task.scene, Dice("case", task.name, seed)
    topic = dice.among(list(scene.topics))
    held, lines = {topic}, [f"{scene.opening} {dice.among(scene.topics[topic])}"]
    for label, choices in scene.lines.items():
        notion, words = dice.among(choices)
        held.add(notion)
        lines.append(f"{label}: {words}")
    count = dice.among([n for n, weight in enumerate(scene.extras_weights) for _ in range(weight)])
    extras = dice.shuffled(list(scene.extras))[:count]
    held.update(extras)
    said = [dice.among(scene.extras[extra]) for extra in extras]
    if dice.hits(0.5):
        said.insert(dice.between(0, len(said)), dice.among(scene.chatter))
    if said:
        lines.append(f"{scene.closing} {' '.join(said)}")
    gold: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for convention in task.table:
        if convention.field not in gold and convention.needs <= held:
            gold[convention.field] = convention.value
            reasons[convention.field] = dice.among(convention.reasons)
    return Case("\n".join(lines), {field: gold[field] for field in task.fields}, reasons)


def load(name: str, file: str, *, is_binary: bool = False, noise: float = 0.0, slips: float = 0.0) -> FormTask:
    """The task that a file beside this module describes. noise, slips: of the policy model (clerk.py)."""
    read = tomllib.loads(Path(__file__).with_name(file).read_text(encoding="utf-8"))
    lexicon = Lexicon(notions(read["notions"]), frozenset(read["silent"]))
    sense = {notion: tuple((f, v, w) for f, v, w in said) for notion, said in read["sense"].items()}
    habits = {field: (value, weight) for field, (value, weight) in read["habits"].items()}
    return FormTask(
        name=name,
        fields=read["fields"],
        table=tuple(
            Convention(c["field"], c["value"], frozenset(c["needs"]), tuple(c["reasons"])) for c in read["conventions"]
        ),
        scene=Scene(**read["scene"]),
        knowledge=Knowledge(lexicon, sense, habits, read["marker"], noise, slips),
        description=read["description"],
        baseline=read["baseline"],
        handwritten=read["handwritten"],
        request=read["request"],
        is_binary=is_binary,
    )
