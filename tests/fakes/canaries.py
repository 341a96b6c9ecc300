"""Secrets that are looked for wherever they must not be: as they are, in base64, in hexadecimal, and escaped."""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote


def forms_of(secret: str) -> set[str]:
    """How a text would give the secret away; in base64 wherever it could begin in a longer one."""
    raw = secret.encode()
    found = {secret, secret[:-4], raw.hex(), quote(secret, safe="")}
    for offset in range(3):
        shifted = base64.b64encode(bytes(offset) + raw).decode()
        inner = shifted[4 if offset else 0 : len(shifted) // 4 * 4 - 4]
        found |= {inner, inner.replace("+", "-").replace("/", "_")}
    return found


@dataclass
class Canaries:
    """secrets: by where each was put. They are unlike each other and like no usual key, so that no pattern helps."""

    secrets: dict[str, str] = field(default_factory=dict)

    def put(self, place: str, secret: str | None = None) -> str:
        """A secret for this place: its own, or a new one."""
        found = secret or f"cnry{len(self.secrets):02d}.{place.replace(' ', '.')}.wLq"
        self.secrets[place] = found
        return found

    def found_in(self, texts: Mapping[str, str]) -> list[tuple[str, str]]:
        """Which were found where. texts: by where they are from."""
        return [
            (place, where)
            for place, secret in self.secrets.items()
            for where, text in texts.items()
            if _holds(text, forms_of(secret))
        ]


def _holds(text: str, forms: Iterable[str]) -> bool:
    return any(form in text for form in forms)
