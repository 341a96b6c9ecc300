"""What the package offers: two clients with the same methods, and nothing loaded before it is used."""

import inspect
import subprocess
import sys
from typing import Any

import pytest

import promptjobs
from promptjobs import AsyncClient, Client
from promptjobs.db.events import TERMINAL_TYPES
from promptjobs.db.jobs import JobStatus
from promptjobs.sdk.events import TERMINAL
from promptjobs.sdk.shapes import TERMINAL_STATUSES, Job


def methods(kind: type) -> dict[str, Any]:
    return {name: value for name, value in inspect.getmembers(kind) if not name.startswith("_") and callable(value)}


def parameters(method: Any) -> list[tuple[str, Any, Any, Any]]:
    found = inspect.signature(method).parameters.values()
    return [(each.name, each.kind, each.default, each.annotation) for each in found]


def test_both_clients_have_the_same_methods():
    assert methods(Client).keys() == methods(AsyncClient).keys()
    assert len(methods(Client)) > 40


@pytest.mark.parametrize("name", sorted(methods(Client)))
def test_a_method_takes_and_gives_the_same_in_both_clients(name: str):
    one, other = methods(Client)[name], methods(AsyncClient)[name]
    assert parameters(one) == parameters(other)
    given = inspect.signature(one).return_annotation
    answered = inspect.signature(other).return_annotation
    assert str(answered).replace("AsyncIterator", "Iterator") == str(given)
    is_iterator = "Iterator[" in str(given)
    assert inspect.iscoroutinefunction(other) is not is_iterator


def test_constructors_take_the_same():
    names = [[name for name, *_ in parameters(kind.__init__)] for kind in (Client, AsyncClient)]
    assert names[0] == names[1]


@pytest.mark.parametrize("module", ["promptjobs", "promptjobs.core.config", "promptjobs.errors"])
def test_the_service_loads_no_client(module: str):
    check = f"import {module}, sys; print([name for name in ('httpx', 'promptjobs.sdk') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_client_loads_nothing_of_the_service():
    check = (
        "import sys, promptjobs; promptjobs.Client; promptjobs.AsyncClient;"
        "print(sorted(name for name in sys.modules if name.startswith('promptjobs.')"
        " and not name.startswith(('promptjobs.sdk', 'promptjobs.errors'))),"
        " [name for name in ('pydantic', 'fastapi', 'sqlalchemy', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "[] []\n"


def test_every_name_that_is_offered_is_there():
    for name in promptjobs.__all__:
        assert getattr(promptjobs, name) is not None
    assert set(promptjobs.__all__) <= set(dir(promptjobs))
    with pytest.raises(AttributeError, match="no_such_name"):
        promptjobs.no_such_name  # noqa: B018 - the access is what is tested


def test_what_the_service_calls_final_the_client_calls_final():
    assert {status.value for status in JobStatus if status.is_terminal} == TERMINAL_STATUSES
    assert all(TERMINAL.fullmatch(name) for name in TERMINAL_TYPES)


def test_a_job_has_the_fields_that_the_service_documents():
    from promptjobs.api.job_schemas import JobObject

    assert Job.__annotations__.keys() == JobObject.model_fields.keys()
