"""Runs a small program over a prompt's messages, in an interpreter of its own that reaches nothing of this machine.

The interpreter is Monty: Python written in Rust, in a process that lives for one program. It has no files, network,
environment, clock or entropy, and is given no function of ours. The same program has the same outcome everywhere:
memory, depth and output are limited by counts, and its random numbers have a fixed seed. A time limit is the last
resort, a thousand times what a program over a prompt takes, since what it stops could end elsewhere.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from promptjobs.core.instruction_transforms import PythonOutcome, PythonRunner
from promptjobs.core.prompt import Message
from promptjobs.errors import NotReady

if TYPE_CHECKING:
    from pydantic_monty import OSPolicy, ResourceLimits

__all__ = ["PythonRunner", "run_python"]

MAX_PROGRAM_CHARACTERS = 20_000
MAX_RESULT_CHARACTERS = 200_000
"""Of all messages together; a prompt that is longer already may keep its length."""

MAX_SECONDS = 1.0
MAX_MEBIBYTES = 32
MAX_PRINTED_BYTES = 65_536
GRACE_SECONDS = 5.0
"""What the process has beyond MAX_SECONDS to start and to stop by itself."""

LIMITS: "ResourceLimits" = {
    "max_feed_duration_secs": MAX_SECONDS,
    "max_turn_duration_secs": MAX_SECONDS,
    "max_memory": MAX_MEBIBYTES * 1024 * 1024,
    "gc_interval": 10_000,
    "max_recursion_depth": 200,
    "max_suspensions": 100,
    "max_total_sleep_secs": 0.0,
}
# Nobody answers what is asked of the host: reading the clock is an error.
POLICY: "OSPolicy" = {
    "datetime": "call_host",
    "timezone": "utc",
    "sleep": "zero",
    "process_time": "zero",
    "random_start": {"seed": 0},
}
SHOWN = 300
REMEMBERED = 128


@lru_cache(REMEMBERED)
def run_python(code: str, messages: tuple[Message, ...]) -> PythonOutcome:
    """The messages that the program makes of `messages`, a list of {"role", "content"} that it finds under this name.

    Its last expression is the new list, or the variable `messages` where that has no value: as many messages, of the
    same roles, each with a text. Whatever else comes out, or nothing, is a fault. Blocks for MAX_SECONDS at most, and
    a few milliseconds as a rule. Raises NotReady where the interpreter is not installed.
    """
    if len(code) > MAX_PROGRAM_CHARACTERS:
        return PythonOutcome(None, f"a program may have {MAX_PROGRAM_CHARACTERS} characters, this one has {len(code)}")
    result, fault = _run(code, messages)
    return PythonOutcome(None, fault) if fault else _outcome(result, messages)


def _run(code: str, messages: tuple[Message, ...]) -> tuple[Any, str]:
    """What the program leaves, and "" or its fault."""
    # Loaded on first use: few jobs allow programs, and it takes as long to load as half of the service.
    from pydantic_monty import CollectString, Monty, MontyCrashedError, MontyError

    pool = Monty(
        min_processes=1, max_processes=1, checkout_timeout=GRACE_SECONDS, request_timeout=MAX_SECONDS + GRACE_SECONDS
    )
    try:
        with pool, pool.checkout(script_name="transform.py", limits=LIMITS, os_policy=POLICY) as session:
            printed = CollectString(max_bytes=MAX_PRINTED_BYTES)
            inputs = {"messages": [message.to_json() for message in messages]}
            result = session.feed_run(code, inputs=inputs, print_callback=printed)
            return (session.feed_run("messages") if result is None else result), ""
    except OSError as error:
        raise NotReady(f"python transforms need `monty`, which pydantic-monty-runtime installs: {error}") from error
    except MontyCrashedError:
        return None, "the interpreter broke off"
    except MontyError as error:
        return None, _said(error.exception(), str(error))


def _said(error: BaseException, text: str) -> str:
    """The program's error without figures that differ from run to run."""
    match error:
        case TimeoutError():
            return f"it takes longer than {MAX_SECONDS:g} s"
        case MemoryError():
            return f"it needs more than {MAX_MEBIBYTES} MiB, or prints more than {MAX_PRINTED_BYTES} bytes"
        case _:
            return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def _outcome(result: Any, messages: tuple[Message, ...]) -> PythonOutcome:
    if type(result) is not list or len(result) != len(messages):
        got = f"{len(result)} of them" if type(result) is list else type(result).__name__
        return PythonOutcome(None, f"it must leave a list of {len(messages)} messages, and leaves {got}")
    made = []
    for index, (new, old) in enumerate(zip(result, messages, strict=True)):
        if type(new) is not dict or new.keys() != {"role", "content"} or type(new["content"]) is not str:
            return PythonOutcome(None, f"message {index} must have a role and a content, which is text, and no more")
        if new["role"] != old.role:
            return PythonOutcome(None, f"message {index} must keep its role, {old.role!r}")
        made.append(Message(old.role, new["content"]))
    size, most = (sum(len(m.content) for m in each) for each in (made, messages))
    most = max(most, MAX_RESULT_CHARACTERS)
    if size > most:
        return PythonOutcome(None, f"its messages have {size} characters, at most {most} are allowed")
    return PythonOutcome(tuple(made))
