"""Candidates, refused proposals, the archive and the lineage over HTTP, on whole recorded searches."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter
from sqlalchemy import event

from promptjobs.api.app import JOBS_PATH
from promptjobs.api.candidate_schemas import ArchiveObject, CandidateObject, LineageObject, RefusedProposal
from promptjobs.core.asks import CandidateFact, TrialFact
from promptjobs.core.rejections import CandidateStatus, RejectionCode
from promptjobs.core.trial import Phase, Trial
from promptjobs.db.session import Database
from tests.fakes.recorded_jobs import candidate, rollout, running_job
from tests.fakes.recorded_searches import RecordedSearch, recorded_search

pytestmark = pytest.mark.slow

CANDIDATES = TypeAdapter(list[CandidateObject])
REFUSED = TypeAdapter(list[RefusedProposal])
SHORT = ("failures",)
LONG = (
    "mipro_stages",
    "race_four_lanes_fixed",
    "race_merges",
    "four_lanes_validation",
    "probes",
    "deadline",
    "mipro_failures",
)
SEARCHES = [*SHORT, *(pytest.param(name, marks=pytest.mark.slow) for name in LONG)]


def at(job_id: str, path: str) -> str:
    return f"{JOBS_PATH}/{job_id}{path}"


async def followed(client: httpx.AsyncClient, url: str) -> list[Any]:
    """All items of a list, page by page."""
    found: list[Any] = []
    following: str | None = url
    while following is not None:
        answer = await client.get(following)
        assert answer.status_code == 200, answer.text
        found += answer.json()
        following = answer.links.get("next", {}).get("url")
    return found


async def listed(client: httpx.AsyncClient, search: RecordedSearch, query: str = "") -> list[CandidateObject]:
    return CANDIDATES.validate_python(await followed(client, at(search.job_id, f"/candidates?limit=9{query}")))


# --- candidates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SEARCHES)
async def test_every_candidate_is_shown_with_what_became_of_it(
    client: httpx.AsyncClient, database: Database, name: str
) -> None:
    """What the search itself returned is the reference."""
    search = await recorded_search(database, name)
    result = search.result
    assert result is not None
    await search.publish()
    found = {each.candidate_id: each for each in await listed(client, search)}
    assert [each.n for each in found.values()] == list(range(len(found)))
    for attempt in result.attempts:
        shown = found[attempt.candidate.candidate_id]
        assert shown.messages is not None
        if search.config.algorithm == "gepa" and shown.status is not CandidateStatus.UNDECIDED:
            assert (shown.status is CandidateStatus.ACCEPTED) == attempt.accepted
    rejected = [each for each in found.values() if each.status is CandidateStatus.REJECTED]
    assert all((each.rejection is not None) == (each in rejected) for each in found.values())
    assert all(each.rejection and each.rejection.code is not RejectionCode.OTHER for each in rejected)
    assert not any(each.status is CandidateStatus.PENDING for each in found.values())
    best = result.best.candidate_id if result.best else None
    assert [each.candidate_id for each in found.values() if each.is_best] == ([best] if best else [])
    front = {m.candidate.candidate_id for m in result.archive if m.is_pareto} if result.progress["front"] else set()
    assert {each.candidate_id for each in found.values() if each.is_pareto} == front


@pytest.mark.parametrize("name", SEARCHES)
async def test_the_scores_of_seeds_are_those_that_the_search_counts(
    client: httpx.AsyncClient, database: Database, name: str
) -> None:
    search = await recorded_search(database, name)
    assert search.result is not None
    await search.publish()
    found = {each.candidate_id: each for each in await listed(client, search)}
    for member in search.result.archive:
        shown = found[member.candidate.candidate_id]
        scores = {s.seed: s.score for phase in shown.scores.values() for s in phase.seed_scores}
        assert {seed: scores[seed] for seed in member.known} == dict(member.known)
    for each in found.values():
        for phase in each.scores.values():
            known = [s.score for s in phase.seed_scores]
            assert phase.num_seeds == len(known)
            assert phase.mean == pytest.approx(sum(known) / len(known)) if known else phase.mean is None
            assert not {s.seed for s in phase.seed_scores} & {f.seed for f in phase.failures}


async def test_failures_are_listed_with_their_reasons_and_never_as_a_score(
    client: httpx.AsyncClient, database: Database
) -> None:
    job = await running_job(database)
    told = Trial(1, "c_0", Phase.OPTIMIZATION, True, (1, 2, 3), (0.0, None, None))
    answers = [rollout("c_0", 1, 0.0), rollout("c_0", 2, None), rollout("c_0", 2, None, draw=1), rollout("c_0", 3, 1.0)]
    await job.write([CandidateFact(candidate(0, "Answer.")), TrialFact(told)], answers)
    [shown] = CANDIDATES.validate_json((await client.get(at(job.job_id, "/candidates"))).content)
    phase = shown.scores[Phase.OPTIMIZATION]
    assert [(s.seed, s.score) for s in phase.seed_scores] == [(1, 0.0)]
    assert [(f.seed, f.reason) for f in phase.failures] == [(2, "task_app_timeout"), (3, "judge_failed")]
    assert (shown.score, shown.num_seeds, phase.num_failed) == (0.0, 1, 2)
    assert (shown.rollouts, shown.tokens) == (4, 440)
    assert shown.cost_usd == pytest.approx(0.004)


async def test_what_a_candidate_has_cost_does_not_depend_on_the_order_of_its_rollouts(
    client: httpx.AsyncClient, database: Database
) -> None:
    job = await running_job(database)
    costs = [0.1, 0.2, 0.3]
    assert sum(costs) != sum(reversed(costs))
    for n, ordered in enumerate((costs, costs[::-1])):
        answers = [
            replace(made, answer=replace(made.answer, cost_usd=usd))
            for usd, made in ((usd, rollout(f"c_{n}", seed, 1.0)) for seed, usd in enumerate(ordered))
        ]
        await job.write([CandidateFact(candidate(n, "Answer."))], answers)
    shown = CANDIDATES.validate_json((await client.get(at(job.job_id, "/candidates"))).content)
    assert [each.cost_usd for each in shown] == [0.6, 0.6]


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("turns", [20, 10_000])
async def test_filters_part_the_candidates(
    client: httpx.AsyncClient, database: Database, name: str, turns: int
) -> None:
    search = await recorded_search(database, name, turns)
    if search.result is not None:
        await search.publish()
    every = await listed(client, search)
    for status in CandidateStatus:
        chosen = [each for each in every if each.status is status]
        assert await listed(client, search, f"&status={status}") == chosen
    for operator in {each.operator for each in every}:
        chosen = [each for each in every if each.operator == operator]
        assert await listed(client, search, f"&operator={operator}") == chosen
    for is_pareto in (True, False):
        chosen = [each for each in every if each.is_pareto is is_pareto]
        assert await listed(client, search, f"&is_pareto={str(is_pareto).lower()}") == chosen


async def test_one_candidate_is_shown_as_in_the_list(client: httpx.AsyncClient, database: Database) -> None:
    search = await recorded_search(database, "mipro_stages")
    await search.publish()
    for each in (await client.get(at(search.job_id, "/candidates?limit=200"))).json():
        answer = await client.get(at(search.job_id, f"/candidates/{each['candidate_id']}"))
        assert answer.json() == each
        assert (each["stages"] is None) == (each["status"] == "baseline")
        assert [module["module_id"] for module in each["modules"]] == ["find", "answer"]
        assert [m for module in each["modules"] for m in module["messages"]] == each["messages"]


async def test_an_unknown_candidate_is_not_found(client: httpx.AsyncClient, database: Database) -> None:
    job = await running_job(database)
    for candidate_id in ("c_9", "%00", "x" * 300, "..%2f..", "a b"):
        assert (await client.get(at(job.job_id, f"/candidates/{candidate_id}"))).status_code == 404


async def test_another_jobs_candidate_is_not_found(client: httpx.AsyncClient, database: Database) -> None:
    one, other = await running_job(database), await running_job(database)
    await one.write([CandidateFact(candidate(0, "Answer."))])
    assert (await client.get(at(one.job_id, "/candidates/c_0"))).status_code == 200
    answer = await client.get(at(other.job_id, "/candidates/c_0"))
    assert (answer.status_code, answer.json()["code"]) == (404, "candidate_not_found")


@contextmanager
def counted(database: Database) -> Iterator[list[str]]:
    """The statements that are carried out."""
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(database.engine.sync_engine, "before_cursor_execute", note)


async def test_a_page_takes_as_many_queries_however_many_candidates_it_has(
    client: httpx.AsyncClient, database: Database
) -> None:
    search = await recorded_search(database, "mipro_stages")
    await client.get(at(search.job_id, "/candidates?limit=1"))
    numbers = []
    for limit in (1, 9):
        with counted(database) as statements:
            assert len((await client.get(at(search.job_id, f"/candidates?limit={limit}"))).json()) == limit
        numbers.append(len(statements))
    assert numbers[0] == numbers[1] <= 7


# --- refused proposals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SEARCHES)
async def test_proposals_that_never_became_candidates_are_listed(
    client: httpx.AsyncClient, database: Database, name: str
) -> None:
    search = await recorded_search(database, name)
    assert search.result is not None
    found = REFUSED.validate_python(await followed(client, at(search.job_id, "/proposals/refused?limit=2")))
    assert [each.n for each in found] == sorted({each.n for each in found})
    proposals = [each for each in found if each.config is None]
    assert len(proposals) == search.result.progress["proposals_refused"]
    known = {each.candidate_id for each in await listed(client, search)}
    for each in found:
        assert each.code
        assert each.reason
        assert (each.duplicate_of is not None) == (each.code == "duplicate")
        assert {each.duplicate_of, each.parent_id} - {None} <= known


# --- the archive and the lineage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SEARCHES)
async def test_the_archive_is_what_was_published(client: httpx.AsyncClient, database: Database, name: str) -> None:
    search = await recorded_search(database, name)
    result = search.result
    assert result is not None
    await search.publish()
    archive = ArchiveObject.model_validate_json((await client.get(at(search.job_id, "/archive"))).content)
    assert archive.is_published
    assert archive.best_candidate_id == (result.best and result.best.candidate_id)
    assert {m.candidate_id: m.score for m in archive.members} == {
        m.candidate.candidate_id: m.score for m in result.archive
    }
    assert archive.members == sorted(archive.members, key=lambda m: (-m.score, m.n))
    for seed in archive.seeds:
        known = {m.candidate_id: s.score for m in archive.members for s in m.seed_scores if s.seed == seed.seed}
        assert seed.score == max(known.values())
        assert seed.candidate_ids == [c for c, score in known.items() if score >= seed.score - 1e-6]


async def test_while_a_job_runs_its_archive_is_the_front(client: httpx.AsyncClient, database: Database) -> None:
    search = await recorded_search(database, "failures", turns=20)
    assert search.result is None
    archive = ArchiveObject.model_validate_json((await client.get(at(search.job_id, "/archive"))).content)
    progress = (await client.get(at(search.job_id, ""))).json()["progress"]
    assert not archive.is_published
    assert archive.best_candidate_id == progress["best_candidate_id"]
    assert {m.candidate_id for m in archive.members} == set(progress["front"])
    assert all(len(m.seed_scores) == m.num_seeds and m.is_pareto for m in archive.members)


async def test_while_a_mipro_job_runs_its_archive_is_what_its_model_ranks_first(
    client: httpx.AsyncClient, database: Database
) -> None:
    search = await recorded_search(database, "mipro_stages", turns=20)
    assert search.result is None
    archive = ArchiveObject.model_validate_json((await client.get(at(search.job_id, "/archive"))).content)
    assert archive.members
    assert not any(m.is_pareto for m in archive.members)


async def test_a_job_without_a_baseline_has_an_empty_archive(client: httpx.AsyncClient, database: Database) -> None:
    job = await running_job(database)
    archive = (await client.get(at(job.job_id, "/archive"))).json()
    assert archive == {"is_published": False, "best_candidate_id": None, "members": [], "seeds": []}
    lineage = (await client.get(at(job.job_id, "/lineage"))).json()
    assert lineage == {"nodes": [], "edges": [], "truncated": False}


@pytest.mark.parametrize("name", SEARCHES)
async def test_the_lineage_is_the_graph_of_parents(client: httpx.AsyncClient, database: Database, name: str) -> None:
    search = await recorded_search(database, name)
    every = {each.candidate_id: each for each in await listed(client, search)}
    url: str | None = at(search.job_id, "/lineage?limit=4")
    nodes, edges = [], []
    while url is not None:
        answer = await client.get(url)
        part = LineageObject.model_validate_json(answer.content)
        url = answer.links.get("next", {}).get("url")
        assert part.truncated == (url is not None)
        assert len(part.nodes) <= 4
        nodes += part.nodes
        edges += part.edges
    assert [node.candidate_id for node in nodes] == list(every)
    assert [(e.parent, e.child) for e in edges] == [(p, c.candidate_id) for c in every.values() for p in c.parents]
    for node in nodes:
        shown = every[node.candidate_id]
        assert (node.score, node.num_seeds, node.status) == (shown.score, shown.num_seeds, shown.status)


async def test_pages_are_cut_and_linked_to_the_first(client: httpx.AsyncClient, database: Database) -> None:
    search = await recorded_search(database, "mipro_stages")
    url = at(search.job_id, "/candidates")
    assert len((await client.get(f"{url}?limit=99999")).json()) == 10
    first = await client.get(f"{url}?limit=2&status=rejected")
    assert first.links.keys() == {"next"}
    last = await client.get(f"{url}?limit=4&after=3")
    middle = await client.get(f"{url}?limit=4&after=1&status=baseline")
    assert last.links.keys() == {"next", "first"}
    assert middle.links.keys() == {"first"}
    assert (await client.get(last.links["first"]["url"])).json() == (await client.get(f"{url}?limit=4")).json()
    assert (await client.get(f"{url}?status=best")).status_code == 422
    assert (await client.get(at(search.job_id, "/lineage?limit=0"))).status_code == 422
