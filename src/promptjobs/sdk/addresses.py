"""Where the service is, and how to ask there: its URL and the key, checked before anything is sent."""

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

from promptjobs.errors.client import ArgumentInvalid

DEFAULT_URL = "http://127.0.0.1:8700"
MAX_KEY = 1000
SENDABLE_KEY = re.compile(r"[\x21-\x7e]+")


def checked_url(url: str) -> str:
    """The URL without a slash at its end. Raises ArgumentInvalid for what is no http(s) URL, or holds a password."""
    try:
        parts = urlsplit(url)
        is_http = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        is_usable = is_http and not re.search(r"[\s\x00-\x1f]", url) and not parts.query and not parts.fragment
        has_credentials = "@" in parts.netloc
    except ValueError:
        is_usable = has_credentials = False
    if has_credentials:
        raise ArgumentInvalid("url", "a URL may not hold a user or password: errors and logs would show it")
    if not is_usable:
        raise ArgumentInvalid("url", f"expected an address such as {DEFAULT_URL}, got {url!r}")
    return url.rstrip("/")


def checked_key(api_key: str | None) -> str | None:
    """None for an empty one. Raises ArgumentInvalid, which does not tell the key."""
    if not api_key:
        return None
    if len(api_key) > MAX_KEY or SENDABLE_KEY.fullmatch(api_key) is None:
        raise ArgumentInvalid("api_key", "expected visible ASCII characters only")
    return api_key


def is_loopback(url: str) -> bool:
    """Whether the URL names this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
