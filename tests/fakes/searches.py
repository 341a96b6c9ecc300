"""Two small searches that use everything a lane may do: asks, facts, recall, nested forks, reservations."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from promptjobs.core.archive import Candidate
from promptjobs.core.asks import (
    Answer,
    CandidateFact,
    Completion,
    CompletionBody,
    EventFact,
    Fork,
    MetaModel,
    ProgressFact,
    Recall,
    Rollout,
    Step,
    Steps,
    TrialFact,
    digest,
)
from promptjobs.core.lanes import Cause, Lane
from promptjobs.core.optimizer import Adopted
from promptjobs.core.prompt import Message, PromptTemplate, Section
from promptjobs.core.trial import Phase, Trial

META = MetaModel("fake", "meta")
FRONT = tuple(range(6))
VALIDATION = tuple(range(1000, 1004))


def template(text: str) -> PromptTemplate:
    return PromptTemplate((Section("system_0", "system", text, 0),))


@dataclass
class Toy:
    """Shared state of both searches. budget: rollouts before closing."""

    lanes: int = 4
    budget: int = 120
    search_version: int = 1
    known: dict[tuple[str, int], Answer] = field(default_factory=dict)
    asked: set[tuple[str, int]] = field(default_factory=set)
    texts: dict[str, str] = field(default_factory=dict)
    members: list[str] = field(default_factory=list)
    used: int = 0
    trials: int = 0
    reflections: int = 0
    adopted_candidates: int = 0

    def take(self, rollouts: int) -> bool:
        if self.used + rollouts > self.budget:
            return False
        self.used += rollouts
        return True

    def introduce(self, text: str, parent: str | None = None) -> tuple[str, list[CandidateFact]]:
        candidate_id = template(text).digest()
        if candidate_id in self.texts:
            return candidate_id, []
        n = len(self.texts)
        self.texts[candidate_id] = text
        parents = (parent,) if parent else ()
        return candidate_id, [CandidateFact(Candidate(candidate_id, n, template(text), None, parents))]

    def score(self, candidate_id: str, seeds: Sequence[int], phase: Phase = Phase.OPTIMIZATION) -> Steps:
        asks = [Rollout(candidate_id, seed, "policy", phase) for seed in seeds]
        self.asked.update((candidate_id, seed) for seed in seeds)
        answers = yield Step(asks)
        fresh = [seed for seed in seeds if (candidate_id, seed) not in self.known]
        self.known.update(((candidate_id, seed), a) for seed, a in zip(seeds, answers, strict=True))
        if fresh:
            self.trials += 1
            scores = tuple(self.known[candidate_id, seed].score for seed in seeds)
            trial = Trial(self.trials, candidate_id, phase, False, tuple(seeds), scores)
            yield Step(
                facts=[TrialFact(trial), EventFact("trial", f"trial {self.trials}", {"candidate": candidate_id})]
            )
        return answers

    def mean(self, candidate_id: str, seeds: Sequence[int] = FRONT) -> float:
        found = [self.known[candidate_id, seed] for seed in seeds if (candidate_id, seed) in self.known]
        return sum(answer.score or 0.0 for answer in found) / max(1, len(found))

    def closing(self, lane: Lane, cause: Cause | None) -> Steps:
        best = sorted(self.members, key=lambda c: (-self.mean(c), c))[:2]
        if cause not in (Cause.CANCEL, Cause.SPENT):
            for candidate_id in best:
                yield from self.score(candidate_id, VALIDATION, Phase.VALIDATION)
        result = {
            "best": best[:1],
            "members": len(self.members),
            "used": self.used,
            "trials": self.trials,
            "known": digest(sorted([*key, answer.score] for key, answer in self.known.items())).hex(),
            "cause": cause,
        }
        yield Step(facts=[EventFact("result", "the end", result), ProgressFact(result)])
        return result

    def adopt(self, adopted: Adopted) -> None:
        for candidate in adopted.candidates:
            self.texts[candidate.candidate_id] = candidate.template.sections[0].content
        for trial in adopted.trials:
            self.trials = trial.n
            for seed, score in zip(trial.seeds, trial.scores, strict=True):
                self.known[trial.candidate_id, seed] = Answer(b"", score)
                self.asked.add((trial.candidate_id, seed))
        self.adopted_candidates = len(adopted.candidates)
        self.reflections = adopted.completions
        self.used = sum(count for phase, count in adopted.rollouts.items() if phase is not Phase.VALIDATION)


@dataclass
class Evolving(Toy):
    """Lanes over one archive: reflect on recalled feedback, race the child on blocks of the front."""

    def search(self, lane: Lane) -> Steps:
        yield Step(facts=[EventFact("start", "the search begins", {"lanes": self.lanes})])
        base, facts = self.introduce("you are a helpful prompt")
        self.take(len(FRONT))
        yield Step(facts=facts)
        yield from self.score(base, FRONT)
        self.members.append(base)
        yield Fork([self.lane] * self.lanes)
        yield Step(facts=[EventFact("lanes_ended", "all lanes have ended", {"members": len(self.members)})])

    def lane(self, lane: Lane) -> Steps:
        while True:
            rng = lane.rng()
            parent = rng.choice(self.members)
            seeds = sorted({100 + rng.randrange(30) for _ in range(3)})
            if not self.take(2 * len(seeds) + len(FRONT)):
                return
            before = yield from self.score(parent, seeds)
            evidence = yield Recall([answer.key for answer in before])
            said = "\n".join([self.texts[parent], *(body.feedback for body in evidence)])
            self.reflections += 1
            ask = Completion("reflection", META, (Message("user", said),), draw=self.reflections)
            [reply] = yield Step([ask], [EventFact("reflecting", "a reflection", {"parent": parent})])
            [body] = yield Recall([reply.key])
            assert isinstance(body, CompletionBody)
            child, facts = self.introduce(body.text, parent)
            yield Step(facts=facts)
            after = yield from self.score(child, seeds)
            if sum(a.score or 0 for a in after) > sum(a.score or 0 for a in before) - 0.3:
                for block in (FRONT[:3], FRONT[3:]):
                    yield from self.score(child, block)
                    if self.mean(child) < self.mean(parent) - 0.2:
                        break
                else:
                    self.members.append(child)


@dataclass
class Nested(Toy):
    """Tracks that fork trials that fork blocks: three levels, with children that end without an ask."""

    def search(self, lane: Lane) -> Steps:
        base, facts = self.introduce("base")
        self.take(len(FRONT))
        yield Step(facts=facts)
        yield from self.score(base, FRONT)
        self.members.append(base)
        yield Fork([self.track, self.track])

    def track(self, lane: Lane) -> Steps:
        while self.take(self.lanes * 3 + len(FRONT)):
            found = yield Fork([self.trial] * self.lanes)
            score, text = max(found)
            child, facts = self.introduce(text)
            yield Step(facts=facts)
            if child not in self.members:
                self.members.append(child)
                yield Fork([lambda _, c=child, p=part: self.score(c, p) for part in (FRONT[::2], FRONT[1::2])])
            yield Step(facts=[EventFact("iteration", "an iteration", {"track": lane.path, "score": score})])

    def trial(self, lane: Lane) -> Steps:
        rng = lane.rng()
        text = f"config {rng.randrange(30)}"
        if rng.random() < 0.2:
            return (0.0, text)
        child, facts = self.introduce(text)
        yield Step(facts=facts)
        answers = yield from self.score(child, [100, 101, 102])
        yield Recall([answers[0].key])
        return (sum(a.score or 0 for a in answers), text)


def result_of(run: Any) -> dict[str, Any]:
    """A result without the cause's type: what two runs are compared by."""
    return {key: value for key, value in run.items() if key != "cause"}
