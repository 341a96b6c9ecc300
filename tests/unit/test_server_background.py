"""A part that ends takes the process with it, and says why."""

import asyncio

import pytest

from promptjobs.api.parts import Background


async def fails() -> None:
    raise ZeroDivisionError("a defect")


async def ends() -> None:
    pass


@pytest.mark.parametrize("work", [fails, ends])
async def test_a_part_that_ends_by_itself_ends_the_process(work) -> None:
    background, left = Background(), asyncio.Event()
    background.ends_by(left.set)
    task = background.start("part", work())
    await asyncio.wait({task})
    await left.wait()
    if work is fails:
        with pytest.raises(ZeroDivisionError):
            background.result()
    else:
        background.result()


async def test_a_part_that_ended_before_anybody_could_be_told_ends_the_process_too() -> None:
    background, left = Background(), asyncio.Event()
    await asyncio.wait({background.start("part", ends())})
    background.ends_by(left.set)
    assert left.is_set()


async def test_parts_that_run_have_no_result_yet() -> None:
    background, go_on = Background(), asyncio.Event()

    async def waits() -> None:
        await go_on.wait()

    task = background.start("part", waits())
    background.result()
    go_on.set()
    await task
