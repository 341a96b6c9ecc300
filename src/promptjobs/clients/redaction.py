"""What may be shown of foreign text: URLs and reply bodies without keys, credentials and tokens."""

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import SplitResult, urlsplit

import orjson

EXCERPT = 200
SCANNED = 4_000
"""Characters of a body that are looked at at all; enough to fill an excerpt after redaction."""

LONG_RUN = re.compile(r"[A-Za-z0-9_\-]{32,}")
URL_IN_TEXT = re.compile(r"https?://[^\s\"'<>\\]+")
BEARER = re.compile(r"(?i)\b(bearer|basic)\s+\S+")
SECRET_FIELD = re.compile(
    r"(?i)((?<![\w\-])[\w\-]*(?:api[_\-]?keys?|secret|token|password|authorization|prefix(?:es)?)[\"']?\s*[:=]\s*)"
    r"(\[[^\]]*\]|\"[^\"]*\"|'[^']*'|[^\s\"',}\]]+)"
)
"""A name is tried from its beginning alone: from every character of a long one would take quadratic time."""

SPACE = re.compile(r"[\s\x00-\x1f\x7f]+")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
LEAST_BLOTTED = 8
"""Characters of a secret that is taken out of whole texts: a shorter one stands in many words by chance."""

KEY_PART = re.compile(r"(?=[0-9]*[A-Za-z])(?=[A-Za-z]*[0-9])[A-Za-z0-9]{8,}|[A-Za-z0-9]{24,}")
"""What a key has and a name of several words has not: letters mixed with digits, or no end."""


def shown_url(url: str) -> str:
    """The URL without user, password, query and fragment; long path segments (tokens) are cut to six characters."""
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{_shown_host(parts)}{LONG_RUN.sub(_beginning, parts.path)}"
    except ValueError:
        return "(not a URL)"


def redacted(text: str, secrets: Iterable[str] = (), limit: int = EXCERPT) -> str:
    """One line of at most `limit` characters of `text` in which no secret is legible.

    Also a beginning of a secret is blotted out, as some servers repeat the first characters of the key they got.
    """
    text = LONG_RUN.sub(_beginning, _blotted(text[:SCANNED], secrets))
    return _cut(SPACE.sub(" ", text).strip(), limit)


def redacted_text(text: str, secrets: Iterable[str] = (), limit: int = EXCERPT) -> str:
    """`redacted` for what is to be read as a whole: lines stay, and so do long names of several words."""
    text = LONG_RUN.sub(_shortened_key, _blotted(text[: 4 * limit], secrets))
    return _cut(CONTROL.sub(" ", text).strip(), limit)


def redacted_body(body: bytes, secrets: Iterable[str] = (), limit: int = EXCERPT) -> str:
    """`redacted` for bytes that claim to be text."""
    return redacted(body[: 4 * SCANNED].decode("utf-8", "replace"), secrets, limit)


def without_repeated(value: Any, body: bytes, secrets: Iterable[str]) -> Any:
    """The JSON value that `body` holds, without the secrets that its sender was given and repeats, as a page for
    debugging does. Texts stay whole otherwise; names of fields are texts, too.
    """
    repeated = [each for each in secrets if len(each) >= LEAST_BLOTTED and orjson.dumps(each)[1:-1] in body]
    return _without(value, repeated) if repeated else value


def _without(value: Any, secrets: list[str]) -> Any:
    match value:
        case str():
            for secret in secrets:
                value = value.replace(secret, "[key]")
            return value
        case dict():
            return {_without(name, secrets): _without(inner, secrets) for name, inner in value.items()}
        case list():
            return [_without(inner, secrets) for inner in value]
        case _:
            return value


def _blotted(text: str, secrets: Iterable[str]) -> str:
    """Without the secrets, what is named like one, and the private parts of URLs."""
    for secret in secrets:
        if secret:
            text = re.sub(re.escape(secret[:6]) + r"[^\s\"',}\]]*", "[key]", text)
    text = BEARER.sub(r"\1 [key]", text)
    text = SECRET_FIELD.sub(r"\1[redacted]", text)
    return URL_IN_TEXT.sub(lambda found: shown_url(found[0]), text)


def _cut(text: str, limit: int) -> str:
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= limit else text[:limit] + "…"


def _shown_host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    bracketed = f"[{host}]" if ":" in host else host
    return bracketed if parts.port is None else f"{bracketed}:{parts.port}"


def _beginning(found: re.Match[str]) -> str:
    return found[0][:6] + "…"


def _shortened_key(found: re.Match[str]) -> str:
    return _beginning(found) if KEY_PART.search(found[0]) else found[0]
