"""Those who use the service during a soak: they post jobs and experiments, read streams, pause, resume and cancel."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.acceptance import client, mipro_jobs
from tests.acceptance.client import JOBS, TERMINAL
from tests.acceptance.experiment_runs import EXPERIMENTS
from tests.chaos.world import CALM, TASK_APP_KEY, USD_PER_TOKEN
from tests.fakes.served import receive

Json = dict[str, Any]

RETRY_SECONDS = 0.2
SOON_SECONDS = (0.5, 8.0)
PAUSED_SECONDS = (0.5, 4.0)
COST_CAPS_USD = (0.4, 1.0, 2.0)
TOKEN_CAPS = (600, 1500)
EXPERIMENT_EVERY = 3
"""Of so many posts the second is an experiment, so that short soaks have one."""

JOBS_OF_AN_EXPERIMENT = (2, 5)
NOT_THERE = (404, 405)
"""What a route that does not exist answers."""


@dataclass(frozen=True)
class Kind:
    """What a job is: calm ones have a kind world and fixed order, so that their result is known beforehand."""

    algorithm: str
    rng_seed: int
    is_calm: bool
    cost_cap_usd: float | None = None
    token_cap: int | None = None

    @property
    def name(self) -> str:
        return f"{self.algorithm} {self.rng_seed}"


CALM_KINDS = tuple(Kind(algorithm, seed, is_calm=True) for algorithm in ("gepa", "mipro") for seed in (1, 2))


def kind_of(n: int, rng: random.Random) -> Kind:
    """The n-th job's: every third is calm, half of the others have a cap."""
    if n % 3 == 0:
        return rng.choice(CALM_KINDS)
    cost = rng.choice((None, None, *COST_CAPS_USD)) if n % 2 else None
    tokens = rng.choice(TOKEN_CAPS) if cost is None and rng.random() < 0.2 else None
    return Kind(rng.choice(("gepa", "mipro")), rng.randrange(1000), False, cost, tokens)


def kinds_of(n: int, rng: random.Random) -> list[Kind]:
    """Of the jobs of the n-th experiment: of all kinds in every other one, else wild, so that it may be cancelled."""
    count = rng.randint(*JOBS_OF_AN_EXPERIMENT)
    return [kind_of(at if n % 2 else 3 * at + 1, rng) for at in range(count)]


def body_of(kind: Kind, tag: str, task_app_url: str) -> Json:
    """The config body of a job of this kind."""
    policy, reflector = f"policy-{tag}", f"reflector-{tag}"
    order = "fixed" if kind.is_calm else "arrival"
    termination = {"max_cost_usd": kind.cost_cap_usd, "max_total_tokens": kind.token_cap}
    changes: Json = {
        "policy": {"provider": "toy", "model": policy, "max_completion_tokens": 16},
        "task_app_api_key": TASK_APP_KEY,
        "prices": {
            f"toy/{model}": {"input_usd_per_million": prices[0] * 1e6, "output_usd_per_million": prices[1] * 1e6}
            for model, prices in ((policy, USD_PER_TOKEN["policy"]), (reflector, USD_PER_TOKEN["reflector"]))
        },
    }
    if kind.cost_cap_usd is not None or kind.token_cap is not None:
        changes["termination_config"] = {name: cap for name, cap in termination.items() if cap is not None}
    url = f"{task_app_url}/{tag}"
    if kind.algorithm == "mipro":
        meta = {"provider": "toy", "model": reflector}
        own = {"mipro.rng_seed": kind.rng_seed, "mipro.turn_order": order, "mipro.meta": meta}
        return mipro_jobs.config(url, {**changes, **own, "mipro.rollout_budget": 200, "mipro.num_iterations": 5})
    mutation = {"llm_provider": "toy", "llm_model": reflector}
    own = {"gepa.rng_seed": kind.rng_seed, "gepa.turn_order": order, "gepa.mutation": mutation}
    rollout = {"budget": 250, "max_concurrent": 8, "minibatch_size": 4}
    return client.config(url, {**changes, **own, "gepa.rollout": rollout})


@dataclass
class Job:
    """An accepted job. heard: the numbers of the events that its reader was told, in order."""

    job_id: str
    tag: str
    kind: Kind
    heard: list[int] = field(default_factory=list)
    is_heard_out: bool = False
    was_meddled_with: bool = False


@dataclass(frozen=True)
class Experiment:
    """An accepted experiment. jobs: their ids, in the order of their positions."""

    experiment_id: str
    jobs: Sequence[str]
    is_wild: bool


@dataclass
class Users:
    """jobs, experiments: by their ids; kinds: by tag, also of posts that were not answered. answers: how often each
    kind of request was answered with which status, "none" where it was not.
    """

    urls: Sequence[str]
    task_app_url: str
    rng: random.Random
    jobs: dict[str, Job] = field(default_factory=dict)
    experiments: dict[str, Experiment] = field(default_factory=dict)
    kinds: dict[str, Kind] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)
    missing_routes: set[str] = field(default_factory=set)
    enough: asyncio.Event = field(default_factory=asyncio.Event)
    posts: int = 0

    async def __aenter__(self) -> "Users":
        self._http = httpx.AsyncClient(timeout=15)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    # --- requests ----------------------------------------------------------------------------------------------------

    async def ask(self, method: str, path: str, root: str = JOBS, **more: Any) -> httpx.Response | None:
        """One request to any replica; None where it was not answered."""
        noun = root.rsplit("/", 1)[-1]
        route = f"{method} {path.rsplit('/', 1)[-1] if '/' in path.strip('/') else noun}"
        try:
            response = await self._http.request(method, f"{self.rng.choice(self.urls)}{root}{path}", **more)
        except httpx.HTTPError:
            self.answers[f"{route}: none"] += 1
            return None
        self.answers[f"{route}: {response.status_code}"] += 1
        return response

    async def insist(self, method: str, path: str, seconds: float = 120.0, **more: Any) -> httpx.Response:
        """The same request, which may be repeated, until it is answered and not with 5xx."""
        async with asyncio.timeout(seconds):
            while True:
                response = await self.ask(method, path, **more)
                if response is not None and response.status_code < 500:
                    return response
                await asyncio.sleep(RETRY_SECONDS)

    def _tag(self, kind: Kind) -> str:
        """One that was never used, and is not used again where nobody knows whether its job was accepted."""
        self.posts += 1
        tag = f"{CALM if kind.is_calm else 'wild'}{self.posts}"
        self.kinds[tag] = kind
        return tag

    async def post(self, kind: Kind) -> Job | None:
        """A new job; None where nobody knows whether it was accepted."""
        tag = self._tag(kind)
        body = {"algorithm": kind.algorithm, "config_body": body_of(kind, tag, self.task_app_url)}
        response = await self.ask("POST", "", json=body)
        if response is None or response.status_code >= 500:
            return None
        assert response.status_code == 200, response.text
        job = Job(response.json()["job_id"], tag, kind)
        self.jobs[job.job_id] = job
        return job

    async def post_experiment(self, kinds: Sequence[Kind]) -> list[Job]:
        """The jobs of a new experiment; none where nobody knows whether it was accepted."""
        tagged = [(self._tag(kind), kind) for kind in kinds]
        jobs = [
            {"algorithm": kind.algorithm, "config": body_of(kind, tag, self.task_app_url), "label": tag}
            for tag, kind in tagged
        ]
        body = {"name": "of the soak", "parallelism": self.rng.randint(1, len(jobs)), "jobs": jobs}
        response = await self.ask("POST", "", EXPERIMENTS, json=body)
        if response is None or response.status_code >= 500:
            return []
        assert response.status_code == 200, response.text
        made = response.json()
        ids = [each["job_id"] for each in made["jobs"]]
        accepted = [Job(job_id, *each) for job_id, each in zip(ids, tagged, strict=True)]
        self.jobs |= {job.job_id: job for job in accepted}
        experiment = Experiment(made["experiment_id"], ids, not any(kind.is_calm for kind in kinds))
        self.experiments[experiment.experiment_id] = experiment
        return accepted

    # --- habits ------------------------------------------------------------------------------------------------------

    async def use(self, at_once: int) -> None:
        """Keep so many jobs going until it is `enough`; then read their streams to the end."""
        async with asyncio.TaskGroup() as group:
            going: set[asyncio.Task[None]] = set()
            n = 0
            while not self.enough.is_set():
                going = {task for task in going if not task.done()}
                if len(going) < at_once:
                    n += 1
                    for job in await self._posted(n):
                        going.add(group.create_task(self._read(job)))
                        group.create_task(self._meddle(job))
                await asyncio.sleep(RETRY_SECONDS)

    async def _posted(self, n: int) -> list[Job]:
        """What the n-th post makes: one job, or those of an experiment."""
        if n % EXPERIMENT_EVERY == 2:
            return await self.post_experiment(kinds_of(n // EXPERIMENT_EVERY, self.rng))
        job = await self.post(kind_of(n, self.rng))
        return [] if job is None else [job]

    async def _read(self, job: Job) -> None:
        """Follow the stream wherever it breaks, from the last event that was heard."""
        while not job.is_heard_out:
            url = f"{self.rng.choice(self.urls)}{JOBS}/{job.job_id}/events/stream"
            since = {"since_seq": job.heard[-1] if job.heard else 0}
            try:
                async with self._http.stream("GET", url, params=since, timeout=30) as response:
                    if response.status_code == 200:
                        async for received in receive(response):
                            job.heard.append(received.event["seq"])
                    job.is_heard_out = response.status_code in (200, 204) and await self._is_over(job)
            except httpx.HTTPError:
                pass
            await asyncio.sleep(RETRY_SECONDS)

    async def _is_over(self, job: Job) -> bool:
        """Whether all that there is was heard. A stream also ends when its replica shuts down."""
        found = await self.ask("GET", f"/{job.job_id}")
        if found is None or found.status_code != 200 or found.json()["status"] not in TERMINAL:
            return False
        page = await self.ask("GET", f"/{job.job_id}/events", params={"since_seq": job.heard[-1] if job.heard else 0})
        return page is not None and page.status_code == 200 and not page.json()["events"]

    async def _meddle(self, job: Job) -> None:
        """Pause and resume some, cancel some of the wild ones; sometimes everything is said twice at once."""
        await asyncio.sleep(self.rng.uniform(*SOON_SECONDS))
        habit = self.rng.random()
        if habit < 0.4:
            job.was_meddled_with = True
            await self._say(job, "pause")
            await asyncio.sleep(self.rng.uniform(*PAUSED_SECONDS))
            await self._say(job, "resume")
        elif habit < 0.55 and not job.kind.is_calm:
            await self._say(job, "cancel")
        elif habit < 0.65:
            await self._cancel_experiment_of(job)

    async def _cancel_experiment_of(self, job: Job) -> None:
        for experiment in self.experiments.values():
            if job.job_id in experiment.jobs and experiment.is_wild:
                path = f"/{experiment.experiment_id}/cancel"
                said = await self.insist("POST", path, root=EXPERIMENTS, json={"reason": "of the soak"})
                assert said.status_code == 200, said.text

    async def _say(self, job: Job, word: str) -> None:
        if word in self.missing_routes:
            return
        times = self.rng.choice((1, 1, 3))
        said = await asyncio.gather(*(self.insist("POST", f"/{job.job_id}/{word}", json={}) for _ in range(times)))
        statuses = {response.status_code for response in said}
        if statuses & set(NOT_THERE):
            self.missing_routes.add(word)
        else:
            assert statuses <= {200, 409}, [response.text for response in said]

    async def resume_all(self) -> None:
        """Nobody waits any longer for a user who has paused a job and gone home."""
        if "resume" in self.missing_routes:
            return
        for job_id in list(self.jobs):
            if (await self.insist("GET", f"/{job_id}")).json()["status"] == "paused":
                await self.insist("POST", f"/{job_id}/resume", json={})
