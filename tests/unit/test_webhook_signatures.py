"""Signatures are those of the specification, and the documented receivers take them, and nothing else."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from standardwebhooks import Webhook

from promptjobs.clients.webhooks import SignedMessage, new_secret, signature_of

Receive = Callable[[str, dict[str, str], bytes], Any]
DOCUMENT = Path(__file__).parents[2] / "docs" / "webhooks.md"


def documented() -> list[Receive]:
    receivers = []
    for source in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL):
        names: dict[str, Any] = {}
        exec(compile(source, str(DOCUMENT), "exec"), names)  # noqa: S102 - the documentation is ours
        receivers.append(names["receive"])
    return receivers


RECEIVERS = documented()


def test_the_signature_is_that_of_the_specification() -> None:
    """The test vector of its reference libraries."""
    secret = SecretStr("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = signature_of(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, '{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(body=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_body_verifies_with_the_reference_library(body: str) -> None:
    secret = new_secret()
    message = SignedMessage("msg_1", int(time.time()), body, secret)
    Webhook(secret.get_secret_value()).verify(body.encode(), message.headers, json_parse=False)


def test_both_ways_to_receive_are_documented() -> None:
    assert len(RECEIVERS) == 2


@pytest.mark.parametrize("receive", RECEIVERS)
def test_a_documented_receiver_takes_what_is_ours_and_nothing_else(receive: Receive) -> None:
    secret, body = new_secret(), '{"type": "job.failed", "data": {"error": "é"}}'
    message = SignedMessage("msg_1", int(time.time()), body, secret)
    sealed, headers = secret.get_secret_value(), message.headers
    assert receive(sealed, headers, body.encode())["data"] == {"error": "é"}
    old = SignedMessage("msg_1", int(time.time()) - 600, body, secret).headers
    several = {"webhook-signature": f"v1,AAAA {headers['webhook-signature']}"}
    assert receive(sealed, headers | several, body.encode())["type"] == "job.failed"
    for other_secret, other_headers, other_body in (
        (new_secret().get_secret_value(), headers, body),
        (sealed, headers | {"webhook-id": "msg_2"}, body),
        (sealed, old, body),
        (sealed, headers, body.replace("failed", "passed")),
    ):
        with pytest.raises(Exception, match=r"(?i)signature|old"):
            receive(other_secret, other_headers, other_body.encode())
