"""Keeps secrets out of log lines: by the name under which a value stands, and by what it looks like."""

import re
from collections.abc import Mapping
from typing import Any

REDACTED = "[redacted]"
MAX_DEPTH = 8

SECRET_NAME = re.compile(r"(?i)(^|[^a-z])(api[_-]?key|key|token|secret|password|passwd|authorization|cookie)$")
"""Names of fields. Counts are none: neither `prompt_tokens` nor `key_count`."""

_NAMED = r"(?:[\w-]*(?:api[_-]?key|secret|password|passwd|authorization|access[_-]?token|auth[_-]?token))"
SECRETS = (
    # URLs: user and password, the token of a rollout, and keys in the query.
    (re.compile(r"(://)[^/\s@\"']+@"), rf"\1{REDACTED}@"),
    (re.compile(r"(/interceptor/v1/)[^/\s\"'?]+"), rf"\1{REDACTED}"),
    (re.compile(r"(?i)([?&](?:key|token|sig|signature|[\w-]*api[_-]?key|access_token)=)[^&\s\"'#]+"), rf"\1{REDACTED}"),
    # Headers, with whatever stands between the scheme and its credentials.
    (re.compile(r"(?i)\b(bearer|basic)(?:\s|\\n|\\t)+[^\s\"',\\]+"), rf"\1 {REDACTED}"),
    # `name: value`, `name=value` and `"name": "value"`.
    (
        re.compile(rf"(?i)(?<![\w-])({_NAMED}\\?[\"']?\s*[:=]\s*)(?!\\?[\"']?\[redacted\])(\\?[\"'])?[^\s\"',}}\\&]+"),
        rf"\1\2{REDACTED}",
    ),
    # Our own keys and those of webhooks; providers' by their usual beginnings.
    (re.compile(r"(?<![A-Za-z0-9])(pj_|whsec_)[A-Za-z0-9_+/=-]{8,}"), rf"\1{REDACTED}"),
    (re.compile(r"(?<![A-Za-z0-9])((?:c?sk|xai|pplx)-|gsk_|hf_|AIza)[A-Za-z0-9_-]{8,}"), rf"\1{REDACTED}"),
)


def redacted(text: str) -> str:
    """`text` without what looks like a secret."""
    for secret, instead in SECRETS:
        text = secret.sub(instead, text)
    return text


def redacted_value(name: str, value: Any, depth: int = 0) -> Any:
    """A field's value for a log: numbers, booleans and None stay what they are, mappings and lists keep their form.

    Everything else becomes a text.
    """
    if SECRET_NAME.search(name):
        return REDACTED
    match value:
        case None | bool() | int():
            return value
        case float():
            # JSON knows no infinity, and no NaN.
            return value if value - value == 0 else str(value)
        case Mapping() if depth < MAX_DEPTH:
            return {redacted(str(key)): redacted_value(str(key), each, depth + 1) for key, each in value.items()}
        case list() | tuple() | set() | frozenset() if depth < MAX_DEPTH:
            return [redacted_value("", each, depth + 1) for each in value]
        case bytes():
            return redacted(value.decode("utf-8", "replace"))
        case _:
            return redacted(str(value))
